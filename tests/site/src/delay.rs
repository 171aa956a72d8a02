//! Delay on the link: a toxiproxy server in the site's namespace, which connections to the servers are diverted to.
//!
//! The kernel's own means (netem) is missing in some kernels.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::command::{run, run_with_input, wait_until};
use crate::member::Member;
use crate::network::{DEADLINE, SITE_GATEWAY, WAN_LINK_DEVICE, WAN_NAMESPACE, iptables};
use crate::process::Process;
use crate::state::State;

/// The name of the record of the proxy's process.
pub(crate) const PROCESS: &str = "toxiproxy";
const API: &str = "127.0.0.1:8474";
const POLL: Duration = Duration::from_millis(20);

pub(crate) fn set(state: &State, program: Option<&Path>, one_way: Duration) -> Result<()> {
    let program = program
        .context("the link cannot be delayed: give the program of the toxiproxy server when the site is brought up")?;
    if !Process::recorded(&state.process_record(PROCESS)).is_some_and(Process::is_alive) {
        start(state, program)?;
    }
    delay_proxies(one_way)?;
    undivert()?;
    for member in Member::ALL {
        let (address, proxy) = (member.address().to_string(), listen_address(member));
        let matched = [
            "--in-interface",
            WAN_LINK_DEVICE,
            "--destination",
            &address,
            "--protocol",
            "tcp",
            "--dport",
            "5432",
        ];
        let diversion = ["--jump", "DNAT", "--to-destination", &proxy];
        iptables(
            Some(WAN_NAMESPACE),
            ["--table", "nat", "--append", "PREROUTING"]
                .into_iter()
                .chain(matched)
                .chain(diversion),
        )?;
    }
    Ok(())
}

/// The proxy stays, because connections through it would break with it.
pub(crate) fn clear(state: &State) -> Result<()> {
    undivert()?;
    if Process::recorded(&state.process_record(PROCESS)).is_some_and(Process::is_alive) {
        delay_proxies(Duration::ZERO)?;
    }
    Ok(())
}

fn undivert() -> Result<()> {
    iptables(Some(WAN_NAMESPACE), ["--table", "nat", "--flush", "PREROUTING"]).map(drop)
}

fn listen_address(member: Member) -> String {
    format!("{SITE_GATEWAY}:1543{}", member.number())
}

fn start(state: &State, program: &Path) -> Result<()> {
    let log = File::create(state.path("toxiproxy.log"))?;
    let (host, port) = API.split_once(':').context("the proxy's own address has no port")?;
    let mut child = Command::new("setsid")
        .args(["nsenter", &format!("--net=/run/netns/{WAN_NAMESPACE}")])
        .arg(program)
        .args(["-host", host, "-port", port])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot run setsid: install util-linux")?;
    let process = i32::try_from(child.id())
        .ok()
        .and_then(Process::running)
        .context("the toxiproxy server ended at once")?;
    process.record(&state.process_record(PROCESS))?;
    std::thread::spawn(move || child.wait());
    let what = format!(
        "an answer of {} (see {})",
        program.display(),
        state.path("toxiproxy.log").display()
    );
    wait_until(&what, DEADLINE, POLL, || request("GET", "version", None).map(|_| true))?;
    for member in Member::ALL {
        let upstream = format!("{}:5432", member.address());
        let proxy =
            json!({ "name": member.name(), "listen": listen_address(member), "upstream": upstream, "enabled": true });
        request("POST", "proxies", Some(&proxy))?;
        for stream in ["upstream", "downstream"] {
            let toxic = json!({ "name": stream, "type": "latency", "stream": stream, "attributes": { "latency": 0 } });
            request("POST", &format!("proxies/{member}/toxics"), Some(&toxic))?;
        }
    }
    Ok(())
}

fn delay_proxies(one_way: Duration) -> Result<()> {
    let milliseconds = u64::try_from(one_way.as_millis()).context("the delay is too long")?;
    let toxic = json!({ "attributes": { "latency": milliseconds } });
    for member in Member::ALL {
        for stream in ["upstream", "downstream"] {
            request("POST", &format!("proxies/{member}/toxics/{stream}"), Some(&toxic))?;
        }
    }
    Ok(())
}

fn request(method: &str, path: &str, body: Option<&serde_json::Value>) -> Result<String> {
    let address = format!("http://{API}/{path}");
    let inside = [
        "netns",
        "exec",
        WAN_NAMESPACE,
        "curl",
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--request",
        method,
    ];
    let sent = body.map(|_| ["--data", "@-"]);
    let arguments = inside
        .into_iter()
        .chain(sent.iter().flatten().copied())
        .chain([address.as_str()]);
    match body {
        Some(body) => run_with_input(DEADLINE, "ip", arguments, &body.to_string()),
        None => run(DEADLINE, "ip", arguments),
    }
}
