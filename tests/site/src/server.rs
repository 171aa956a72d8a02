//! The server in a machine: start, stop, faults, SQL.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::wait_until;
use crate::machine::Machine;

const START_DEADLINE: Duration = Duration::from_mins(1);
const STOP_SECONDS: u64 = 60;
const SIGNAL_DEADLINE: Duration = Duration::from_secs(10);
const SQL_DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for sessions to end by themselves.
    Smart,
    /// Ends the sessions, then stops cleanly.
    Fast,
    /// Stops without a checkpoint, as after a crash.
    Immediate,
}

impl StopMode {
    fn name(self) -> &'static str {
        match self {
            Self::Smart => "smart",
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

impl Machine {
    /// Starts the server and waits until it accepts sessions. Nothing to do if it runs.
    pub fn start(&self) -> Result<()> {
        self.tell("start")?;
        let what = format!("server {} to accept sessions (see its log)", self.member);
        wait_until(&what, START_DEADLINE, POLL, || self.accepts_sessions())
    }

    /// Stops the server; the supervisor does not start it again whatever its policy. Nothing to do if it does not run.
    pub fn stop(&self, mode: StopMode) -> Result<()> {
        self.tell("stop")?;
        if !self.is_running()? {
            return Ok(());
        }
        let seconds = STOP_SECONDS.to_string();
        let command = [
            &self.program("pg_ctl"),
            "stop",
            "-D",
            &self.data(),
            "-w",
            "-t",
            &seconds,
            "-m",
            mode.name(),
        ];
        let stopped = self.run("postgres", &command, "", Duration::from_secs(STOP_SECONDS + 5));
        // A server that ended between the look and the command is stopped as well.
        if stopped.is_err() && !self.is_running()? {
            Ok(())
        } else {
            stopped.map(drop)
        }
    }

    /// Ends every process of the server at once with SIGKILL. With the policy to restart, the supervisor starts it again.
    pub fn kill(&self) -> Result<()> {
        self.signal_all("KILL")
    }

    /// Freezes every process in the machine but the supervisor (SIGSTOP); the kernel goes on answering for them on the network.
    pub fn pause(&self) -> Result<()> {
        self.signal_all("STOP")
    }

    /// Lets frozen processes go on.
    pub fn resume(&self) -> Result<()> {
        self.signal_all("CONT")
    }

    /// True while a postmaster exists in the machine, whoever started it; false also when the machine is off.
    pub fn is_running(&self) -> Result<bool> {
        if !self.is_on() {
            return Ok(false);
        }
        let Ok(lock) = fs::read_to_string(self.file(&format!("{}/postmaster.pid", &self.data()[1..]))?) else {
            return Ok(false);
        };
        let pid = lock.lines().next().unwrap_or_default();
        let status = fs::read_to_string(self.file(&format!("proc/{pid}/status"))?).unwrap_or_default();
        Ok(status.starts_with("Name:\tpostgres\n") && !status.contains("State:\tZ"))
    }

    /// Whether the supervisor starts the server again when it has ended by itself; kept over power failures.
    pub fn set_restart_policy(&self, restart: bool) -> Result<()> {
        let file = self.file("etc/mitosis/restart")?;
        fs::write(file, if restart { "yes\n" } else { "no\n" }).context("cannot write the supervisor's policy")
    }

    /// Runs SQL as the bootstrap superuser over the unix socket; several statements are allowed. Returns the rows as lines of
    /// fields divided by `|`, without a header.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let options = [
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--set=ON_ERROR_STOP=1",
            "--dbname",
            database,
        ];
        self.run(
            "postgres",
            &[&[self.program("psql").as_str()], options.as_slice()].concat(),
            sql,
            SQL_DEADLINE,
        )
    }

    /// What the server has logged, then what it and the supervisor wrote before or beside the log.
    #[must_use]
    pub fn logs(&self) -> String {
        let folder = self.state.disk(self.member).join("upper/var/log/postgresql");
        let main = folder.join(format!("postgresql-{}-main.log", self.running.major));
        let read = |file| {
            fs::read(file)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default()
        };
        read(main) + &read(folder.join("supervisor.log"))
    }

    /// The server's data directory inside the machine.
    #[must_use]
    pub fn data(&self) -> String {
        format!("/var/lib/postgresql/{}/main", self.running.major)
    }

    /// The path of a PostgreSQL program inside the machine.
    #[must_use]
    pub fn program(&self, name: &str) -> String {
        format!("/usr/lib/postgresql/{}/bin/{name}", self.running.major)
    }

    fn accepts_sessions(&self) -> Result<bool> {
        self.psql("postgres", "SELECT 1").map(|answer| answer == "1")
    }

    /// From inside, "all processes" are those of the machine except PID 1 and the sender.
    fn signal_all(&self, signal: &str) -> Result<()> {
        // With nothing to signal the shell reports an error, which is no failure here.
        self.run(
            "root",
            &["bash", "-c", &format!("kill -{signal} -1 2>/dev/null || true")],
            "",
            SIGNAL_DEADLINE,
        )
        .map(drop)
    }
}
