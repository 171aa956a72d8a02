//! Long-running components: started once, known by process id and start time, so that a process id used again is never taken for one.

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use procfs::FromRead as _;
use procfs::process::{Process, Stat};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cache;
use crate::command;
use crate::state::State;
use crate::wait;

/// Writes the process's own record, then becomes the component: there is no moment at which a component runs unrecorded.
const RECORD_AND_BECOME: &str =
    r#"{ cat /proc/$$/stat && echo "$1"; } > "$2.new" && mv "$2.new" "$2" && shift 2 && exec "$@""#;

/// A program with its arguments, under a name of its own.
#[derive(Debug)]
pub(crate) struct Component {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Further text that the component depends on, such as its configuration file: a change restarts it.
    pub(crate) configuration: String,
}

/// Which process a component runs as.
#[derive(Debug)]
struct Record {
    pid: i32,
    /// Clock ticks from the start of the host to the start of the process.
    start: u64,
    fingerprint: String,
}

impl Component {
    fn fingerprint(&self) -> String {
        let program = self.program.to_string_lossy();
        let arguments = self.arguments.join("\0");
        cache::digest(&[program.as_bytes(), arguments.as_bytes(), self.configuration.as_bytes()])
    }

    /// Starts the component, unless it runs already with the same arguments; answers whether it was started.
    pub(crate) fn start(&self, state: &State) -> Result<bool> {
        let fingerprint = self.fingerprint();
        if running(state, self.name).is_some_and(|record| record.fingerprint == fingerprint) {
            return Ok(false);
        }
        stop(state, self.name, Duration::from_secs(10))?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log(state, self.name))?;
        let mut child = Command::new("setsid")
            .args(["sh", "-c", RECORD_AND_BECOME, "sh", &fingerprint])
            .arg(record_file(state, self.name))
            .arg(&self.program)
            .args(&self.arguments)
            .current_dir(state.root())
            // The control plane shares two cores with the servers that are measured: it collects its garbage later, for memory that is
            // there. A write of a ClusterMigration's status took the API server 13 ms of processor time instead of 19.
            .env("GOGC", "400")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        // Takes note of its end, so that no zombie stays for as long as this process lives.
        thread::spawn(move || child.wait());
        let what = format!("the process of {}", self.name);
        wait::until(
            &what,
            Duration::from_secs(10),
            "see whether the host is overloaded",
            || Ok(running(state, self.name).is_some()),
        )?;
        Ok(true)
    }
}

/// Whether the component `name` runs.
pub(crate) fn is_running(state: &State, name: &str) -> bool {
    running(state, name).is_some()
}

/// Removes the records of components that have ended, so that they count as not started.
pub(crate) fn forget_ended(state: &State, names: &[&str]) -> Result<()> {
    for name in names {
        let record = record_file(state, name);
        if !is_running(state, name) && record.exists() {
            fs::remove_file(record)?;
        }
    }
    Ok(())
}

/// Errors with the last lines of its log when the component `name` does not run.
pub(crate) fn ensure_running(state: &State, name: &str) -> Result<()> {
    if is_running(state, name) {
        return Ok(());
    }
    let log = log(state, name);
    let tail = command::last_lines(&fs::read_to_string(&log).unwrap_or_default(), 8);
    bail!("{name} has ended; see {}, which closes with\n{tail}", log.display())
}

/// Ends the component `name`, if it runs: it is asked to, and killed after `grace`.
pub(crate) fn stop(state: &State, name: &str, grace: Duration) -> Result<()> {
    if let Some(record) = running(state, name) {
        end(record.pid, record.start, grace).with_context(|| format!("cannot stop {name}"))?;
    }
    forget_ended(state, &[name])
}

/// Ends the process that has this id and was started at this time; does nothing when there is none.
pub(crate) fn end(pid: i32, start: u64, grace: Duration) -> Result<()> {
    let Some(id) = Pid::from_raw(pid) else { return Ok(()) };
    // The descriptor stays with the process: once the start time is compared, the signals reach this process or none.
    let Ok(process) = pidfd_open(id, PidfdFlags::empty()) else {
        return Ok(());
    };
    if start_time(pid) != Some(start) {
        return Ok(());
    }
    for (signal, limit) in [(Signal::TERM, grace), (Signal::KILL, Duration::from_secs(10))] {
        // An error means that the process has ended meanwhile.
        if pidfd_send_signal(&process, signal).is_err() || ended_within(&process, limit)? {
            return Ok(());
        }
    }
    bail!("process {pid} does not end; see what it waits for in /proc/{pid}/stack")
}

/// When the living process `pid` was started; nothing when it has ended.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = Process::new(pid).ok()?.stat().ok()?;
    (!matches!(stat.state, 'Z' | 'X')).then_some(stat.starttime)
}

fn ended_within(process: &OwnedFd, limit: Duration) -> Result<bool> {
    let timeout = Timespec::try_from(limit)?;
    Ok(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout))? > 0)
}

fn running(state: &State, name: &str) -> Option<Record> {
    let text = fs::read_to_string(record_file(state, name)).ok()?;
    let (stat, fingerprint) = text.trim_end().split_once('\n')?;
    let stat = Stat::from_read(stat.as_bytes()).ok()?;
    (start_time(stat.pid)? == stat.starttime).then(|| Record {
        pid: stat.pid,
        start: stat.starttime,
        fingerprint: fingerprint.to_owned(),
    })
}

fn record_file(state: &State, name: &str) -> PathBuf {
    state.path("run").join(name)
}

fn log(state: &State, name: &str) -> PathBuf {
    state.path("logs").join(format!("{name}.log"))
}
