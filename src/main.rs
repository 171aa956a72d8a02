//! `mitosis`: the operator, the agent beside HAProxy, and the tools for users.

use clap::{Parser, Subcommand};
use mitosis::{agent, api, cli, config::OperatorArgs, controller, telemetry};

/// Moves a live PostgreSQL cluster from one data centre to another.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the operator inside Kubernetes.
    Operator(OperatorArgs),
    /// Runs beside HAProxy and keeps it on the wanted routing.
    Agent(agent::AgentArgs),
    /// Prints what the last switchover of a migration did and proved, as JSON.
    Report(cli::ReportArgs),
    /// Prints the CustomResourceDefinition.
    Crd,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    #[cfg(feature = "crash-points")]
    let _points = fail::FailScenario::setup();
    match Arguments::parse().command {
        Command::Operator(args) => {
            telemetry::start();
            controller::run(args).await
        }
        Command::Agent(args) => {
            telemetry::start();
            agent::run(args).await
        }
        Command::Report(args) => cli::report(&args).await,
        Command::Crd => {
            print!("{}", api::render_crd()?);
            Ok(())
        }
    }
}
