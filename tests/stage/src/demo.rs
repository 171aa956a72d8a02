//! The demonstration: one complete migration under write load, judged from outside.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{Load, Migration, Servers, Stage};

/// Scale of pgbench's data: 10 is 1,000,000 accounts, about 150 MB.
const SCALE: u32 = 10;

/// Runs the demonstration for a major version of PostgreSQL.
///
/// # Errors
/// The migration did not come to its end, or something is lost or duplicated.
pub fn run(major: u8) -> Result<()> {
    let stage = Stage::up(major)?;
    stage.reset()?;
    title("A ClusterMigration is applied at Replicating");
    let example = stage.example()?;
    println!("{example}");
    stage.cluster.apply(&example)?;
    let migration = Migration::new(&stage, "shop");
    let began = Instant::now();
    crate::until("HAProxy leads clients to the source", Duration::from_secs(90), || {
        Ok(!migration.status("/phase")?.is_empty()
            && stage
                .kubectl(&[
                    "get",
                    "endpoints",
                    "shop-haproxy",
                    "-o",
                    "jsonpath={.subsets[*].addresses[*].ip}",
                ])
                .is_ok_and(|ips| !ips.is_empty()))
    })?;
    stage.start_load(Load::mixed(SCALE))?;
    title("The target is cloned and follows");
    watch(&stage, &migration, "Replicating", Duration::from_secs(300))?;
    let servers = stage.servers()?;
    title(&format!(
        "Topology before the switch, {} s after the beginning",
        began.elapsed().as_secs()
    ));
    topology(&servers)?;
    title("The fire button: spec.phase is set to Switched");
    migration.patch(r#"{"spec":{"phase":"Switched"}}"#)?;
    watch(&stage, &migration, "Switched", Duration::from_secs(120))?;
    title("Certificate");
    println!(
        "{}",
        stage.kubectl(&[
            "get",
            "clustermigration",
            "shop",
            "-o",
            "jsonpath-as-json={.status.switchover.certificate}"
        ])?
    );
    title("Steps of the switchover");
    println!(
        "{}",
        stage.kubectl(&[
            "get",
            "clustermigration",
            "shop",
            "-o",
            r#"jsonpath={range .status.switchover.steps[*]}{.startTime}  {.step}: {.because}{"\n"}{end}"#
        ])?
    );
    title("Topology after the switch, asked by SQL");
    topology(&servers)?;
    title("kubectl describe clustermigration shop");
    println!("{}", stage.kubectl(&["describe", "clustermigration", "shop"])?);
    title("The ledger's verdict on all six servers");
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    println!("{report}");
    ensure!(report.good, "rows were lost or duplicated");
    Ok(())
}

fn title(text: &str) {
    println!("\n=== {text}");
}

fn watch(stage: &Stage, migration: &Migration<'_>, phase: &str, limit: Duration) -> Result<()> {
    let mut last = String::new();
    let end = Instant::now() + limit;
    loop {
        let line = stage.kubectl(&["get", "clustermigration", "shop", "-o", "wide", "--no-headers"])?;
        let line = line.trim().to_owned();
        if line != last {
            stage.say("watch", &line);
            last = line;
        }
        if migration.wait_ready(phase, Duration::ZERO).is_ok() {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "the migration did not reach {phase} within {} s: {last}",
            limit.as_secs()
        );
        thread::sleep(Duration::from_millis(500));
    }
}

fn topology(servers: &Servers) -> Result<()> {
    for name in servers.names() {
        let state = servers.state(name)?;
        let role = if state.in_recovery { "standby" } else { "primary" };
        let upstream = if state.in_recovery {
            format!("streams {} from {}", state.streams, state.upstream)
        } else {
            String::new()
        };
        println!("{name:8} {role:8} timeline {}  {upstream}", state.timeline);
    }
    Ok(())
}
