//! The agent beside HAProxy, in the same pod.
//!
//! It watches one ConfigMap through the API, gives HAProxy the configuration in it, holds and releases clients, and
//! reports what the *running* HAProxy does. The two containers share the directory of the configuration file and that
//! of the sockets; HAProxy runs as `haproxy -W -db -S SOCKET,level,admin -f FILE`. The init container
//! `mitosis agent --once` writes the file first, so that a pod that starts does what the API holds then.
//!
//! The ConfigMap has the keys of [`Desired`]. The agent does not read `haproxy.cfg`: which routes a hold concerns is said
//! by `held-routes`, so that an agent and an operator of different versions understand each other. Names of routes are
//! validated, and nothing else of the ConfigMap reaches HAProxy's sockets.
//!
//! While held, the file leads clients nowhere, so that a HAProxy that starts anew does not lead them to a database.

mod desired;
mod drive;
mod file;
mod haproxy;
mod report;
mod serve;
mod watch;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use futures::{FutureExt as _, StreamExt as _};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch::channel,
    time::timeout,
};
use tracing::info;

pub use desired::{Desired, ROUTING_KEY, Wish};
pub use drive::drive;
pub use haproxy::{AgentError, Haproxy};
pub use report::{Report, ReportState};
pub use serve::router;

/// Time for open requests to end after a signal.
const FAREWELL: Duration = Duration::from_secs(5);

/// Arguments of `mitosis agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// Namespace of the ConfigMap.
    #[arg(long, env = "MITOSIS_NAMESPACE")]
    pub namespace: String,
    /// Name of the ConfigMap with the configuration of HAProxy.
    #[arg(long, env = "MITOSIS_CONFIGMAP")]
    pub configmap: String,
    /// File that HAProxy reads.
    #[arg(
        long,
        env = "MITOSIS_CONFIG_FILE",
        default_value = "/etc/haproxy-mitosis/haproxy.cfg"
    )]
    pub config_file: PathBuf,
    /// Unix socket of HAProxy's worker.
    #[arg(long, env = "MITOSIS_ADMIN_SOCKET", default_value = "/run/haproxy/admin.sock")]
    pub admin_socket: PathBuf,
    /// Unix socket of HAProxy's master.
    #[arg(long, env = "MITOSIS_MASTER_SOCKET", default_value = "/run/haproxy/master.sock")]
    pub master_socket: PathBuf,
    /// Where the report is served.
    #[arg(long, env = "MITOSIS_LISTEN", default_value = "[::]:8405")]
    pub listen: SocketAddr,
    /// Write the file and exit: for the init container.
    #[arg(long)]
    pub once: bool,
}

/// Runs the agent until SIGTERM or SIGINT, or with `--once` until the file is written.
///
/// # Errors
/// No way to the API, nothing to listen on, or with `--once` no configuration within two minutes.
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    let client = watch::client().await?;
    if args.once {
        return watch::fetch_once(client, &args).await;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        futures::future::select(Box::pin(terminate.recv()), Box::pin(interrupt.recv()))
            .await
            .factor_first()
            .0
    };
    let stop = stop.map(|_| ()).boxed().shared();

    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}: change --listen", args.listen))?;
    let (sender, receiver) = channel(Report::default());
    let server = axum::serve(listener, router(receiver)).with_graceful_shutdown(stop.clone());
    let server = tokio::spawn(server.into_future());
    let haproxy = Haproxy::new(&args.config_file, &args.admin_socket, &args.master_socket);
    info!(configmap = args.configmap, listen = %args.listen, "the agent watches");
    let wishes = watch::wishes(client, &args.namespace, &args.configmap);
    drive(haproxy, wishes.take_until(stop), sender).await;
    info!("the agent ends; HAProxy goes on as it is");
    timeout(FAREWELL, server)
        .await
        .context("open requests did not end in time")???;
    Ok(())
}
