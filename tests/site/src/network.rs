//! The site's network: one namespace per machine, one for the bridge, and the pair of devices that joins it with the host.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::{run, run_with_input};
use crate::member::Member;
use crate::process::Process;

/// The namespace with the site's bridge.
pub const WAN_NAMESPACE: &str = "mitosis-wan";
/// The host's end of the link: all traffic between the sites passes it.
pub const LINK_DEVICE: &str = "mitosis-link";
/// The network of the site's machines.
pub const SITE_NETWORK: &str = "10.20.0.0/24";
/// The gateway of the site's machines; connections through a delayed link come from it.
pub const SITE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
/// The host's address on the link.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 21, 0, 1);
/// The site's address on the link.
pub const WAN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 21, 0, 2);
/// The network of the other site's pods, which the servers admit.
pub const POD_NETWORK: &str = "10.244.0.0/16";

/// The name of the link's device inside the site's namespace.
pub(crate) const WAN_LINK_DEVICE: &str = "uplink";
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Makes everything anew; call [`remove`] first.
pub(crate) fn create() -> Result<()> {
    run(DEADLINE, "ip", ["netns", "add", WAN_NAMESPACE])?;
    batch(
        None,
        &format!(
            "link add {LINK_DEVICE} type veth peer name {WAN_LINK_DEVICE} netns {WAN_NAMESPACE}
             address add {HOST_ADDRESS}/24 dev {LINK_DEVICE}
             link set {LINK_DEVICE} up"
        ),
    )?;
    batch(
        Some(WAN_NAMESPACE),
        &format!(
            "link set lo up
             address add {WAN_ADDRESS}/24 dev {WAN_LINK_DEVICE}
             link set {WAN_LINK_DEVICE} up
             link add site type bridge
             address add {SITE_GATEWAY}/24 dev site
             link set site up
             route add default via {HOST_ADDRESS}"
        ),
    )?;
    batch(None, &format!("route add {SITE_NETWORK} via {WAN_ADDRESS}"))?;
    for member in Member::ALL {
        let namespace = member.namespace();
        run(DEADLINE, "ip", ["netns", "add", &namespace])?;
        batch(
            Some(WAN_NAMESPACE),
            &format!(
                "link add {member} type veth peer name eth0 netns {namespace}
                 link set {member} master site up"
            ),
        )?;
        batch(
            Some(&namespace),
            &format!(
                "link set lo up
                 address add {}/24 dev eth0
                 link set eth0 up
                 route add default via {SITE_GATEWAY}",
                member.address()
            ),
        )?;
    }
    forward()
}

/// Removes everything [`create`] made, and ends what still runs in the namespaces; nothing to do if nothing is there.
pub(crate) fn remove() -> Result<()> {
    for direction in ["--in-interface", "--out-interface"] {
        while iptables(None, ["--check", "FORWARD", direction, LINK_DEVICE, "--jump", "ACCEPT"]).is_ok() {
            iptables(
                None,
                ["--delete", "FORWARD", direction, LINK_DEVICE, "--jump", "ACCEPT"],
            )?;
        }
    }
    let existing = run(DEADLINE, "ip", ["netns", "list"])?;
    let namespaces = Member::ALL
        .map(Member::namespace)
        .into_iter()
        .chain([WAN_NAMESPACE.to_owned()]);
    for namespace in namespaces.filter(|name| existing.lines().any(|line| line.split(' ').next() == Some(name))) {
        for pid in run(DEADLINE, "ip", ["netns", "pids", &namespace])?
            .lines()
            .filter_map(|pid| pid.parse().ok())
        {
            Process::running(pid).map_or(Ok(()), Process::kill)?;
        }
        run(DEADLINE, "ip", ["netns", "delete", &namespace])?;
    }
    // It ends with its peer's namespace, but not at the same moment.
    if fs::exists(format!("/sys/class/net/{LINK_DEVICE}"))? {
        let _ = run(DEADLINE, "ip", ["link", "delete", LINK_DEVICE]);
    }
    Ok(())
}

/// Runs iptables on the host or in a namespace.
pub(crate) fn iptables<'a>(namespace: Option<&'a str>, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
    let inside = namespace.map(|namespace| ["netns", "exec", namespace, "iptables", "--wait"]);
    match inside {
        Some(inside) => run(DEADLINE, "ip", inside.into_iter().chain(arguments)),
        None => run(DEADLINE, "iptables", ["--wait"].into_iter().chain(arguments)),
    }
}

/// The host forwards between the site and the pods; forwarding stays on afterwards because others may need it by then.
fn forward() -> Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot switch IP forwarding on: run as root")?;
    run(
        DEADLINE,
        "ip",
        [
            "netns",
            "exec",
            WAN_NAMESPACE,
            "sh",
            "-c",
            "echo 1 >/proc/sys/net/ipv4/ip_forward",
        ],
    )?;
    for direction in ["--in-interface", "--out-interface"] {
        iptables(
            None,
            ["--insert", "FORWARD", direction, LINK_DEVICE, "--jump", "ACCEPT"],
        )?;
    }
    Ok(())
}

fn batch(namespace: Option<&str>, commands: &str) -> Result<()> {
    let namespace = namespace.map(|namespace| ["-netns", namespace]);
    run_with_input(
        DEADLINE,
        "ip",
        namespace.iter().flatten().chain(["-batch", "-"].iter()),
        commands,
    )
    .map(drop)
}
