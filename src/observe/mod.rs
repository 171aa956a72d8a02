//! Observe: reads the world, writes nothing. A read that fails is an error or a named gap in the [`Snapshot`], never a verdict.

mod focus;
mod inventories;
mod kubernetes;
mod layout;
mod members;
mod poolers;
mod proxies;
mod refreshes;
mod secrets;
mod snapshot;
mod traffic;

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use kube::Client;

pub use focus::Focus;
pub use inventories::Inventories;
use kubernetes::{ProxyPodPlace, Routing};
pub use layout::Misfit;
pub use members::{Sessions, target_members};
pub use poolers::{Pooler, PoolerPlace};
pub use proxies::{Lead, Leads};
pub use refreshes::Refreshes;
pub use secrets::Credentials;
pub use snapshot::{JobState, Listed, Member, Objects, Placed, ProxyPod, Sight, Snapshot, Traffic};

use crate::{
    agent::Report,
    api::{ClusterMigration, Side, Step},
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
    /// HAProxy pods as they were seen last.
    places: Vec<ProxyPodPlace>,
    /// Instances of PgBouncer as they were seen last. One that came while clients are held is held by HAProxy.
    poolers: Vec<PoolerPlace>,
    /// Whether the agents were told what the step wants, so that waiting for them is of use.
    told: bool,
}

impl Remembered {
    /// The logins, while the Secrets are usable.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref().ok()
    }

    /// After an action or a wait: the agents have been told what the step wants.
    #[must_use]
    pub fn after_an_action(self) -> Self {
        Self { told: true, ..self }
    }

    /// After a wait: what the agents were told was seen with everything else.
    #[must_use]
    pub fn after_a_look(self, seen: &Snapshot) -> Self {
        let wanted = Focus::of(&seen.migration).generation();
        let written = seen.traffic.routing.as_ref().map(|routing| routing.generation);
        Self {
            told: wanted.is_some() && written >= wanted,
            ..self
        }
    }

    /// Where there is something else to do before the agents are waited for.
    #[must_use]
    pub fn before_waiting(self) -> Self {
        Self { told: false, ..self }
    }
}

/// Reads what the next decision depends on.
///
/// # Errors
/// The API server does not answer or refuses. Servers that do not answer are part of the snapshot.
pub async fn observe(
    client: &Client,
    sessions: &Sessions,
    leads: &Leads,
    inventories: &Inventories,
    refreshes: &Refreshes,
    migration: &ClusterMigration,
    remembered: Option<Remembered>,
) -> Result<(Snapshot, Remembered), Error> {
    let focus = Focus::of(migration);
    let (kept, routing) = match remembered {
        Some(kept) if focus != Focus::Everything => (kept, None),
        _ => fetch_everything(client, migration).await?,
    };
    let mut members = members::list_members(migration, &kept.objects);
    let unseen = members.clone();
    // Clients wait: everything is asked at once. A pod that is new since the last look is asked in the next one.
    let traffic = async {
        match routing {
            Some(routing) => Ok((routing, kept.places.clone())),
            None if focus == Focus::Routing => Ok((kubernetes::fetch_routing(client, migration).await?, Vec::new())),
            None if focus.includes_proxies() => kubernetes::fetch_traffic(client, migration).await,
            None => Ok((Routing::default(), Vec::new())),
        }
    };
    let awaited = focus.generation().filter(|_| kept.told);
    let reporting = async {
        if focus.includes_proxies() {
            fetch_reports(&kept.places, awaited).await
        } else {
            BTreeMap::new()
        }
    };
    let proxies = async {
        match focus {
            // Clients come back now: what is left to be read does not compete with them.
            Focus::Released { .. } if awaited.is_some() => {
                let reports = reporting.await;
                (traffic.await, reports)
            }
            _ => futures::future::join(traffic, reporting).await,
        }
    };
    let poolers = async {
        if focus.includes_proxies() {
            poolers::look_at(&kept.poolers, migration, &kept.credentials, sessions).await
        } else {
            Vec::new()
        }
    };
    let servers = async {
        let Ok(credentials) = &kept.credentials else {
            return (false, None);
        };
        let looking = members::look_at(&mut members, migration, &kept.objects, focus, credentials, sessions);
        let canary = look_for_canary(migration, credentials, sessions, &unseen);
        let ((), canary) = futures::future::join(looking, canary).await;
        (canary, look_for_fork(migration, &members, credentials, sessions).await)
    };
    let ((traffic, reports), poolers, (canary_replayed, fork)) =
        Box::pin(futures::future::join3(proxies, poolers, servers)).await;
    let (mut routing, places) = traffic?;
    if focus == Focus::Everything && reports.values().flatten().any(|report| report.conflict) {
        // An agent saw what somebody wrote after it was read here: whose change it is would not be known, nor that there is one.
        routing = kubernetes::fetch_routing(client, migration).await?;
    }
    let mut traffic = Traffic {
        routing: routing.written,
        editor: routing.editor,
        placed: routing.placed,
        pods: list_pods(migration, &places, reports, refreshes),
        poolers,
    };
    let mut inventory = Listed::NotYet;
    if let (Focus::Everything, Ok(credentials)) = (focus, &kept.credentials) {
        inventory = inventories.look(migration, &members, credentials);
        leads
            .fill(&mut traffic, &places, migration, &members, credentials)
            .await;
    }
    let snapshot = Snapshot {
        now: Timestamp::now(),
        migration: migration.clone(),
        secrets: kept.credentials.as_ref().map(|_| ()).map_err(Clone::clone),
        members,
        objects: kept.objects.clone(),
        traffic,
        inventory,
        source_user: kept
            .credentials
            .as_ref()
            .map(|credentials| credentials.source.user.clone())
            .unwrap_or_default(),
        canary_replayed,
        fork,
    };
    let kept = Remembered {
        places: if focus.includes_proxies() { places } else { kept.places },
        ..kept
    };
    Ok((snapshot, kept))
}

