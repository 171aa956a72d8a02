//! The load: pgbench and the ledger through HAProxy's write route, in a process of their own that outlives the command that started it.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use mitosis_bed::State;
use mitosis_ledger::{Encryption, Endpoint, Options, Report, Summary, Window, check, record};
use mitosis_site::{Pgbench, PgbenchOptions, Site};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Servers, Stage, pgbouncer::POOLED_ADDRESS, until};

/// ClusterIP of HAProxy's Service, by which the application was told to connect.
pub const WRITE_ADDRESS: &str = "10.96.100.10";
/// What writes beside the ledger's clients that keep their session.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Load {
    /// Scale of pgbench's data: 10 is 1,000,000 accounts, about 150 MB.
    #[arg(long)]
    pub scale: u32,
    /// Transactions of pgbench a second, by 4 clients.
    #[arg(long)]
    pub rate: u32,
    /// Ledger clients that keep their session.
    #[arg(long)]
    pub long: u32,
    /// Ledger clients that open a session for each row.
    #[arg(long)]
    pub short: u32,
    /// Milliseconds between the rows of a ledger client.
    #[arg(long)]
    pub pace: u64,
    /// Through what the ledger's clients write.
    #[arg(long)]
    pub ledger: Way,
    /// Through what pgbench writes.
    #[arg(long)]
    pub pgbench: Way,
}

/// Through what clients reach the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// HAProxy's write route.
    Haproxy,
    /// PgBouncer, and behind it HAProxy's write route.
    Pgbouncer,
}

impl Way {
    const fn host(self) -> &'static str {
        match self {
            Self::Haproxy => WRITE_ADDRESS,
            Self::Pgbouncer => POOLED_ADDRESS,
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Haproxy => 5432,
            Self::Pgbouncer => 6432,
        }
    }

    /// PgBouncer, in the same cluster as its clients, is spoken to without TLS.
    const fn encryption(self) -> Encryption {
        match self {
            Self::Haproxy => Encryption::Require,
            Self::Pgbouncer => Encryption::Disable,
        }
    }

    const fn sslmode(self) -> &'static str {
        match self {
            Self::Haproxy => "require",
            Self::Pgbouncer => "disable",
        }
    }

    fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl Load {
    /// With clients of every kind, which together leave 2 cores little rest.
    #[must_use]
    pub const fn mixed(scale: u32) -> Self {
        Self {
            scale,
            rate: 25,
            long: 6,
            short: 2,
            pace: 25,
            ledger: Way::Haproxy,
            pgbench: Way::Haproxy,
        }
    }

    /// That of the measurements of rivals: sessions that stay, a row each 25 ms, and 50 transactions/s.
    #[must_use]
    pub const fn of_the_field(scale: u32) -> Self {
        Self {
            scale,
            rate: 50,
            long: 6,
            short: 0,
            pace: 25,
            ledger: Way::Haproxy,
            pgbench: Way::Haproxy,
        }
    }
}

/// How long the first connection may take to succeed once HAProxy is there.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);

impl Stage {
    /// File of the acknowledged rows.
    #[must_use]
    pub fn ledger_file(&self) -> PathBuf {
        self.cluster.state().path("ledger.log")
    }

    /// Starts pgbench and the ledger for the write route, with a fresh log. They begin as soon as HAProxy is there.
    ///
    /// # Errors
    /// The tables cannot be made.
    pub fn prepare_load(&self, load: Load) -> Result<()> {
        stop()?;
        self.site.init_pgbench(load.scale)?;
        // The load is no part of the migration: a log of its own run, so that the verdict speaks of this run.
        let log = self.ledger_file();
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let output = fs::File::create(self.cluster.state().path("load.log"))?;
        let process = Command::new(stage_program()?)
            .arg("load")
            .args([
                format!("--scale={}", load.scale),
                format!("--rate={}", load.rate),
                format!("--long={}", load.long),
                format!("--short={}", load.short),
                format!("--pace={}", load.pace),
                format!("--ledger={}", load.ledger.name()),
                format!("--pgbench={}", load.pgbench.name()),
            ])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("the load does not start")?;
        fs::write(self.cluster.state().path("load.pid"), process.id().to_string())?;
        Ok(())
    }

    /// Starts the load and waits until rows are acknowledged.
    ///
    /// # Errors
    /// The tables cannot be made or nothing is acknowledged within 60 s.
    pub fn start_load(&self, load: Load) -> Result<()> {
        self.prepare_load(load)?;
        let log = self.ledger_file();
        until("rows are acknowledged through HAProxy", Duration::from_secs(60), || {
            Ok(fs::read_to_string(&log).is_ok_and(|text| text.lines().count() > 20))
        })?;
        self.say("load", "pgbench and the ledger's clients write through HAProxy");
        Ok(())
    }

