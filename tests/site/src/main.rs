//! The source site by hand.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use mitosis_site::{Config, Link, Machine, Member, Pgbench, PgbenchOptions, Site, StopMode, default_state};

const SHELL_DEADLINE: Duration = Duration::from_mins(1);
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The source site of the test bed: three PostgreSQL servers outside Kubernetes. Needs root.
#[derive(Parser)]
#[command(name = "site")]
struct Arguments {
    /// The state folder of the test bed
    #[arg(long, env = "MITOSIS_BED_STATE", default_value_os_t = default_state())]
    state: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Brings the site up
    Up {
        /// A Debian root file system with PostgreSQL in it
        #[arg(long)]
        rootfs: PathBuf,
        /// The major version of PostgreSQL
        #[arg(long, default_value_t = 15)]
        major: u16,
        /// The program of the toxiproxy server, for `link delay`
        #[arg(long)]
        toxiproxy: Option<PathBuf>,
    },
    /// Ends everything that belongs to the site
    Down,
    /// Gives the site fresh databases and an undisturbed link
    Reset,
    /// Shows the members and the passwords
    Status,
    /// Does something to a member
    Member {
        /// a1, a2 or a3
        member: Member,
        #[command(subcommand)]
        action: Action,
    },
    /// Does something to the link between the sites
    Link {
        #[command(subcommand)]
        fault: Fault,
    },
    /// Runs a steady load of pgbench until it is ended
    Pgbench {
        /// Host of the endpoint
        #[arg(long, default_value = "10.20.0.11")]
        host: String,
        /// Port of the endpoint
        #[arg(long, default_value_t = 5432)]
        port: u16,
        /// Transactions per second
        #[arg(long, default_value_t = 50)]
        rate: u32,
        /// Number of sessions
        #[arg(long, default_value_t = 4)]
        clients: u32,
        /// Make the tables first, with this scale
        #[arg(long)]
        init: Option<u32>,
    },
}

#[derive(Subcommand)]
enum Action {
    /// Starts the server
    Start,
    /// Stops the server
    Stop {
        #[arg(long, value_enum, default_value_t = Mode::Fast)]
        mode: Mode,
    },
    /// Ends the server with SIGKILL
    Kill,
    /// Freezes the server
    Pause,
    /// Lets the frozen server go on
    Resume,
    /// Switches the machine on
    PowerOn,
    /// Switches the machine off
    PowerOff,
    /// Says whether the supervisor starts the server again when it ended by itself
    Restart { policy: Policy },
    /// Shows the server's log
    Logs,
    /// Runs SQL as superuser
    Psql {
        sql: String,
        #[arg(long, default_value = "postgres")]
        database: String,
    },
    /// Runs a shell command as root in the machine
    Shell { command: String },
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Smart,
    Fast,
    Immediate,
}

#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    Yes,
    No,
}

#[derive(Subcommand)]
enum Fault {
    /// Limits the bandwidth of each direction
    Throttle { megabits_per_second: u64 },
    /// Takes the limit back
    Unthrottle,
    /// Drops every packet
    Cut,
    /// Lets packets pass again
    Heal,
    /// Delays new connections to the servers in each direction
    Delay { milliseconds: u64 },
    /// Takes the delay back
    Undelay,
}

fn main() -> Result<()> {
    let Arguments { state, command } = Arguments::parse();
    match command {
        Command::Up {
            rootfs,
            major,
            toxiproxy,
        } => status(&Site::up(&Config {
            state,
            rootfs,
            major,
            toxiproxy,
        })?),
        Command::Down => Site::down(&state),
        Command::Reset => Site::open(&state)?.reset(),
        Command::Status => status(&Site::open(&state)?),
        Command::Member { member, action } => act(&Site::open(&state)?.member(member), action),
        Command::Link { fault } => disturb(&Site::open(&state)?.link(), &fault),
        Command::Pgbench {
            host,
            port,
            rate,
            clients,
            init,
        } => {
            let site = Site::open(&state)?;
            init.map_or(Ok(()), |scale| site.init_pgbench(scale))?;
            load(&site, &load_options(&site, host, port, rate, clients)?)
        }
    }
}

fn status(site: &Site) -> Result<()> {
    for member in Member::ALL {
        let machine = site.member(member);
        let server = match (machine.is_on(), machine.is_running()?) {
            (false, _) => "machine off",
            (true, false) => "server not running",
            (true, true) => "server running",
        };
        println!("{member} {} {} {server}", member.address(), member.host_name());
    }
    let credentials = site.credentials()?;
    println!(
        "superuser mitosis {}\nowner of database app: app {}",
        credentials.mitosis, credentials.app
    );
    println!("certificate authority {}", site.authority_file().display());
    Ok(())
}

fn act(machine: &Machine, action: Action) -> Result<()> {
    match action {
        Action::Start => machine.start(),
        Action::Stop { mode } => machine.stop(match mode {
            Mode::Smart => StopMode::Smart,
            Mode::Fast => StopMode::Fast,
            Mode::Immediate => StopMode::Immediate,
        }),
        Action::Kill => machine.kill(),
        Action::Pause => machine.pause(),
        Action::Resume => machine.resume(),
        Action::PowerOn => machine.power_on(),
        Action::PowerOff => machine.power_off(),
        Action::Restart { policy } => machine.set_restart_policy(matches!(policy, Policy::Yes)),
        Action::Logs => {
            print!("{}", machine.logs());
            Ok(())
        }
        Action::Psql { sql, database } => show(machine.psql(&database, &sql)),
        Action::Shell { command } => show(machine.shell(&command, SHELL_DEADLINE)),
    }
}

fn show(output: Result<String>) -> Result<()> {
    println!("{}", output?);
    Ok(())
}

fn disturb(link: &Link, fault: &Fault) -> Result<()> {
    match *fault {
        Fault::Throttle { megabits_per_second } => link.throttle(megabits_per_second * 1_000_000),
        Fault::Unthrottle => link.unthrottle(),
        Fault::Cut => link.cut(),
        Fault::Heal => link.heal(),
        Fault::Delay { milliseconds } => link.delay(Duration::from_millis(milliseconds)),
        Fault::Undelay => link.undelay(),
    }
}

fn load_options(site: &Site, host: String, port: u16, rate: u32, clients: u32) -> Result<PgbenchOptions> {
    let password = site.credentials()?.app;
    let (user, database, sslmode) = ("app".to_owned(), "app".to_owned(), "require".to_owned());
    Ok(PgbenchOptions {
        host,
        port,
        user,
        password,
        database,
        sslmode,
        rate,
        clients,
    })
}

fn load(site: &Site, options: &PgbenchOptions) -> Result<()> {
    let load = Pgbench::start(site, options);
    loop {
        std::thread::sleep(REPORT_EVERY);
        let counts = load.counts();
        let problem = load.problem().unwrap_or_default();
        println!(
            "runs {} aborted {} transactions {} {problem}",
            counts.runs, counts.aborted, counts.transactions
        );
    }
}
