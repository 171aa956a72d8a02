//! Instances of PgBouncer: which there are, and what each says.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt, api::ListParams};
use tokio::time::timeout;

use super::{Error, Focus, Sessions, within};
use crate::{
    address::Address,
    api::ClusterMigration,
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
    let Some(pgbouncer) = migration
        .spec
        .traffic
        .as_ref()
        .and_then(|traffic| traffic.pgbouncer.as_ref())
    else {
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
        let selector = ListParams::default().labels(&render_selector(labels));
        let found = within(pods.list(&selector)).await?.items;
        places.extend(found.iter().filter_map(|pod| {
            // One that is ending has told its clients to go.
            let serves = pod.metadata.deletion_timestamp.is_none();
            let ip = pod.status.as_ref()?.pod_ip.as_deref().filter(|_| serves)?;
            Some(PoolerPlace {
                name: pod.name_any(),
                address: Address::new(ip, pgbouncer.port).ok()?,
            })
        }));
    }
    Ok(places)
}

/// Looks at instances, all at once.
pub async fn look_at(places: &[PoolerPlace], focus: Focus, login: Option<&Login>, sessions: &Sessions) -> Vec<Pooler> {
    let patience = if focus == Focus::Everything { LOOK } else { GLANCE };
    let looks = places.iter().map(async |place| {
        let sight = match login {
            None => Err("its Secret is not usable".to_owned()),
            Some(login) => match timeout(patience, look(login, place, focus, sessions)).await {
                Ok(Ok(instance)) => Ok(instance),
                Ok(Err(error)) => {
                    sessions.forget(login, &place.address);
                    Err(error.to_string())
                }
                Err(_) => {
                    sessions.forget(login, &place.address);
                    Err(format!("no answer within {} ms", patience.as_millis()))
                }
            },
        };
        Pooler {
            place: place.clone(),
            sight,
        }
    });
    join_all(looks).await
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
