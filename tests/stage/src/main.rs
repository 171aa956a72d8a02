//! The command `stage`: the whole scene by hand.

use anyhow::Result;
use clap::{Parser, Subcommand};
use mitosis_bed::{State, cluster};
use mitosis_site::Site;
use mitosis_stage::{
    Load, Stage, WRITE_ADDRESS, bench_routing, bench_seeding, bench_switchover, carry, demo, load_is_running,
};

/// Scale of pgbench's data: 10 is 1,000,000 accounts, about 150 MB.
const SCALE: u32 = 10;

#[derive(Parser)]
#[command(
    name = "stage",
    about = "Cluster, source site, operator and load for trying Mitosis by hand",
    version
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Brings everything up, or what is missing of it
    Up {
        /// Major version of PostgreSQL: 15, 17 or 18
        #[arg(long, env = "POSTGRES", default_value_t = 15)]
        postgres: u8,
    },
    /// Puts the scene back to its beginning: no migration, no target, fresh databases
    Reset {
        /// Major version of PostgreSQL: 15, 17 or 18
        #[arg(long, env = "POSTGRES", default_value_t = 15)]
        postgres: u8,
    },
    /// Stops everything and removes what it made on the host
    Down,
    /// Prints what a shell evaluates to use the scene: eval "$(stage env)"
    Env,
    /// Shows one complete migration under write load
    Demo {
        /// Major version of PostgreSQL: 15, 17 or 18
        #[arg(long, env = "POSTGRES", default_value_t = 15)]
        postgres: u8,
    },
    /// Measures the base backup of the seeding Job against the same command by hand
    BenchSeeding {
        /// Major version of PostgreSQL: 15, 17 or 18
        #[arg(long, env = "POSTGRES", default_value_t = 15)]
        postgres: u8,
    },
    /// Switches there and back under load and prints what clients saw and where the time went
    BenchSwitchover {
        /// Major version of PostgreSQL: 15, 17 or 18
        #[arg(long, env = "POSTGRES", default_value_t = 15)]
        postgres: u8,
        /// How many switches, every second one back
        #[arg(long, default_value_t = 30)]
        rounds: usize,
    },
    /// Holds and releases HAProxy under load and prints how long each took until every pod did it
    BenchRouting {
        /// Major version of PostgreSQL: 15, 17 or 18
        #[arg(long, env = "POSTGRES", default_value_t = 15)]
        postgres: u8,
        /// How many holds, and as many releases
        #[arg(long, default_value_t = 100)]
        rounds: usize,
    },
    /// Carries the load until SIGTERM
    #[command(hide = true)]
    Load(Load),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Up { postgres } => {
            let stage = Stage::up(postgres)?;
            if load_is_running()? {
                return Ok(());
            }
            stage.prepare_load(Load::mixed(SCALE))?;
            stage.say("load", "begins as soon as a ClusterMigration has brought HAProxy: kubectl apply -f examples/clustermigration.yaml");
            Ok(())
        }
        Command::Reset { postgres } => Stage::up(postgres)?.reset(),
        Command::Down => Stage::down(),
        Command::Env => {
            let state = State::open()?;
            let site = Site::open(state.root())?;
            println!("{}", cluster::environment(&state));
            println!("export MITOSIS_SOURCE_HOSTS=10.20.0.11,10.20.0.12,10.20.0.13");
            println!("export MITOSIS_WRITE_ENDPOINT={WRITE_ADDRESS}:5432");
            println!(
                "export PGUSER=app PGPASSWORD='{}' PGDATABASE=app",
                site.credentials()?.app
            );
            println!("export MITOSIS_LEDGER='{}'", state.path("ledger.log").display());
            Ok(())
        }
        Command::Demo { postgres } => demo(postgres),
        Command::BenchSeeding { postgres } => bench_seeding(postgres),
        Command::BenchSwitchover { postgres, rounds } => bench_switchover(postgres, rounds),
        Command::BenchRouting { postgres, rounds } => bench_routing(postgres, rounds),
        Command::Load(load) => carry(load),
    }
}
