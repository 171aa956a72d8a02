//! Events: one for each change that a person cares about, never one for each turn.

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use super::seeding::measure_progress;
use crate::api::{ClusterMigration, ClusterMigrationStatus, ConditionType, Reason, Step, StepRecord, find_condition};

/// What is told of the way back when it begins to be so.
const WAY_BACK_NEWS: [Reason; 3] = [Reason::EndsSoon, Reason::Expired, Reason::Diverged];
/// Longest note that the API server takes, in bytes.
const NOTE: usize = 1024;

/// Publishes Events.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// A publisher that speaks as this pod.
    #[must_use]
    pub fn new(client: Client, pod: &str) -> Self {
        let reporter = Reporter {
            controller: "mitosis".to_owned(),
            instance: Some(pod.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Publishes what changed between two statuses. A failure is logged and changes nothing else.
    pub async fn publish(&self, migration: &ClusterMigration, changes: Vec<Event>) {
        let about = migration.object_ref(&());
        for event in changes {
            if let Err(error) = self.recorder.publish(&event, &about).await {
                tracing::warn!(%error, "the Event was not published");
            }
        }
    }
}

/// What changed between two statuses, as Events.
#[must_use]
pub fn describe_change(before: &ClusterMigrationStatus, after: &ClusterMigrationStatus) -> Vec<Event> {
    let mut events = Vec::new();
    for record in new_steps(before, after) {
        let kind = match record.step {
            Step::Restore | Step::Release | Step::Aborted => EventType::Warning,
            _ => EventType::Normal,
        };
        let reason = format!("Switchover{}", record.step.as_str());
        events.push(event(kind, &reason, "Switchover", &record.because));
    }
    if events.is_empty() && before.phase != after.phase {
        events.push(event(EventType::Normal, after.phase.as_str(), "Phase", &after.message));
    }
    if let Some(percent) = passed_quarter(before, after) {
        let rates = after
            .seeding
            .iter()
            .filter_map(|one| Some((one, one.bytes_per_second?)));
        let rates: Vec<String> = rates
            .map(|(one, rate)| format!("{} from {} at {} MiB/s", one.member, one.from, rate >> 20))
            .collect();
        let message = match rates.as_slice() {
            [] => format!("{percent} % of the clones"),
            rates => format!("{percent} % of the clones; {}", rates.join(", ")),
        };
        events.push(event(EventType::Normal, "SeedingProgress", "Seeding", &message));
    }
    let stalled = |status: &ClusterMigrationStatus| {
        find_condition(&status.conditions, ConditionType::Stalled)
            .filter(|condition| condition.status == "True")
            .map(|condition| (condition.reason.clone(), condition.message.clone()))
    };
    if let Some((reason, message)) = stalled(after).filter(|now| Some(now) != stalled(before).as_ref()) {
        events.push(event(EventType::Warning, &reason, "Reconcile", &message));
    }
    let way_back = |status: &ClusterMigrationStatus| {
        find_condition(&status.conditions, ConditionType::RollbackAvailable)
            .filter(|condition| WAY_BACK_NEWS.iter().any(|reason| condition.reason == reason.as_str()))
            .map(|condition| (condition.reason.clone(), condition.message.clone()))
    };
    if let Some((reason, message)) = way_back(after)
        && way_back(before).is_none_or(|(former, _)| former != reason)
    {
        events.push(event(
            EventType::Warning,
            &format!("Rollback{reason}"),
            "Rollback",
            &message,
        ));
    }
    let repairs = |status: &ClusterMigrationStatus| status.routing_drift.as_ref().map_or(0, |drift| drift.repairs);
    if repairs(after) > repairs(before)
        && let Some(condition) = find_condition(&after.conditions, ConditionType::RoutingOwned)
    {
        let reason = Reason::RoutingDrift.as_str();
        events.push(event(EventType::Warning, reason, "Routing", &condition.message));
    }
    events
}

/// The last quarter of all clones that was passed since.
fn passed_quarter(before: &ClusterMigrationStatus, after: &ClusterMigrationStatus) -> Option<u64> {
    let (then, now) = (
        measure_progress(&before.seeding).unwrap_or(0),
        measure_progress(&after.seeding)?,
    );
    [75, 50, 25]
        .into_iter()
        .find(|quarter| then < *quarter && now >= *quarter)
}

/// Steps that were recorded since.
fn new_steps<'a>(before: &ClusterMigrationStatus, after: &'a ClusterMigrationStatus) -> &'a [StepRecord] {
    let Some(record) = &after.switchover else { return &[] };
    let known = before
        .switchover
        .as_ref()
        .filter(|former| former.id == record.id)
        .map_or(0, |former| former.steps.len());
    record.steps.get(known..).unwrap_or_default()
}

fn event(kind: EventType, reason: &str, action: &str, note: &str) -> Event {
    let end = (0..=NOTE.min(note.len()))
        .rev()
        .find(|end| note.is_char_boundary(*end))
        .unwrap_or(0);
    Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(note[..end].to_owned()),
        action: action.to_owned(),
        secondary: None,
    }
}
