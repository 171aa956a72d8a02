//! Switched: the target is primary; its followers, the traffic and the way back are kept.

use std::time::Duration;

use super::{
    Action, Decision, Told, begin_unless_consumed,
    members::{decide_member, plan_labels, plan_objects},
    rewind::decide_rewind,
    routing::plan_steady,
    way_back::{decide_completion, find_way_back},
};
use crate::{
    api::{DesiredPhase, Phase, Reason, Side},
    observe::{Member, Snapshot},
};

/// Keeps what a switchover to the target left. `primary` is the target's member that must be primary.
pub fn decide_switched(seen: &Snapshot, primary: &str, agent_image: &str) -> Decision {
    match seen.member(primary) {
        Some(primary) => keep(seen, primary, agent_image),
        None => wait(
            Reason::NeedsAttention,
            "the new primary is not in the specification any more".to_owned(),
        ),
    }
}

/// The target is primary without a switchover on record: a `ClusterMigration` that was deleted after its switch and applied again.
pub fn decide_found_switched(seen: &Snapshot, primary: &Member, agent_image: &str) -> Decision {
    let unseen: Vec<&str> = seen
        .side(Side::Source)
        .filter(|member| member.server().is_none())
        .map(|member| member.name.as_str())
        .collect();
    if !unseen.is_empty() {
        return wait(
            Reason::MemberUnreachable,
            format!(
                "{} is primary; whether {} is primary too is not known until it answers",
                primary.name,
                unseen.join(" or ")
            ),
        );
    }
    let mine = primary.server().map(|server| server.system_identifier.as_str());
    let foreign = seen.members.iter().find(|member| {
        member
            .server()
            .is_some_and(|server| Some(server.system_identifier.as_str()) != mine)
    });
    if let Some(foreign) = foreign {
        return Decision::Halt {
            told: Told::new(
                Phase::Pending,
                Reason::NeedsAttention,
                format!(
                    "{} is primary of another cluster than {}: give the ClusterMigration another name",
                    primary.name, foreign.name
                ),
            ),
        };
    }
    let began = seen
        .migration
        .status
        .as_ref()
        .is_some_and(|status| status.system_identifier.is_some());
    if began {
        return Decision::Halt {
            told: Told::new(
                Phase::Replicating,
                Reason::NeedsAttention,
                format!(
                    "{} was promoted by somebody else and no source member is primary: compare both sides before clients are led anywhere",
                    primary.name
                ),
            ),
        };
    }
    keep(seen, primary, agent_image)
}

fn keep(seen: &Snapshot, primary: &Member, agent_image: &str) -> Decision {
    let Some(server) = primary.server() else {
        return wait(
            Reason::MemberUnreachable,
            format!("the primary {} was not seen", primary.name),
        );
    };
    if server.in_recovery {
        return Decision::Halt {
            told: Told::new(
                Phase::Switched,
                Reason::NeedsAttention,
                format!("{} should be primary and is in recovery", primary.name),
            ),
        };
    }
    let mut due = match plan_objects(seen, server) {
        Ok(due) => due,
        Err(message) => return wait(Reason::InvalidSpec, message),
    };
    match plan_steady(seen, primary, agent_image) {
        Ok(actions) => due.extend(actions),
        Err(message) => return wait(Reason::RoutingPending, message),
    }
    due.extend(plan_labels(seen));
    if !due.is_empty() {
        return Decision::Act {
            actions: due,
            effect: None,
            told: Told::new(
                Phase::Switched,
                Reason::Done,
                "objects of the target and of the traffic are kept",
            ),
        };
    }
    for member in seen.side(Side::Target).filter(|member| member.name != primary.name) {
        if let Some(decision) = decide_member(seen, member, primary) {
            return decision;
        }
    }
    if let Some(decision) = decide_completion(seen, primary) {
        return decision;
    }
    if let Some(decision) = decide_rewind(seen, primary) {
        return decision;
    }
    if let Some(leftover) = find_leftover_slot(seen, primary) {
        return leftover;
    }
    let way_back = find_way_back(seen, primary);
    match (seen.migration.spec.phase, way_back) {
        (DesiredPhase::RolledBack, Ok(pair)) => begin_unless_consumed(seen, &pair),
        (DesiredPhase::RolledBack, Err((reason, message))) => Decision::Wait {
            told: Told::new(Phase::Switched, reason, format!("the way back is not there: {message}")),
            recheck: Duration::from_secs(1),
        },
        (DesiredPhase::Planned | DesiredPhase::Replicating, _) => Decision::Halt {
            told: Told::new(
                Phase::Switched,
                Reason::OutOfOrder,
                format!(
                    "spec.phase is {}, but {} of the target is primary: set it to Switched, RolledBack or Completed",
                    seen.migration.spec.phase.as_str(),
                    primary.name
                ),
            ),
        },
        (_, Ok(_)) => wait(
            Reason::Done,
            format!("{} is primary and the old side follows it", primary.name),
        ),
        (_, Err((_, message))) => wait(
            Reason::OldSideBehind,
            format!("{} is primary; the way back is not complete: {message}", primary.name),
        ),
    }
}

/// A slot for the primary itself, left where a member could not be reached, would keep WAL there for ever.
fn find_leftover_slot(seen: &Snapshot, primary: &Member) -> Option<Decision> {
    let slot = primary.name.slot();
    let keeper = seen
        .members
        .iter()
        .find(|member| member.server().is_some_and(|server| server.has_slot(slot.as_str())))?;
    Some(Decision::Act {
        actions: vec![Action::DropSlot {
            on: keeper.name.clone(),
            slot,
        }],
        effect: None,
        told: Told::new(
            Phase::Switched,
            Reason::Done,
            format!("the slot of the old direction on {} is dropped", keeper.name),
        ),
    })
}

fn wait(reason: Reason, message: String) -> Decision {
    Decision::Wait {
        told: Told::new(Phase::Switched, reason, message),
        recheck: Duration::from_secs(5),
    }
}
