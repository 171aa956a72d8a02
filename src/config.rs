//! Command line and environment of the operator.

use clap::Args;

/// Settings of `mitosis operator`; each can be given by its environment variable.
#[derive(Args, Clone, Debug)]
pub struct OperatorArgs {
    /// Image of this operator, used for the agent beside HAProxy.
    #[arg(long, env = "MITOSIS_IMAGE")]
    pub image: String,
    /// Namespace of the operator: its Lease lives there.
    #[arg(long, env = "MITOSIS_NAMESPACE")]
    pub namespace: String,
    /// Namespaces whose `ClusterMigrations` are looked after, separated by commas; empty for all.
    #[arg(long, env = "MITOSIS_WATCH_NAMESPACES", default_value = "")]
    pub watch_namespaces: String,
    /// Name of this pod.
    #[arg(long, env = "POD_NAME")]
    pub pod: String,
    /// Name of the Lease that decides who acts.
    #[arg(long, env = "MITOSIS_LEASE", default_value = "mitosis")]
    pub lease: String,
    /// For how many seconds the Lease is valid after it was renewed; another replica takes over no sooner.
    #[arg(long, env = "MITOSIS_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(6..=120))]
    pub lease_seconds: u64,
    /// Address for /healthz, /readyz and /metrics.
    #[arg(long, env = "MITOSIS_LISTEN", default_value = "[::]:8080")]
    pub listen: std::net::SocketAddr,
}

impl OperatorArgs {
    /// The namespaces that are watched; empty for all.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        self.watch_namespaces
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(ToOwned::to_owned)
            .collect()
    }
}
