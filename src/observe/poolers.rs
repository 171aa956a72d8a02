//! Instances of PgBouncer: which there are, and what each says.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt, api::ListParams};
use tokio::time::timeout;

use super::{Credentials, Error, Focus, Sessions, kubernetes::has_started, within};
use crate::{
    address::Address,
    api::{ClusterMigration, SwitchoverStatus},
    pgbouncer::{Instance, fetch_databases, fetch_settings},
    postgres::{self, Login},
    resources::render_selector,
};

/// How long a look at one instance may take while clients wait.
const GLANCE: Duration = Duration::from_millis(500);
/// The same when nobody waits.
const LOOK: Duration = Duration::from_secs(4);

/// Where an instance of PgBouncer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolerPlace {
    /// The name of its pod, or its address.
    pub name: String,
    /// Address of its console.
    pub address: Address,
}

/// An instance of PgBouncer.
#[derive(Clone, Debug)]
pub struct Pooler {
    /// Where it is.
    pub place: PoolerPlace,
    /// What it says; else why it was not seen.
    pub sight: Result<Instance, String>,
}

/// Lists the instances that the specification names or selects.
///
/// # Errors
/// The API server does not answer in time or refuses.
pub async fn list_places(client: &Client, migration: &ClusterMigration) -> Result<Vec<PoolerPlace>, Error> {
    let Some(pgbouncer) = migration.spec.pgbouncer() else {
        return Ok(Vec::new());
    };
    let named = pgbouncer.hosts.iter().flatten().filter_map(|text| {
        Some(PoolerPlace {
            name: text.clone(),
            address: text.parse().ok()?,
        })
    });
    let mut places: Vec<PoolerPlace> = named.collect();
    if let Some(labels) = &pgbouncer.selector {
        let pods: Api<Pod> = Api::namespaced(
            client.clone(),
            migration.metadata.namespace.as_deref().unwrap_or_default(),
        );
        // What cannot be a label is refused when it is decided on.
        let Ok(selector) = render_selector(labels) else {
            return Ok(Vec::new());
        };
        let found = within(pods.list(&ListParams::default().labels(&selector))).await?.items;
        places.extend(found.iter().filter_map(|pod| {
            let ip = pod.status.as_ref()?.pod_ip.as_deref().filter(|_| has_started(pod))?;
            Some(PoolerPlace {
                name: pod.name_any(),
                address: Address::new(ip, pgbouncer.port).ok()?,
            })
        }));
    }
    Ok(places)
}

/// Looks at instances, all at once.
pub async fn look_at(
    places: &[PoolerPlace],
    migration: &ClusterMigration,
    credentials: &Result<Credentials, String>,
    sessions: &Sessions,
) -> Vec<Pooler> {
    let login = credentials
        .as_ref()
        .and_then(|credentials| credentials.pgbouncer.as_ref());
    let record = migration.status.as_ref().and_then(|status| status.switchover.as_ref());
    let somebody_waits = record.is_some_and(SwitchoverStatus::is_under_way);
    let patience = if somebody_waits { GLANCE } else { LOOK };
    let focus = Focus::of(migration);
    let looks = places.iter().map(async |place| Pooler {
        place: place.clone(),
        sight: match login {
            Ok(login) => look_within(patience, login, place, focus, sessions).await,
            Err(because) => Err(because.clone()),
        },
    });
    join_all(looks).await
}

async fn look_within(
    patience: Duration,
    login: &Login,
    place: &PoolerPlace,
    focus: Focus,
    sessions: &Sessions,
) -> Result<Instance, String> {
    let late = |_| format!("no answer within {} ms", patience.as_millis());
    let seen = timeout(patience, look(login, place, focus, sessions))
        .await
        .map_err(late);
    let seen = seen.and_then(|seen| seen.map_err(|error| error.to_string()));
    if seen.is_err() {
        sessions.forget(login, &place.address);
    }
    seen
}

async fn look(
    login: &Login,
    place: &PoolerPlace,
    focus: Focus,
    sessions: &Sessions,
) -> Result<Instance, postgres::Error> {
    let console = sessions.get(login, &place.address).await?;
    Ok(Instance {
        databases: fetch_databases(&console).await?,
        settings: match focus {
            Focus::Everything => Some(fetch_settings(&console).await?),
            _ => None,
        },
    })
}
