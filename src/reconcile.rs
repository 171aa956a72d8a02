//! The driver: observe, decide, act, report. Readable aloud.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt, runtime::controller::Action};
use tokio::time::{Instant, sleep};

use crate::{
    act::{Actor, Effects, add_finalizer},
    api::{ClusterMigration, FINALIZER, Step},
    decide::{Decided, Decision, decide},
    lease::Lease,
    observe::{Focus, Remembered, Sessions, observe},
    report::{Events, Metrics, build_status, describe_change, write_status},
};

/// How soon a turn that failed is tried again while a switchover runs.
const SWITCHOVER_RETRY: Duration = Duration::from_millis(20);
/// The shortest time between two turns outside a switchover.
const SHORTEST: Duration = Duration::from_millis(50);
/// How often the resource is read anew while a switchover runs.
const REREAD: Duration = Duration::from_secs(1);
/// The least time that an action gets.
const LAST_CHANCE: Duration = Duration::from_millis(100);

/// Everything that a turn needs besides the resource.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// Sessions to the servers.
    pub sessions: Sessions,
    /// Image for the agent beside HAProxy.
    pub agent_image: String,
    /// The right to act.
    pub lease: Lease,
    /// Publisher of Events.
    pub events: Events,
    /// What is measured.
    pub metrics: Arc<Metrics>,
}

