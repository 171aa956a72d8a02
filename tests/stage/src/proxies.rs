//! HAProxy asked from outside: where each pod leads.

use anyhow::{Context as _, Result, ensure};

use crate::{Servers, Stage};

/// What tells servers apart: whether it is a standby, and its address.
pub const IDENTITY: &str = "SELECT pg_is_in_recovery()::text || ' ' || inet_server_addr()::text";

/// Labels of the HAProxy pods that the operator deploys.
pub const PROXIES: &str = "pgmitosis.dev/component=haproxy";

/// Addresses of the pods that a selector finds.
///
/// # Errors
/// The API server refuses.
pub fn pod_ips(stage: &Stage, selector: &str) -> Result<Vec<String>> {
    let ips = stage.kubectl(&["get", "pods", "-l", selector, "-o", "jsonpath={.items[*].status.podIP}"])?;
    Ok(ips.split_whitespace().map(ToOwned::to_owned).collect())
}

/// The identity of the server that the write route of every HAProxy pod leads to.
///
/// # Errors
/// A pod does not lead to a server, or they lead to different ones.
pub fn through_haproxy(stage: &Stage, servers: &Servers) -> Result<String> {
    through_pods(stage, servers, PROXIES)
}

/// The same for HAProxy pods that a selector finds.
///
/// # Errors
/// As before.
pub fn through_pods(stage: &Stage, servers: &Servers, selector: &str) -> Result<String> {
    let mut answers = Vec::new();
    for ip in pod_ips(stage, selector)? {
        answers.push(servers.sql_at(&ip, 5432, "postgres", IDENTITY)?);
    }
    let first = answers.first().context("no HAProxy pod")?.clone();
    ensure!(
        answers.iter().all(|answer| *answer == first),
        "HAProxy pods lead to different servers: {answers:?}"
    );
    Ok(first)
}
