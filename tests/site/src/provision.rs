//! Making the disks of a fresh site once, and copying them for every later start.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::{run, wait_until};
use crate::configuration;
use crate::machine::Machine;
use crate::member::Member;
use crate::server::StopMode;
use crate::state::{Credentials, Running, State, remove_folder};

const INITDB_DEADLINE: Duration = Duration::from_mins(2);
const CLONE_DEADLINE: Duration = Duration::from_mins(2);
const COPY_DEADLINE: Duration = Duration::from_mins(2);
const STREAMING_DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Gives the machines, which must be off, fresh disks, and starts machines and servers.
pub(crate) fn start_fresh(state: &State, machines: &[Machine; 3], running: &Running) -> Result<()> {
    let pristine = state.path(&format!("pristine-{}", running.major));
    let stamp = pristine.join("fingerprint");
    let fingerprint = configuration::fingerprint(running.major, &running.rootfs);
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&fingerprint) {
        remove_folder(&pristine)?;
        build(state, machines, running)?;
        fs::rename(state.disks(), &pristine)?;
        // Written last: a killed build is not taken for a finished one.
        fs::write(&stamp, fingerprint)?;
    }
    state.remove_disks()?;
    fs::create_dir_all(state.disks())?;
    let (from, to) = (pristine.as_os_str(), state.disks());
    let names = Member::ALL.map(|member| pristine.join(member.name()));
    run(
        COPY_DEADLINE,
        "cp",
        ["--archive", "--reflink=auto", "--target-directory"]
            .iter()
            .map(AsRef::as_ref)
            .chain([to.as_os_str()])
            .chain(names.iter().map(AsRef::as_ref)),
    )
    .with_context(|| format!("cannot copy the disks from {}", from.display()))?;
    on_all(machines, |machine| {
        machine.power_on()?;
        machine.start()
    })?;
    wait_streaming(machines)
}

fn build(state: &State, machines: &[Machine; 3], running: &Running) -> Result<()> {
    state.remove_disks()?;
    let credentials = state.credentials()?;
    for machine in machines {
        let upper = state.disk(machine.member).join("upper");
        configuration::write(state, &upper, machine.member, running.major, &running.rootfs)?;
        machine.power_on()?;
        // The package may have made a cluster of its own when it was installed.
        let data = machine.data();
        machine.shell(
            &format!("rm -rf {data} && install -d -m 700 -o postgres -g postgres {data}"),
            COPY_DEADLINE,
        )?;
    }
    let [a1, standbys @ ..] = machines;
    let initdb = [
        &a1.program("initdb"),
        "-D",
        &a1.data(),
        "-k",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "-A",
        "peer",
        "--no-sync",
    ];
    a1.run("postgres", &initdb, "", INITDB_DEADLINE)?;
    a1.start()?;
    a1.psql("postgres", &roles_and_slots(&credentials))?;
    on_all(standbys, |standby| clone(standby, &credentials))?;
    wait_streaming(machines)?;
    // The primary first: it waits until the standbys have all of its log.
    for machine in machines {
        machine.stop(StopMode::Fast)?;
        machine.shell("sync; rm -f /var/log/postgresql/*", COPY_DEADLINE)?;
        machine.power_off()?;
        // The kernel owns this folder; it is made anew at the next start.
        remove_folder(&state.disk(machine.member).join("work"))?;
    }
    Ok(())
}

fn roles_and_slots(credentials: &Credentials) -> String {
    let Credentials { mitosis, app, replica } = credentials;
    format!(
        "CREATE ROLE mitosis SUPERUSER LOGIN PASSWORD '{mitosis}';
         CREATE ROLE app LOGIN PASSWORD '{app}';
         CREATE ROLE replica LOGIN REPLICATION PASSWORD '{replica}';
         CREATE DATABASE app OWNER app;
         SELECT pg_create_physical_replication_slot('a2', true);
         SELECT pg_create_physical_replication_slot('a3', true);"
    )
}

fn clone(standby: &Machine, credentials: &Credentials) -> Result<()> {
    let primary = Member::A1.host_name();
    let name = standby.member.name();
    let source = format!(
        "host={primary} user=replica password={} sslmode=verify-full sslrootcert=/etc/ssl/mitosis/ca.crt application_name={name}",
        credentials.replica
    );
    let program = standby.program("pg_basebackup");
    let data = standby.data();
    let command = [
        &program,
        "-d",
        &source,
        "-D",
        &data,
        "-R",
        "-S",
        name,
        "-X",
        "stream",
        "-c",
        "fast",
        "--no-sync",
    ];
    standby.run("postgres", &command, "", CLONE_DEADLINE)?;
    standby.start()
}

/// Both standbys receive from a1.
fn wait_streaming(machines: &[Machine; 3]) -> Result<()> {
    wait_until(
        "both standbys to stream from a1 (see their logs)",
        STREAMING_DEADLINE,
        POLL,
        || {
            let count = machines[0].psql(
                "postgres",
                "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'",
            )?;
            Ok(count == "2")
        },
    )
}

/// Does the same on several machines at once.
pub(crate) fn on_all(machines: &[Machine], action: impl Fn(&Machine) -> Result<()> + Sync) -> Result<()> {
    let action = &action;
    std::thread::scope(|scope| {
        let started = machines
            .iter()
            .map(|machine| scope.spawn(move || action(machine)))
            .collect::<Vec<_>>();
        started
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
