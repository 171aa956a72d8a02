//! The load: pgbench and the ledger through HAProxy's write route, in a process of their own that outlives the command that started it.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use mitosis_bed::State;
use mitosis_ledger::{Encryption, Endpoint, Options, Report, Window, check, record};
use mitosis_site::{Pgbench, PgbenchOptions, Site};

use crate::{Servers, Stage, until};

/// ClusterIP of HAProxy's Service, by which the application was told to connect.
pub const WRITE_ADDRESS: &str = "10.96.100.10";
/// Ledger clients that keep their session.
const LONG: u32 = 6;
/// Ledger clients that open a session for each row.
const SHORT: u32 = 2;

impl Stage {
    /// File of the acknowledged rows.
    #[must_use]
    pub fn ledger_file(&self) -> PathBuf {
        self.cluster.state().path("ledger.log")
    }

    /// Starts pgbench (25 transactions/s by 4 clients) and the ledger (8 clients) through the write route, with a fresh log.
    ///
    /// # Errors
    /// The tables cannot be made or nothing is acknowledged within 30 s.
    pub fn start_load(&self, scale: u32) -> Result<()> {
        stop()?;
        self.site.init_pgbench(scale)?;
        // The load is no part of the migration: a log of its own run, so that the verdict speaks of this run.
        let log = self.ledger_file();
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let output = fs::File::create(self.cluster.state().path("load.log"))?;
        let process = Command::new(stage_program()?)
            .arg("load")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("the load does not start")?;
        fs::write(self.cluster.state().path("load.pid"), process.id().to_string())?;
        until("rows are acknowledged through HAProxy", Duration::from_secs(30), || {
            Ok(fs::read_to_string(&log).is_ok_and(|text| text.lines().count() > 20))
        })?;
        self.say("load", "pgbench and 8 ledger clients write through HAProxy");
        Ok(())
    }

    /// Ends the load and compares every acknowledged row with every server.
    ///
    /// # Errors
    /// A server does not answer.
    pub fn judge(&self, servers: &Servers, names: &[&str]) -> Result<Report> {
        stop()?;
        let endpoints = names.iter().map(|name| servers.ledger(name)).collect::<Result<Vec<_>>>()?;
        let log = self.ledger_file();
        tokio::runtime::Runtime::new()?.block_on(check(&log, &endpoints, Window::default()))
    }
}

/// Ends the load that an earlier command started, when there is one.
///
/// # Errors
/// It does not end within 20 s.
pub fn stop() -> Result<()> {
    let file = State::open()?.path("load.pid");
    let Ok(text) = fs::read_to_string(&file) else {
        return Ok(());
    };
    let pid: u32 = text.trim().parse().context("load.pid is damaged: remove it")?;
    // A number that was given to another process since is none of ours.
    let ours = || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"stage\0load\0"));
    if ours() {
        Command::new("kill").args(["-TERM", &pid.to_string()]).status()?;
        until("the load ends", Duration::from_secs(20), || Ok(!ours()))?;
    }
    fs::remove_file(file)?;
    Ok(())
}

/// Carries the load until SIGTERM: what the detached process does.
///
/// # Errors
/// The site is not up.
pub fn carry() -> Result<()> {
    let state = State::open()?;
    let site = Site::open(state.root())?;
    let credentials = site.credentials()?;
    let pgbench = Pgbench::start(
        &site,
        &PgbenchOptions {
            host: WRITE_ADDRESS.to_owned(),
            port: 5432,
            user: "app".to_owned(),
            password: credentials.app.clone(),
            database: "app".to_owned(),
            sslmode: "require".to_owned(),
            rate: 25,
            clients: 4,
        },
    );
    let options = Options {
        endpoint: Endpoint::new(
            &format!("host={WRITE_ADDRESS} port=5432 user=app dbname=app password={}", credentials.app),
            &Encryption::Require,
        )?,
        log: state.path("ledger.log"),
        clients: LONG,
        short: SHORT,
        pace: Duration::from_millis(25),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let summary = runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let stop = async move {
            terminate.recv().await;
        };
        record(&options, stop).await
    })?;
    println!("{summary:?}");
    println!("{:?}", pgbench.stop()?);
    Ok(())
}

/// The `stage` program: this one, or the one beside a test's.
fn stage_program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folders = own.ancestors().skip(1).take(2);
    for folder in folders {
        let program = folder.join("stage");
        if program.exists() {
            return Ok(program);
        }
    }
    bail!("the program `stage` is not beside {}: run `cargo build -p mitosis-stage`", own.display())
}
