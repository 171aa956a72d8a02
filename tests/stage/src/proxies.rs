//! HAProxy asked from outside: where each pod leads.

use anyhow::{Context as _, Result, ensure};

use crate::{Servers, Stage};

/// What tells servers apart: whether it is a standby, and its address.
pub const IDENTITY: &str = "SELECT pg_is_in_recovery()::text || ' ' || inet_server_addr()::text";

/// The identity of the server that the write route of every HAProxy pod leads to.
///
/// # Errors
/// A pod does not lead to a server, or they lead to different ones.
pub fn through_haproxy(stage: &Stage, servers: &Servers) -> Result<String> {
    through_pods(stage, servers, "pgmitosis.dev/component=haproxy")
}

/// The same for HAProxy pods that a selector finds.
///
/// # Errors
/// As before.
pub fn through_pods(stage: &Stage, servers: &Servers, selector: &str) -> Result<String> {
    let ips = stage.kubectl(&["get", "pods", "-l", selector, "-o", "jsonpath={.items[*].status.podIP}"])?;
    let mut answers = Vec::new();
    for ip in ips.split_whitespace() {
        answers.push(servers.sql_at(ip, 5432, "postgres", IDENTITY)?);
    }
    let first = answers.first().context("no HAProxy pod")?.clone();
    ensure!(
        answers.iter().all(|answer| *answer == first),
        "HAProxy pods lead to different servers: {answers:?}"
    );
    Ok(first)
}
