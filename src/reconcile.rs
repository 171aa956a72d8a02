//! The driver: observe, decide, act, report. Readable aloud.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt, runtime::controller::Action};
use tokio::time::{Instant, sleep};

use crate::{
    act::{Actor, Effects, add_finalizer},
    api::{ClusterMigration, ClusterMigrationStatus, ConditionType, FINALIZER, Step, find_condition},
    crash::{self, Moment},
    decide::{Advance, Decided, Decision, Effect, decide},
    lease::Lease,
    observe::{Focus, Inventories, Leads, Refreshes, Remembered, Sessions, Snapshot, observe},
    report::{Events, Metrics, build_status, describe_change, needs_person, write_status},
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
    /// What was reached through HAProxy lately.
    pub leads: Leads,
    /// What the source said of its machine.
    pub inventories: Inventories,
    /// When the kubelet was asked for what HAProxy pods mount.
    pub refreshes: Refreshes,
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
    let mut last_read = Instant::now();
    // What the watch showed may be old: decisions are made from what the API server holds now.
    let Some(mut current) = read(&api, &migration).await? else {
        return Ok(Action::await_change());
    };
    if current.metadata.deletion_timestamp.is_none() && !current.finalizers().iter().any(|name| name == FINALIZER) {
        current = add_finalizer(&context.client, &current).await?;
    }
    let mut published = current.status.clone().unwrap_or_default();
    let mut seen = None;
    loop {
        match Box::pin(turn(&context, &current, seen.take(), &mut published, last_read)).await {
            Ok(None) => return Ok(Action::await_change()),
            Ok(Some(turned)) => {
                context.metrics.count_turn("ok");
                current = turned.next;
                seen = Some(turned.seen);
                last_read = turned.confirmed.unwrap_or(last_read);
                if !is_switching(&current) {
                    return Ok(Action::requeue(turned.pause.max(SHORTEST)));
                }
                sleep(turned.pause).await;
                // Nothing that this loop writes tells it of a change of the specification or of a deletion.
                if last_read.elapsed() > REREAD {
                    last_read = Instant::now();
                    let Some(fresh) = read(&api, &migration).await? else {
                        return Ok(Action::await_change());
                    };
                    if is_news(&fresh, &current) {
                        current = fresh;
                        seen = seen.map(Seen::outdated);
                    }
                }
            }
            Err(error) if is_switching(&current) && !matches!(error, Error::LeaseLost) => {
                context.metrics.count_turn("error");
                tracing::warn!(%error, "a turn of the switchover failed and is tried again");
                sleep(SWITCHOVER_RETRY).await;
                last_read = Instant::now();
                let Some(fresh) = read(&api, &migration).await? else {
                    return Ok(Action::await_change());
                };
                if is_news(&fresh, &current) {
                    current = fresh;
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether somebody wrote since. Where nobody did, what is known and not stored, the covered steps, stays.
fn is_news(fresh: &ClusterMigration, current: &ClusterMigration) -> bool {
    fresh.metadata.resource_version != current.metadata.resource_version
}

/// What was seen: for the next decision, or only kept from an earlier one.
enum Seen {
    /// Nothing has changed since but the record.
    Now(Box<Snapshot>, Remembered),
    /// The world has changed since.
    Before(Remembered),
}

impl Seen {
    fn outdated(self) -> Self {
        match self {
            Self::Now(_, kept) | Self::Before(kept) => Self::Before(kept),
        }
    }
}

/// What a turn leaves to the next one.
struct Turned {
    next: ClusterMigration,
    pause: Duration,
    seen: Seen,
    /// When the API server was asked to take what this turn wrote, and took it: nobody else had written before.
    confirmed: Option<Instant>,
}

/// One turn; nothing is left when the resource was let go. `read` is when the resource was last known to be current.
async fn turn(
    context: &Context,
    current: &ClusterMigration,
    seen: Option<Seen>,
    published: &mut ClusterMigrationStatus,
    read: Instant,
) -> Result<Option<Turned>, Error> {
    let began = Instant::now();
    let (snapshot, kept) = match seen {
        Some(Seen::Now(mut snapshot, kept)) => {
            snapshot.migration = current.clone();
            snapshot.now = Timestamp::now();
            (snapshot, kept)
        }
        Some(Seen::Before(kept)) => look(context, current, Some(kept)).await?,
        None => look(context, current, None).await?,
    };
    let observed = Instant::now();
    let decided = decide(&snapshot, &context.agent_image);
    if !context.lease.is_held() {
        return Err(Error::LeaseLost);
    }
    tracing::debug!(decision = ?decided.decision, "decided");
    let pause = decided.decision.recheck();
    let turned = match &decided.decision {
        Decision::Act { actions, effect, .. } => {
            let actor = Actor {
                client: &context.client,
                lease: &context.lease,
                sessions: &context.sessions,
                refreshes: &context.refreshes,
                credentials: kept.credentials(),
                seen: &snapshot,
                read,
            };
            let reach = |moment| effect.iter().for_each(|effect| crash::reach(moment, effect.as_str()));
            reach(Moment::Before);
            let effects = match time_left(current) {
                Some(left) => tokio::time::timeout(left, actor.act(actions))
                    .await
                    .map_err(|_| Error::Budget)??,
                None => actor.act(actions).await?,
            };
            reach(Moment::After);
            if effects.let_go {
                return Ok(None);
            }
            let (next, confirmed) = report(context, current, &snapshot, &decided, &effects, published).await?;
            Turned {
                next,
                pause,
                seen: Seen::Before(match effect {
                    // HAProxy is told next.
                    Some(Effect::Pause) => kept.before_waiting(),
                    _ => kept.after_an_action(),
                }),
                confirmed,
            }
        }
        Decision::Advance(advance) => {
            let (next, seen, confirmed) =
                record(context, current, (snapshot, kept), &decided, advance, published).await?;
            Turned {
                next,
                pause,
                seen,
                confirmed,
            }
        }
        Decision::Wait { .. } | Decision::Halt { .. } => {
            let (next, confirmed) =
                report(context, current, &snapshot, &decided, &Effects::default(), published).await?;
            Turned {
                next,
                pause,
                seen: Seen::Before(kept.after_a_look(&snapshot)),
                confirmed,
            }
        }
    };
    if is_switching(current) && matches!(decided.decision, Decision::Advance(_) | Decision::Act { .. }) {
        tracing::info!(
            decision = decided.decision.name(),
            looked_milliseconds = (observed - began).as_millis(),
            acted_milliseconds = observed.elapsed().as_millis(),
            "a turn of the switchover"
        );
    }
    Ok(Some(turned))
}

async fn look(
    context: &Context,
    migration: &ClusterMigration,
    kept: Option<Remembered>,
) -> Result<(Box<Snapshot>, Remembered), Error> {
    let (snapshot, kept) = Box::pin(observe(
        &context.client,
        &context.sessions,
        &context.leads,
        &context.inventories,
        &context.refreshes,
        migration,
        kept,
    ))
    .await?;
    Ok((Box::new(snapshot), kept))
}

/// Records the next step before any effect of it. While that is written, what the step depends on is looked at already.
async fn record(
    context: &Context,
    current: &ClusterMigration,
    (snapshot, kept): (Box<Snapshot>, Remembered),
    decided: &Decided,
    advance: &Advance,
    published: &mut ClusterMigrationStatus,
) -> Result<(ClusterMigration, Seen, Option<Instant>), Error> {
    let status = build_status(&snapshot, decided, &Effects::default());
    let mut next = current.clone();
    if advance.to.is_covered() {
        // The record of the step before covers this one: an operator that starts anew comes here again by what it sees.
        next.status = Some(status);
        let kept = kept.before_waiting();
        let seen = match Focus::of(&next) {
            Focus::Everything => Seen::Before(kept),
            _ => Seen::Now(snapshot, kept),
        };
        return Ok((next, seen, None));
    }
    let what = format!("record-{}", advance.to.as_str());
    crash::reach(Moment::Before, &what);
    next.status = Some(status.clone());
    let asked = Instant::now();
    let written = write_status(&context.client, current, status);
    let looks_ahead = is_switching(&next) && Focus::of(&next) != Focus::Everything;
    let kept = kept.before_waiting();
    let (written, looked) = if looks_ahead {
        futures::future::join(written, look(context, &next, Some(kept))).await
    } else {
        (written.await, Ok((snapshot, kept)))
    };
    let next = written?;
    crash::reach(Moment::After, &what);
    tell(context, &next, published);
    let seen = match looked {
        Ok((snapshot, kept)) if looks_ahead => Seen::Now(snapshot, kept),
        Ok((_, kept)) => Seen::Before(kept),
        // It is looked at anew, with everything.
        Err(error) => return Err(error),
    };
    Ok((next, seen, Some(asked)))
}

/// Writes what is worth it: while clients are held only that a person must act.
async fn report(
    context: &Context,
    current: &ClusterMigration,
    snapshot: &Snapshot,
    decided: &Decided,
    effects: &Effects,
    published: &mut ClusterMigrationStatus,
) -> Result<(ClusterMigration, Option<Instant>), Error> {
    let asks_a_person = match &decided.decision {
        Decision::Wait { told, .. } | Decision::Halt { told } => needs_person(told.reason),
        Decision::Act { .. } | Decision::Advance(_) => false,
    };
    if Focus::of(current) != Focus::Everything && !asks_a_person {
        return Ok((remember(current, effects), None));
    }
    let status = build_status(snapshot, decided, effects);
    if current.status.as_ref() == Some(&status) {
        return Ok((current.clone(), None));
    }
    let asked = Instant::now();
    let next = write_status(&context.client, current, status).await?;
    tell(context, &next, published);
    Ok((next, Some(asked)))
}

/// What was done and is not stored yet: it is written with the next record.
fn remember(current: &ClusterMigration, effects: &Effects) -> ClusterMigration {
    let mut next = current.clone();
    let record = next.status.as_mut().and_then(|status| status.switchover.as_mut());
    if let Some(record) = record.filter(|_| effects.first_write.is_some()) {
        record.first_write = effects.first_write;
    }
    next
}

/// Tells what changed since it was last told: by the log, by metrics and by Events. While clients are held it is kept for later, since
/// each Event is work for the API server that they would wait for.
fn tell(context: &Context, next: &ClusterMigration, published: &mut ClusterMigrationStatus) {
    let after = next.status.clone().unwrap_or_default();
    if published.message != after.message {
        tracing::info!(migration = %next.name_any(), phase = after.phase.as_str(), "{}", after.message);
    }
    if matches!(Focus::of(next), Focus::Everything)
        || find_condition(&after.conditions, ConditionType::Stalled).is_some_and(|stalled| stalled.status == "True")
    {
        context
            .metrics
            .take_status(&next.namespace().unwrap_or_default(), &next.name_any(), &after);
        let changes = describe_change(published, &after);
        *published = after;
        if !changes.is_empty() {
            let (events, migration) = (context.events.clone(), next.clone());
            tokio::spawn(async move { events.publish(&migration, changes).await });
        }
    }
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
