//! `mitosis report`: what the last switchover did and proved, as JSON.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::api::ClusterMigration;

/// How long the API server may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// What to report on.
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Name of the `ClusterMigration`.
    pub name: String,
    /// Its namespace; that of the current context otherwise.
    #[arg(long, short)]
    pub namespace: Option<String>,
}

/// Prints the certificate, the steps and the last attempts of a migration as JSON.
///
/// # Errors
/// The API server does not answer, or there is no such migration.
pub async fn report(args: &ReportArgs) -> anyhow::Result<()> {
    let config = Config::infer()
        .await
        .context("no way to the API server is configured: set KUBECONFIG")?;
    let namespace = args
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let api: Api<ClusterMigration> = Api::namespaced(Client::try_from(config)?, &namespace);
    let migration = tokio::time::timeout(DEADLINE, api.get(&args.name))
        .await
        .with_context(|| format!("the API server gave no answer within {} s", DEADLINE.as_secs()))?
        .with_context(|| format!("ClusterMigration {namespace}/{} cannot be read", args.name))?;
    println!("{}", serde_json::to_string_pretty(&render(&migration))?);
    Ok(())
}

/// The report; without secrets, since status holds none.
fn render(migration: &ClusterMigration) -> Value {
    let status = migration.status.clone().unwrap_or_default();
    let switchover = status.switchover.as_ref();
    json!({
        "namespace": migration.metadata.namespace,
        "name": migration.metadata.name,
        "uid": migration.metadata.uid,
        "phase": status.phase.as_str(),
        "message": status.message,
        "switchover": switchover.map(|record| json!({
            "id": record.id,
            "attempt": record.attempt,
            "to": record.to,
            "oldPrimary": record.old_primary,
            "newPrimary": record.new_primary,
            "step": record.step,
            "abortReason": record.abort_reason,
            "steps": record.steps,
        })),
        "certificate": switchover.and_then(|record| record.certificate.clone()),
        "attempts": status.attempts,
        "rehearsal": status.rehearsal,
        "rewind": status.rewind,
        "members": status.members,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_that_was_not_switched_has_a_report_without_a_certificate() {
        let migration: ClusterMigration =
            serde_saphyr::from_str(include_str!("../../examples/clustermigration.yaml")).expect("the example");
        let report = render(&migration);
        assert_eq!(
            (&report["certificate"], &report["name"]),
            (&Value::Null, &json!("shop"))
        );
    }
}
