//! Report: what was seen and decided becomes conditions, status, Events and metrics. One status write a turn, and only when it differs.

mod catch_up;
mod conditions;
mod events;
mod metrics;
mod seeding;
mod status;

pub(crate) use conditions::needs_person;
pub use events::{Events, describe_change};
pub use metrics::Metrics;
pub use status::build_status;

use std::time::Duration;

use kube::{Api, Client, ResourceExt, api::PostParams};

use crate::api::{ClusterMigration, ClusterMigrationStatus};

/// How long the API server may take for the write.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why status was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refuses, for example because the resource changed meanwhile.
    #[error("the status was not written: {0}")]
    Api(#[from] kube::Error),
    /// The API server does not answer; whether the status was written is unknown.
    #[error("writing the status gave no answer within {} s", DEADLINE.as_secs())]
    Deadline,
}

impl Error {
    /// Whether somebody else changed the resource meanwhile, so that it must be read again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.is_conflict())
    }
}

/// Writes the status where it differs, on exactly the version of the resource that it was made from.
///
/// # Errors
/// The resource changed meanwhile, or the API server refuses or does not answer.
pub async fn write_status(
    client: &Client,
    migration: &ClusterMigration,
    status: ClusterMigrationStatus,
) -> Result<ClusterMigration, Error> {
    if migration.status.as_ref() == Some(&status) {
        return Ok(migration.clone());
    }
    let api: Api<ClusterMigration> = Api::namespaced(
        client.clone(),
        migration.metadata.namespace.as_deref().unwrap_or_default(),
    );
    let mut next = migration.clone();
    next.status = Some(status);
    let (name, parameters) = (migration.name_any(), PostParams::default());
    let write = api.replace_status(&name, &parameters, &next);
    match tokio::time::timeout(DEADLINE, write).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(Error::Deadline),
    }
}
