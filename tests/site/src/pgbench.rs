//! A steady load of pgbench through some endpoint, started again whenever it is aborted.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use crate::command::SYSTEM_PATH;
use crate::process::Process;
use crate::site::Site;

/// A run that is aborted at once is not repeated without a pause.
const PAUSE_AFTER_ABORT: Duration = Duration::from_millis(100);
/// Longer than any test; the run is ended before.
const RUN_SECONDS: &str = "86400";

/// Where the load goes and how much of it.
#[derive(Debug, Clone)]
pub struct PgbenchOptions {
    /// Host name or address of the endpoint, as seen from the host.
    pub host: String,
    /// Port of the endpoint.
    pub port: u16,
    /// The role; its tables must have been made by [`Site::init_pgbench`].
    pub user: String,
    /// The role's password.
    pub password: String,
    /// The database.
    pub database: String,
    /// `disable` or `require`.
    pub sslmode: String,
    /// Transactions per second, over all clients.
    pub rate: u32,
    /// Number of sessions.
    pub clients: u32,
}

/// What a load has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PgbenchCounts {
    /// Runs started.
    pub runs: u64,
    /// Runs of which a client was aborted, or that could not connect.
    pub aborted: u64,
    /// Transactions that committed, from the reports pgbench writes each second, hence some short of the truth.
    pub transactions: u64,
}

/// A running load; ended by [`Pgbench::stop`] or when dropped.
#[derive(Debug)]
pub struct Pgbench {
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    counts: PgbenchCounts,
    current: Option<Process>,
    stopped: bool,
    problem: Option<String>,
}

impl Pgbench {
    /// Starts the load with the pgbench of the site's root file system, from the host's side of the link.
    #[must_use]
    pub fn start(site: &Site, options: &PgbenchOptions) -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let command = Arguments::new(site, options);
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || repeat(&command, &own));
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> PgbenchCounts {
        lock(&self.shared).counts
    }

    /// What pgbench last complained about.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        lock(&self.shared).problem.clone()
    }

    /// Ends the load.
    pub fn stop(mut self) -> Result<PgbenchCounts> {
        self.end()?;
        Ok(self.counts())
    }

    fn end(&mut self) -> Result<()> {
        let current = {
            let mut shared = lock(&self.shared);
            shared.stopped = true;
            shared.current
        };
        current.map_or(Ok(()), Process::kill)?;
        self.thread.take().map_or(Ok(()), |thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("the thread of pgbench panicked"))
        })
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        // Nobody is left to tell; the process also ends with its thread.
        let _ = self.end();
    }
}

#[derive(Debug)]
struct Arguments {
    arguments: Vec<String>,
    password: String,
}

impl Arguments {
    fn new(site: &Site, options: &PgbenchOptions) -> Self {
        let running = site.running();
        let PgbenchOptions {
            host,
            port,
            user,
            database,
            sslmode,
            rate,
            clients,
            ..
        } = options;
        let rootfs = running.rootfs.display();
        let program = format!("/usr/lib/postgresql/{}/bin/pgbench", running.major);
        let target =
            format!("host={host} port={port} user={user} dbname={database} sslmode={sslmode} connect_timeout=2");
        let (rate, clients) = (format!("--rate={rate}"), format!("--client={clients}"));
        let own = [
            "--pdeathsig=KILL".to_owned(),
            "chroot".to_owned(),
            rootfs.to_string(),
            program,
        ];
        let load = [
            "--no-vacuum".to_owned(),
            "--progress=1".to_owned(),
            format!("--time={RUN_SECONDS}"),
            rate,
            clients,
            target,
        ];
        Self {
            arguments: own.into_iter().chain(load).collect(),
            password: options.password.clone(),
        }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = Command::new("setpriv");
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", SYSTEM_PATH)
            .env("PGPASSWORD", &self.password);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// One run after the other until stopped.
fn repeat(command: &Arguments, shared: &Mutex<Shared>) {
    loop {
        let mut child = {
            let mut shared = lock(shared);
            if shared.stopped {
                return;
            }
            let child = match command.spawn() {
                Ok(child) => child,
                Err(error) => {
                    shared.problem = Some(format!("cannot run pgbench: {error}"));
                    return;
                }
            };
            shared.counts.runs += 1;
            shared.current = i32::try_from(child.id()).ok().and_then(Process::running);
            child
        };
        follow(&mut child, shared);
        // It has ended or is useless without its aborted client.
        let _ = child.kill();
        let _ = child.wait();
        let mut now = lock(shared);
        now.current = None;
        if !now.stopped {
            now.counts.aborted += 1;
            drop(now);
            std::thread::sleep(PAUSE_AFTER_ABORT);
        }
    }
}

/// Reads a run's reports until it ends or a client of it is aborted.
fn follow(child: &mut Child, shared: &Mutex<Shared>) {
    let Some(stderr) = child.stderr.take() else { return };
    let mut counted_until = 0.0;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if let Some((seconds, rate)) = progress(&line) {
            let done = (rate * (seconds - counted_until)).round();
            counted_until = seconds;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small count, never negative"
            )]
            let done = done as u64;
            lock(shared).counts.transactions += done;
        } else if line.contains("error") || line.contains("abort") {
            let aborted = line.contains("abort");
            lock(shared).problem = Some(line);
            if aborted {
                return;
            }
        }
    }
}

/// Seconds since the start of the run and transactions per second, from a line such as `progress: 2.0 s, 49.9 tps, lat ...`.
fn progress(line: &str) -> Option<(f64, f64)> {
    let mut fields = line.strip_prefix("progress: ")?.split(", ");
    let seconds = fields.next()?.strip_suffix(" s")?.parse().ok()?;
    let rate = fields.next()?.strip_suffix(" tps")?.parse().ok()?;
    Some((seconds, rate))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_progress_is_understood_and_other_lines_are_not() {
        assert_eq!(
            progress("progress: 2.0 s, 49.9 tps, lat 3.100 ms stddev 1.0, 0 failed"),
            Some((2.0, 49.9))
        );
        assert_eq!(progress("pgbench: error: client 3 aborted in command 5"), None);
    }
}
