//! A process known by its id and start time, so that a reused id is never taken for it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::command::wait_until;

const END_DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// Positions in /proc/PID/stat, counted after the name of the program.
const STATE: usize = 0;
const START_TIME: usize = 19;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// In clock ticks since the host started.
    start: u64,
}

impl Process {
    /// The process that has this id now.
    pub(crate) fn running(pid: i32) -> Option<Self> {
        let (state, start) = stat(pid)?;
        (state != "Z").then_some(Self { pid, start })
    }

    /// The process recorded in a file as "pid start"; none if there is no such file.
    pub(crate) fn recorded(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            start: start.parse().ok()?,
        })
    }

    pub(crate) fn record(self, file: &Path) -> Result<()> {
        fs::write(file, format!("{} {}\n", self.pid, self.start))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::running(self.pid) == Some(self)
    }

    /// Ends the process at once and waits for that; nothing to do if it has ended already.
    pub(crate) fn kill(self) -> Result<()> {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may end between the look and the signal, so only what is seen afterwards counts.
            let _ = kill_process(pid, Signal::KILL);
        }
        wait_until(
            &format!("process {} to end after SIGKILL", self.pid),
            END_DEADLINE,
            POLL,
            || Ok(!self.is_alive()),
        )
    }
}

fn stat(pid: i32) -> Option<(String, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = text.rsplit_once(')')?.1;
    let fields = after_name.split_whitespace().collect::<Vec<_>>();
    Some(((*fields.get(STATE)?).to_owned(), fields.get(START_TIME)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_id_is_not_the_recorded_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        let now = Process::running(own).unwrap();
        assert!(now.is_alive());
        let earlier = Process {
            start: now.start - 1,
            ..now
        };
        assert!(!earlier.is_alive());
        // Killing what is gone must not touch the process that has the id now, here the test itself.
        earlier.kill().unwrap();
    }
}