/// Why a turn failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The world could not be read.
    #[error(transparent)]
    Observe(#[from] crate::observe::Error),
    /// An action failed or its outcome is unknown.
    #[error(transparent)]
    Act(#[from] crate::act::Error),
    /// The status was not written.
    #[error(transparent)]
    Report(#[from] crate::report::Error),
    /// The resource could not be read.
    #[error("the ClusterMigration could not be read: {0}")]
    Read(kube::Error),
    /// An action did not end before the budget did; its outcome is observed in the next turn.
    #[error("the budget was over before the action ended; its outcome is unknown")]
    Budget,
    /// Another replica may act now.
    #[error("the Lease is not held any more")]
    LeaseLost,
}

/// Looks after one migration: one turn, or as many as a running switchover needs.
///
/// # Errors
/// What failed; it is tried again with a growing pause.
pub async fn reconcile(migration: Arc<ClusterMigration>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = migration.namespace().unwrap_or_default();
    let api: Api<ClusterMigration> = Api::namespaced(context.client.clone(), &namespace);
    // What the watch showed may be old: decisions are made from what the API server holds now.
    let Some(mut current) = read(&api, &migration).await? else {
        return Ok(Action::await_change());
    };
    if current.metadata.deletion_timestamp.is_none() && !current.finalizers().iter().any(|name| name == FINALIZER) {
        current = add_finalizer(&context.client, &current).await?;
    }
    let mut remembered = None;
    let mut last_read = Instant::now();
    loop {
        match Box::pin(turn(&context, &current, remembered.take())).await {
            Ok(None) => return Ok(Action::await_change()),
            Ok(Some(Turned { next, pause, kept })) => {
                context.metrics.count_turn("ok");
                current = next;
                remembered = Some(kept);
                if !is_switching(&current) {
                    return Ok(Action::requeue(pause.max(SHORTEST)));
                }
                sleep(pause).await;
                // Nothing that this loop writes tells it of a change of the specification or of a deletion.
                if last_read.elapsed() > REREAD {
                    let Some(fresh) = read(&api, &migration).await? else {
                        return Ok(Action::await_change());
                    };
                    current = fresh;
                    last_read = Instant::now();
                }
            }
            Err(error) if is_switching(&current) && !matches!(error, Error::LeaseLost) => {
                context.metrics.count_turn("error");
                tracing::warn!(%error, "a turn of the switchover failed and is tried again");
                sleep(SWITCHOVER_RETRY).await;
                let Some(fresh) = read(&api, &migration).await? else {
                    return Ok(Action::await_change());
                };
                current = fresh;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What a turn leaves to the next one.
struct Turned {
    next: ClusterMigration,
    pause: Duration,
    kept: Remembered,
}

/// One turn; nothing is left when the resource was let go.
async fn turn(
    context: &Context,
    current: &ClusterMigration,
    remembered: Option<Remembered>,
) -> Result<Option<Turned>, Error> {
    let (seen, kept) = Box::pin(observe(&context.client, &context.sessions, current, remembered)).await?;
    let decided = decide(&seen, &context.agent_image);
    if !context.lease.is_held() {
        return Err(Error::LeaseLost);
    }
    tracing::debug!(decision = ?decided.decision, "decided");
    let effects = match &decided.decision {
        Decision::Act { actions, .. } => {
            let actor = Actor {
                client: &context.client,
                sessions: &context.sessions,
                credentials: kept.credentials(),
                seen: &seen,
            };
            match time_left(current) {
                Some(left) => tokio::time::timeout(left, actor.act(actions))
                    .await
                    .map_err(|_| Error::Budget)??,
                None => actor.act(actions).await?,
            }
        }
        Decision::Advance(_) | Decision::Wait { .. } | Decision::Halt { .. } => Effects::default(),
    };
    if effects.let_go {
        return Ok(None);
    }
    let next = if is_worth_reporting(current, &decided) {
        report(context, current, build_status(&seen, &decided, &effects)).await?
    } else {
        current.clone()
    };
    Ok(Some(Turned {
        next,
        pause: decided.decision.recheck(),
        kept,
    }))
}

/// Time until the budget ends, while everything can still be undone; an action that hangs must not hold clients for longer.
fn time_left(migration: &ClusterMigration) -> Option<Duration> {
    let record = migration.status.as_ref()?.switchover.as_ref()?;
    if record.step.is_past_no_return() || matches!(record.step, Step::Restore | Step::Release | Step::Aborted) {
        return None;
    }
    let left = record.deadline?.duration_since(Timestamp::now());
    Some(Duration::try_from(left).unwrap_or_default().max(LAST_CHANCE))
}

/// While clients are held only what must be on record is written.
fn is_worth_reporting(current: &ClusterMigration, decided: &Decided) -> bool {
    Focus::of(current) == Focus::Everything || matches!(decided.decision, Decision::Advance(_) | Decision::Halt { .. })
}

async fn report(
    context: &Context,
    current: &ClusterMigration,
    status: crate::api::ClusterMigrationStatus,
) -> Result<ClusterMigration, Error> {
    let next = write_status(&context.client, current, status).await?;
    let (before, after) = (
        current.status.clone().unwrap_or_default(),
        next.status.clone().unwrap_or_default(),
    );
    context
        .metrics
        .take_status(&next.namespace().unwrap_or_default(), &next.name_any(), &after);
    if before.message != after.message {
        tracing::info!(migration = %next.name_any(), phase = after.phase.as_str(), "{}", after.message);
    }
    let changes = describe_change(&before, &after);
    if !changes.is_empty() {
        // Beside the turn: clients may be held, and an Event can wait.
        let (events, migration) = (context.events.clone(), next.clone());
        tokio::spawn(async move { events.publish(&migration, changes).await });
    }
    Ok(next)
}

async fn read(api: &Api<ClusterMigration>, migration: &ClusterMigration) -> Result<Option<ClusterMigration>, Error> {
    match tokio::time::timeout(Duration::from_secs(10), api.get_opt(&migration.name_any())).await {
        Ok(found) => found.map_err(Error::Read),
        Err(_) => Err(Error::Observe(crate::observe::Error::Deadline)),
    }
}

fn is_switching(migration: &ClusterMigration) -> bool {
    migration
        .status
        .as_ref()
        .and_then(|status| status.switchover.as_ref())
        .is_some_and(|record| !record.step.is_terminal())
}
