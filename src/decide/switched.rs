//! Switched: the target is primary; its followers, the traffic and the way back are kept.

use std::time::Duration;

use super::{
    Decision, Told,
    members::{decide_member, plan_labels, plan_objects},
    routing::plan_steady,
};
use crate::{
    api::{Phase, Reason, Side},
    observe::{Member, Snapshot},
};

/// Keeps what a finished switchover left.
pub fn decide_switched(seen: &Snapshot, agent_image: &str) -> Decision {
    let leader = seen
        .migration
        .status
        .as_ref()
        .and_then(|status| status.switchover.as_ref())
        .map(|record| record.leader.clone());
    match leader.as_deref().and_then(|name| seen.member(name)) {
        Some(leader) => keep(seen, leader, agent_image),
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
    let behind: Vec<&str> = seen
        .side(Side::Source)
        .filter(|member| {
            !member
                .server()
                .is_some_and(|old| old.in_recovery && old.timeline == server.timeline && old.streams_within(30.0))
        })
        .map(|member| member.name.as_str())
        .collect();
    if behind.is_empty() {
        wait(
            Reason::Done,
            format!("{} is primary and the old side follows it", primary.name),
        )
    } else {
        wait(
            Reason::OldSideBehind,
            format!(
                "{} is primary; {} of the old side does not follow it, so the way back is not complete",
                primary.name,
                behind.join(", ")
            ),
        )
    }
}

fn wait(reason: Reason, message: String) -> Decision {
    Decision::Wait {
        told: Told::new(Phase::Switched, reason, message),
        recheck: Duration::from_secs(5),
    }
}
