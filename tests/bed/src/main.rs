//! The command `bed`: a Kubernetes cluster for tests, demonstrations and benchmarks on this host.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use mitosis_bed::images::postgres_rootfs;
use mitosis_bed::{Bed, Cache, Image, Progress, State, cluster, host, lock};

#[derive(Parser)]
#[command(
    name = "bed",
    about = "A one-node Kubernetes for tests on this host, without a container engine",
    version
)]
struct Arguments {
    /// Seconds to wait for another process that uses the bed
    #[arg(long, global = true, default_value_t = 0)]
    wait: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the cluster, or what is missing of it
    Up {
        /// Major version of the PostgreSQL image: 15, 17 or 18
        #[arg(long, default_value_t = 15)]
        postgres: u8,
    },
    /// Stop the cluster and remove everything it has made on the host
    Down,
    /// Print what a shell evaluates to use the cluster: eval "$(bed env)"
    Env,
    /// Show what runs and who uses it
    Status,
    /// Print the folder of a root file system with PostgreSQL, for reading only
    Rootfs {
        /// Major version of PostgreSQL: 15, 17 or 18
        postgres: u8,
    },
    /// Build an image and give it to the running cluster
    Image {
        /// mitosis, postgres:15, postgres:17, postgres:18, haproxy:2.6, haproxy:3.0, busybox or pause
        image: String,
        /// For mitosis: this program instead of one that cargo builds
        #[arg(long)]
        binary: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let bed = || Bed::lock(&lock::own_command(), Duration::from_secs(arguments.wait));
    match arguments.command {
        Command::Up { postgres } => bed()?
            .up(&[Image::Postgres(postgres), Image::haproxy_beside(postgres)])
            .map(drop),
        Command::Down => bed()?.down(),
        Command::Env => {
            println!("{}", cluster::environment(&State::open()?));
            Ok(())
        }
        Command::Status => status(),
        Command::Rootfs { postgres } => {
            let (cache, progress) = (Cache::open()?, Progress::start());
            // A new host has none of the programs yet that make a root file system.
            host::prepare(&State::open()?, &cache, &progress)?;
            let rootfs = postgres_rootfs(postgres, &cache, &progress)?;
            println!("{}", rootfs.display());
            Ok(())
        }
        Command::Image { image, binary: None } => bed()?.image(&image.parse()?),
        Command::Image { image, binary } => {
            ensure!(
                image == "mitosis",
                "--binary is for the image mitosis only: leave it out"
            );
            bed()?.image(&Image::Mitosis { binary })
        }
    }
}

fn status() -> Result<()> {
    let state = State::open()?;
    for (name, runs) in cluster::status(&state) {
        println!("{name:<12} {}", if runs { "running" } else { "stopped" });
    }
    match lock::owner(&state)? {
        Some(owner) => println!(
            "in use by process {} ({}) since {:.0}",
            owner.pid, owner.command, owner.since
        ),
        None => println!("not in use"),
    }
    Ok(())
}
