//! The resource is being deleted: slots that were made on the source go; data, pods and traffic stay.

use std::time::Duration;

use super::{Action, Decision, Told, readers::decide_readers};
use crate::{
    api::{Phase, Reason, Side},
    observe::Snapshot,
};

/// How long unreachable source members are waited for, in seconds, before the resource goes without them.
const PATIENCE: f64 = 30.0;

/// Drops the slots on the source that target members used, then lets the resource go.
pub fn decide_ending(seen: &Snapshot) -> Decision {
    let told = |message: String| Told::new(Phase::Ending, Reason::Ending, message);
    let mut drops = Vec::new();
    for member in seen.side(Side::Source) {
        let Some(server) = member.server() else { continue };
        let ours = seen.side(Side::Target).map(|target| target.name.slot());
        drops.extend(
            ours.filter(|slot| server.has_slot(slot.as_str()))
                .map(|slot| Action::DropSlot {
                    on: member.name.clone(),
                    slot,
                }),
        );
    }
    if !drops.is_empty() {
        return Decision::Act {
            actions: drops,
            effect: None,
            told: told("replication slots on the source are dropped".to_owned()),
        };
    }
    let status = seen.migration.status.as_ref();
    let began = status.is_some_and(|status| status.system_identifier.is_some());
    let unseen: Vec<&str> = seen
        .side(Side::Source)
        .filter(|member| member.server().is_none())
        .map(|member| member.name.as_str())
        .collect();
    let since = seen
        .migration
        .metadata
        .deletion_timestamp
        .as_ref()
        .and_then(|time| (seen.now - time.0).total(jiff::Unit::Second).ok())
        .unwrap_or(0.0);
    if began && !unseen.is_empty() && since < PATIENCE {
        return Decision::Wait {
            told: told(format!(
                "{} must answer so that replication slots can be dropped there",
                unseen.join(", ")
            )),
            recheck: Duration::from_secs(1),
        };
    }
    let left = if began && !unseen.is_empty() {
        format!(
            "slots named mitosis_* may be left on {}: drop them with pg_drop_replication_slot",
            unseen.join(", ")
        )
    } else {
        "nothing is left on the source".to_owned()
    };
    let last = told("readers are led to the standbys that follow".to_owned());
    // A ConfigMap of the user's that cannot be written keeps nothing from going.
    if since < PATIENCE
        && let [primary] = seen.primaries()[..]
        && let Some(decision) = decide_readers(seen, primary.name.as_str(), &last)
    {
        return decision;
    }
    Decision::Act {
        actions: vec![Action::LetGo],
        effect: None,
        told: told(left),
    }
}