    /// What the load that has ended says of itself.
    ///
    /// # Errors
    /// There was none.
    pub fn load_summary(&self) -> Result<String> {
        Ok(fs::read_to_string(self.cluster.state().path("load.log"))?)
    }

    /// Ends the load and compares every acknowledged row with every server.
    ///
    /// # Errors
    /// A server does not answer.
    pub fn judge(&self, servers: &Servers, names: &[&str]) -> Result<Report> {
        stop()?;
        // A row that was acknowledged a moment ago may still be on its way to the standbys.
        servers.wait_until_level()?;
        self.compare(servers, names)
    }

    /// Compares what was acknowledged with what servers hold now, which need not be level.
    ///
    /// # Errors
    /// A server does not answer.
    pub fn compare(&self, servers: &Servers, names: &[&str]) -> Result<Report> {
        stop()?;
        let endpoints = names
            .iter()
            .map(|name| servers.ledger(name))
            .collect::<Result<Vec<_>>>()?;
        let log = self.ledger_file();
        tokio::runtime::Runtime::new()?.block_on(check(&log, &endpoints, Window::default()))
    }
}

/// Whether the load that an earlier command started still runs.
///
/// # Errors
/// The state folder cannot be read.
pub fn is_running() -> Result<bool> {
    Ok(recorded()?.is_some_and(is_load))
}

/// Ends the load that an earlier command started, when there is one.
///
/// # Errors
/// It does not end within 20 s.
pub fn stop() -> Result<()> {
    let Some(pid) = recorded()? else {
        return Ok(());
    };
    if is_load(pid) {
        Command::new("kill").args(["-TERM", &pid.to_string()]).status()?;
        until("the load ends", Duration::from_secs(20), || Ok(!is_load(pid)))?;
    }
    fs::remove_file(State::open()?.path("load.pid"))?;
    Ok(())
}

fn recorded() -> Result<Option<u32>> {
    match fs::read_to_string(State::open()?.path("load.pid")) {
        Ok(text) => Ok(Some(text.trim().parse().context("load.pid is damaged: remove it")?)),
        Err(_) => Ok(None),
    }
}

/// A number that was given to another process since is none of ours, and neither is a process that ended and was not collected yet.
fn is_load(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(11).any(|part| part == b"stage\0load\0"))
}

/// Carries the load until SIGTERM: what the detached process does.
///
/// # Errors
/// The site is not up.
pub fn carry(load: Load) -> Result<()> {
    let state = State::open()?;
    let site = Site::open(state.root())?;
    let credentials = site.credentials()?;
    let (by, pgbench_by) = (load.ledger, load.pgbench);
    let address: SocketAddr = format!("{WRITE_ADDRESS}:5432").parse()?;
    until("HAProxy is there", Duration::from_hours(24), || {
        Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    })?;
    let pgbench = Pgbench::start(
        &site,
        &PgbenchOptions {
            host: pgbench_by.host().to_owned(),
            port: pgbench_by.port(),
            user: "app".to_owned(),
            password: credentials.app.clone(),
            database: "app".to_owned(),
            sslmode: pgbench_by.sslmode().to_owned(),
            rate: load.rate,
            clients: 4,
        },
    );
    let options = Options {
        endpoint: Endpoint::new(
            &format!(
                "host={} port={} user=app dbname=app password={}",
                by.host(),
                by.port(),
                credentials.app
            ),
            &by.encryption(),
        )?,
        log: state.path("ledger.log"),
        clients: load.long,
        short: load.short,
        pace: Duration::from_millis(load.pace),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    // A service that has just got its first pods may still cut the first connection.
    let began = Instant::now();
    let summary = loop {
        match runtime.block_on(record_until_told(&options)) {
            Ok(summary) => break summary,
            Err(error) if began.elapsed() < BEGIN_LIMIT => eprintln!("not begun yet: {error:#}"),
            Err(error) => return Err(error),
        }
        thread::sleep(Duration::from_millis(200));
    };
    println!("{summary:?}");
    println!("{:?}", pgbench.stop()?);
    Ok(())
}

async fn record_until_told(options: &Options) -> Result<Summary> {
    let mut terminate = signal(SignalKind::terminate())?;
    record(options, async move {
        terminate.recv().await;
    })
    .await
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
    bail!(
        "the program `stage` is not beside {}: run `cargo build -p mitosis-stage`",
        own.display()
    )
}