/// The HAProxy pods with what they report.
fn list_pods(
    migration: &ClusterMigration,
    places: &[ProxyPodPlace],
    mut reports: BTreeMap<String, Option<Report>>,
    refreshes: &Refreshes,
) -> Vec<ProxyPod> {
    let namespace = migration.metadata.namespace.as_deref().unwrap_or_default();
    places
        .iter()
        .map(|place| ProxyPod {
            name: place.name.clone(),
            addresses: [&place.ip, &place.node_ip]
                .into_iter()
                .filter_map(|ip| ip.parse().ok())
                .collect(),
            was_asked: reports.contains_key(&place.name),
            report: reports.remove(&place.name).flatten(),
            lead: Lead::default(),
            misfits: place.misfits.clone(),
            refreshed: place.refreshed.max(refreshes.last(namespace, &place.name)),
        })
        .collect()
}

/// Reads everything in Kubernetes: what is remembered of it, and the routing.
async fn fetch_everything(
    client: &Client,
    migration: &ClusterMigration,
) -> Result<(Remembered, Option<Routing>), Error> {
    let (objects, credentials, (routing, places), poolers) = futures::future::try_join4(
        Box::pin(kubernetes::fetch_objects(client, migration)),
        secrets::fetch_credentials(client, migration),
        Box::pin(kubernetes::fetch_traffic(client, migration)),
        poolers::list_places(client, migration),
    )
    .await?;
    let kept = Remembered {
        credentials,
        objects,
        places,
        poolers,
        told: false,
    };
    Ok((kept, Some(routing)))
}

/// What the agents answer, by pod.
async fn fetch_reports(places: &[ProxyPodPlace], awaited: Option<u64>) -> BTreeMap<String, Option<Report>> {
    let asked = places
        .iter()
        .map(|place| async move { (place.name.clone(), traffic::fetch_report(&place.ip, awaited).await) });
    join_all(asked).await.into_iter().collect()
}

/// Whether the canary row of the running switchover is on the member that is promoted.
async fn look_for_canary(
    migration: &ClusterMigration,
    credentials: &Credentials,
    sessions: &Sessions,
    members: &[Member],
) -> bool {
    let record = migration.status.as_ref().and_then(|status| status.switchover.as_ref());
    let Some(record) = record.filter(|record| {
        matches!(
            record.step,
            Step::Gate | Step::Stop | Step::Prove | Step::Follow | Step::Done
        )
    }) else {
        return false;
    };
    let Some(member) = members.iter().find(|member| member.name.as_str() == record.new_primary) else {
        return false;
    };
    let look = async {
        let session = sessions.get(credentials.of(member.side), &member.address).await?;
        fetch_canary(&session, &record.id).await
    };
    look.await.unwrap_or(false)
}

/// Where the timeline of the new primary forks off, once there is one.
async fn look_for_fork(
    migration: &ClusterMigration,
    members: &[Member],
    credentials: &Credentials,
    sessions: &Sessions,
) -> Option<crate::postgres::Lsn> {
    let record = migration.status.as_ref()?.switchover.as_ref()?;
    let primary = match (record.step, record.to) {
        (Step::Follow | Step::Done, _) => &record.new_primary,
        // The way back was undone.
        (Step::Aborted, Side::Source) => &record.old_primary,
        _ => return None,
    };
    let member = members.iter().find(|member| member.name.as_str() == *primary)?;
    let server = member.server().filter(|server| !server.in_recovery)?;
    let session = sessions.get(credentials.of(member.side), &member.address).await.ok()?;
    fetch_fork(&session, server.timeline).await.ok()
}
