//! The ledger by hand: `ledger run` records, `ledger check` compares.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use mitosis_ledger::{Encryption, Endpoint, Options, Window, check, record};
use tokio::signal::unix::{SignalKind, signal};

/// An outside witness of lost transactions.
#[derive(Parser)]
#[command(name = "ledger")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes rows and records acknowledgements until SIGTERM, SIGINT or the end of the duration
    Run {
        /// The file acknowledgements are appended to
        #[arg(long)]
        log: PathBuf,
        /// Connection string, for example "host=10.20.0.11 user=app password=... dbname=app"
        #[arg(long, env = "LEDGER_DSN")]
        dsn: String,
        #[command(flatten)]
        encryption: EncryptionArguments,
        /// Clients that keep their session
        #[arg(long, default_value_t = 8)]
        clients: u32,
        /// Clients that open a session for each row
        #[arg(long, default_value_t = 0)]
        short: u32,
        /// Milliseconds between two rows of a client
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..))]
        pace: u64,
        /// Ends by itself after so many seconds
        #[arg(long)]
        duration: Option<u64>,
    },
    /// Compares the log with the rows of servers; status 1 if anything is lost, duplicated or unexpected or nothing was acknowledged
    Check {
        /// The file written by `run`
        #[arg(long)]
        log: PathBuf,
        /// Connection string of a server; may be repeated
        #[arg(long, env = "LEDGER_DSN", required = true)]
        dsn: Vec<String>,
        #[command(flatten)]
        encryption: EncryptionArguments,
        /// Count only gaps that end after this time, for example 2026-01-31T12:00:00Z
        #[arg(long)]
        from: Option<Timestamp>,
        /// Count only gaps that begin before this time
        #[arg(long)]
        to: Option<Timestamp>,
        /// Write JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct EncryptionArguments {
    /// How connections are encrypted
    #[arg(long, value_enum, default_value_t = Mode::Require)]
    sslmode: Mode,
    /// PEM file of the authority, for verify-full
    #[arg(long, required_if_eq("sslmode", "verify-full"))]
    sslrootcert: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Disable,
    Require,
    VerifyFull,
}

impl EncryptionArguments {
    fn encryption(self) -> Result<Encryption> {
        Ok(match self.sslmode {
            Mode::Disable => Encryption::Disable,
            Mode::Require => Encryption::Require,
            Mode::VerifyFull => Encryption::VerifyFull(self.sslrootcert.context("verify-full needs --sslrootcert")?),
        })
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Run {
            log,
            dsn,
            encryption,
            clients,
            short,
            pace,
            duration,
        } => {
            let endpoint = Endpoint::new(&dsn, &encryption.encryption()?)?;
            let options = Options {
                endpoint,
                log,
                clients,
                short,
                pace: Duration::from_millis(pace),
            };
            let summary = record(&options, asked_to_stop(duration)?).await?;
            println!("{}", serde_json::to_string(&summary)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Check {
            log,
            dsn,
            encryption,
            from,
            to,
            json,
        } => {
            let encryption = encryption.encryption()?;
            let servers = dsn
                .iter()
                .map(|dsn| Endpoint::new(dsn, &encryption))
                .collect::<Result<Vec<_>>>()?;
            let window = Window {
                from: from.map(Timestamp::as_microsecond),
                to: to.map(Timestamp::as_microsecond),
            };
            let report = check(&log, &servers, window).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                println!("{report}");
            }
            Ok(if report.good {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}

/// Done at the first signal or when the time is over. The signals are caught from the call on.
fn asked_to_stop(seconds: Option<u64>) -> Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        let over = async {
            match seconds {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = over => {}
        }
    })
}
