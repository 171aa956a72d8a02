//! Events: one for each change that a person cares about, never one for each turn.

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use crate::api::{ClusterMigration, ClusterMigrationStatus, ConditionType, Step, find_condition};

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
    let step = |status: &ClusterMigrationStatus| status.switchover.as_ref().map(|record| record.step);
    if let Some(entered) = step(after).filter(|entered| Some(*entered) != step(before)) {
        let kind = match entered {
            Step::Restore | Step::Release | Step::Aborted => EventType::Warning,
            _ => EventType::Normal,
        };
        events.push(event(
            kind,
            &format!("Switchover{}", entered.as_str()),
            "Switchover",
            &after.message,
        ));
    } else if before.phase != after.phase {
        events.push(event(EventType::Normal, after.phase.as_str(), "Phase", &after.message));
    }
    let stalled = |status: &ClusterMigrationStatus| {
        find_condition(&status.conditions, ConditionType::Stalled)
            .filter(|condition| condition.status == "True")
            .map(|condition| (condition.reason.clone(), condition.message.clone()))
    };
    if let Some((reason, message)) = stalled(after).filter(|now| Some(now) != stalled(before).as_ref()) {
        events.push(event(EventType::Warning, &reason, "Reconcile", &message));
    }
    events
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
