//! Observe: reads the world, writes nothing. A read that fails is an error or a named gap in the [`Snapshot`], never a verdict.

mod focus;
mod kubernetes;
mod members;
mod secrets;
mod snapshot;
mod traffic;

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use kube::Client;

pub use focus::Focus;
pub use members::{Sessions, target_members};
pub use secrets::Credentials;
pub use snapshot::{JobState, Member, Objects, ProxyPod, Sight, Snapshot, Traffic};

use crate::{
    api::{ClusterMigration, Step},
    postgres::{fetch_canary, fetch_fork},
};

/// How long the API server may take for one call.
const API_DEADLINE: Duration = Duration::from_secs(10);

/// Why the world could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refuses.
    #[error("the API server refused a read: {0}")]
    Api(#[from] kube::Error),
    /// The API server does not answer.
    #[error("the API server gave no answer within {} s", API_DEADLINE.as_secs())]
    Deadline,
}

/// A call of the API server, with its deadline.
async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(API_DEADLINE, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::Deadline),
    }
}

/// What is kept from turn to turn of a switchover, in which only the focus is read anew.
pub struct Remembered {
    credentials: Result<Credentials, String>,
    objects: Objects,
}

impl Remembered {
    /// The logins, while the Secrets are usable.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref().ok()
    }
}

/// Reads what the next decision depends on.
///
/// # Errors
/// The API server does not answer or refuses. Servers that do not answer are part of the snapshot.
pub async fn observe(
    client: &Client,
    sessions: &Sessions,
    migration: &ClusterMigration,
    remembered: Option<Remembered>,
) -> Result<(Snapshot, Remembered), Error> {
    let focus = Focus::of(migration);
    let mut routing = None;
    let mut places = Vec::new();
    let kept = match remembered {
        Some(kept) if focus != Focus::Everything => {
            if focus.includes_proxies() {
                (routing, places) = kubernetes::fetch_traffic(client, migration).await?;
            }
            kept
        }
        _ => {
            let (found, credentials) = futures::future::try_join(
                Box::pin(kubernetes::fetch_objects(client, migration)),
                secrets::fetch_credentials(client, migration),
            )
            .await?;
            (routing, places) = (found.routing, found.proxies);
            Remembered {
                credentials,
                objects: found.objects,
            }
        }
    };
    let mut members = members::list_members(migration, &kept.objects);
    let mut canary_on_leader = false;
    let mut fork = None;
    if let Ok(credentials) = &kept.credentials {
        let looking = members::look_at(&mut members, migration, &kept.objects, focus, credentials, sessions);
        // Agents are waited for only once they have been told: before that they have nothing new to say, and clients are held.
        let told = routing.as_ref().map(|routing| routing.generation);
        let awaited = focus.generation().filter(|generation| told == Some(*generation));
        let reporting = fetch_reports(&places, awaited);
        let ((), reports) = futures::future::join(looking, reporting).await;
        (canary_on_leader, fork) = look_at_leader(migration, &members, credentials, sessions).await;
        let snapshot = Snapshot {
            now: Timestamp::now(),
            migration: migration.clone(),
            secrets: Ok(()),
            members,
            objects: kept.objects.clone(),
            traffic: Traffic { routing, pods: reports },
            source_user: credentials.source.user.clone(),
            canary_on_leader,
            fork,
        };
        return Ok((snapshot, kept));
    }
    let secrets = kept.credentials.as_ref().map(|_| ()).map_err(Clone::clone);
    let snapshot = Snapshot {
        now: Timestamp::now(),
        migration: migration.clone(),
        secrets,
        members,
        objects: kept.objects.clone(),
        traffic: Traffic {
            routing,
            pods: fetch_reports(&places, None).await,
        },
        source_user: String::new(),
        canary_on_leader,
        fork,
    };
    Ok((snapshot, kept))
}

async fn fetch_reports(places: &[kubernetes::ProxyPodPlace], awaited: Option<u64>) -> Vec<ProxyPod> {
    join_all(places.iter().map(|place| async move {
        ProxyPod {
            name: place.name.clone(),
            report: traffic::fetch_report(&place.ip, awaited).await,
        }
    }))
    .await
}

/// What a running switchover needs to know of the leader beyond its state: the canary row and the fork of its timeline.
async fn look_at_leader(
    migration: &ClusterMigration,
    members: &[Member],
    credentials: &Credentials,
    sessions: &Sessions,
) -> (bool, Option<crate::postgres::Lsn>) {
    let Some(record) = migration.status.as_ref().and_then(|status| status.switchover.as_ref()) else {
        return (false, None);
    };
    let wanted = matches!(record.step, Step::Gate | Step::Prove | Step::Follow);
    let Some((leader, server)) = members
        .iter()
        .find(|member| wanted && member.name.as_str() == record.leader)
        .and_then(|member| Some((member, member.server()?)))
    else {
        return (false, None);
    };
    let Ok(session) = sessions.get(&credentials.target, &leader.address).await else {
        return (false, None);
    };
    let canary = fetch_canary(&session, &record.id).await.unwrap_or(false);
    let fork = if server.in_recovery {
        None
    } else {
        fetch_fork(&session, server.timeline).await.ok()
    };
    (canary, fork)
}
