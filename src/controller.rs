//! The operator: competes for the Lease, watches, and looks after each migration.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config, ResourceExt,
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        predicates,
        reflector::{self, ObjectRef},
        watcher,
    },
};

use crate::{
    api::{ClusterMigration, LABEL_COMPONENT, LABEL_MIGRATION},
    config::OperatorArgs,
    http,
    lease::Lease,
    observe::{Inventories, Leads, Refreshes, Sessions},
    reconcile::{Context, Error, reconcile},
    report::{Events, Metrics},
};

/// How soon a turn that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How long giving the Lease back may take.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// Runs the operator until it is told to stop or loses its Lease.
///
/// # Errors
/// The API server cannot be reached at all, or the address for /metrics is taken.
pub async fn run(args: OperatorArgs) -> anyhow::Result<()> {
    let client = connect().await?;
    let metrics = Arc::new(Metrics::default());
    let served = tokio::spawn(http::serve(args.listen, Arc::clone(&metrics)));
    let (mut lease, competing) = Lease::compete(client.clone(), &args)
        .await
        .context("competing for the Lease failed: check the Role of the operator's ServiceAccount")?;
    let stop = shutdown_signal();
    tokio::pin!(stop);
    tracing::info!(lease = %args.lease, "waiting for the Lease");
    tokio::select! {
        acquired = lease.acquired() => anyhow::ensure!(acquired, "the Lease cannot be had any more"),
        () = &mut stop => return Ok(()),
        ended = served => return ended.context("serving /metrics ended")?.context("serving /metrics failed"),
    }
    tracing::info!("the Lease is held: looking after migrations");
    let context = Arc::new(Context {
        client: client.clone(),
        sessions: Sessions::default(),
        leads: Leads::default(),
        inventories: Inventories::default(),
        refreshes: Refreshes::default(),
        agent_image: args.image.clone(),
        lease: lease.clone(),
        events: Events::new(client.clone(), &args.pod),
        metrics,
    });
    let controllers: Vec<_> = match args.namespaces() {
        names if names.is_empty() => vec![watch(Api::all(client.clone()), Api::all(client), Arc::clone(&context))],
        names => names
            .iter()
            .map(|name| {
                let migrations = Api::namespaced(client.clone(), name);
                watch(migrations, Api::namespaced(client.clone(), name), Arc::clone(&context))
            })
            .collect(),
    };
    let controllers = futures::future::join_all(controllers);
    let mut competing = competing;
    let result = tokio::select! {
        _ = controllers => Ok(()),
        () = lease.lost() => Err(anyhow::anyhow!("the Lease is lost: another replica acts now")),
        _ = &mut competing => Err(anyhow::anyhow!("the Lease cannot be kept")),
        () = &mut stop => Ok(()),
    };
    tracing::info!("ending");
    // When nobody asks for it any more, the Lease is given back, so that the next replica need not wait for its end.
    drop((lease, context));
    if result.is_ok() && tokio::time::timeout(GIVE_BACK, competing).await.is_err() {
        tracing::warn!("the Lease was not given back in time; the next replica waits for its end");
    }
    result
}

/// A client that never repeats a call on its own: an unknown outcome must be seen, not hidden.
///
/// # Errors
/// There is no configuration for the API server.
pub async fn connect() -> anyhow::Result<Client> {
    let mut config = Config::infer()
        .await
        .context("no way to the API server is configured")?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.write_timeout = Some(Duration::from_secs(10));
    Client::try_from(config).context("the configuration for the API server is not usable")
}

async fn watch(migrations: Api<ClusterMigration>, routings: Api<ConfigMap>, context: Arc<Context>) {
    let (reader, writer) = reflector::store();
    let stream = watcher(migrations, watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        // Our own status writes are no news.
        .predicate_filter(
            |migration: &ClusterMigration| {
                Some(hash((
                    predicates::generation(migration),
                    predicates::finalizers(migration),
                    migration.metadata.deletion_timestamp.is_some(),
                )))
            },
            kube::runtime::PredicateConfig::default(),
        );
    // Whoever changes the routing has it put right at once.
    let of_routings = watcher::Config::default().labels(&format!("{LABEL_COMPONENT}=routing"));
    Controller::for_stream(stream, reader)
        .watches(routings, of_routings, migration_of)
        .run(reconcile, retry, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::warn!(%error, "a turn failed");
            }
        })
        .await;
}

/// The migration that a routing belongs to.
#[expect(clippy::needless_pass_by_value, reason = "the signature is the controller's")]
fn migration_of(routing: ConfigMap) -> Option<ObjectRef<ClusterMigration>> {
    let name = routing.labels().get(LABEL_MIGRATION)?;
    Some(ObjectRef::new(name).within(routing.metadata.namespace.as_deref()?))
}

fn hash<T: std::hash::Hash>(value: T) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is the controller's")]
fn retry(_: Arc<ClusterMigration>, _: &Error, context: Arc<Context>) -> Action {
    context.metrics.count_turn("error");
    Action::requeue(RETRY)
}

async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
