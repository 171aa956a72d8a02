//! Replicating: the target exists, is cloned and follows the source.

use std::time::Duration;

use super::{
    Action, Decision, Told,
    members::{choose_clone_source, decide_member, plan_labels, plan_objects},
    readers::decide_readers,
    routing::{find_laggards, plan_steady, without_silent},
    switchover::home_phase,
};
use crate::{
    api::{Phase, Reason, Side},
    haproxy::State,
    observe::{Member, Snapshot},
    postgres::{Lsn, MemberName, Server},
};

/// Age of the marker in seconds at which a new one is written.
const MARKER_EVERY: f64 = 5.0;
/// Age of a marker in seconds at which the leader lags when it has not replayed it.
const MARKER_PATIENCE: f64 = 10.0;
/// What is told before that.
pub const MARKER_ON_ITS_WAY: &str = "a marker is on its way to the leader";

/// The other side follows, so that it can take over.
pub struct Synchronized {
    /// The primary.
    pub primary: MemberName,
    /// The member of the other side that would be promoted.
    pub follower: MemberName,
}

/// Brings the target a step toward following the source.
///
/// # Errors
/// The decision to make until it does.
pub fn decide_replicate(seen: &Snapshot, agent_image: &str) -> Result<Synchronized, Decision> {
    let status = seen.migration.status.clone().unwrap_or_default();
    let home = home_phase(seen);
    let phase = match status.phase {
        Phase::Pending | Phase::Planned => Phase::Seeding,
        // What was interrupted is told as where it rests now.
        Phase::Switching | Phase::RollingBack | Phase::Switched | Phase::Ending => home,
        other => other,
    };
    let wait = |reason, message: String| Decision::Wait {
        told: Told::new(phase, reason, message),
        recheck: Duration::from_secs(1),
    };
    let Some((primary, server)) = seen
        .side(Side::Source)
        .find_map(|member| Some((member, member.server().filter(|server| !server.in_recovery)?)))
    else {
        return Err(wait(
            Reason::MemberUnreachable,
            "the source's primary was not seen; replication goes on as it is".to_owned(),
        ));
    };
    let source = match home {
        // It was armed to follow the new primary, and stays there.
        Phase::RolledBack => primary,
        _ => choose_clone_source(seen).map_err(|message| wait(Reason::LinkBroken, message))?,
    };
    let Some(known) = &status.system_identifier else {
        return Err(act(
            phase,
            vec![Action::BeginSeeding {
                system_identifier: server.system_identifier.clone(),
                clone_source: source.name.clone(),
            }],
            Reason::Preparing,
            format!("preflight passes; the leader will be cloned from {}", source.name),
        ));
    };
    if known != &server.system_identifier {
        return Err(Decision::Halt {
            told: Told::new(
                phase,
                Reason::NeedsAttention,
                format!(
                    "{} has system identifier {}, seeding began with {known}: spec.source points at another cluster now",
                    primary.name, server.system_identifier
                ),
            ),
        });
    }
    decide_objects(seen, primary, server, phase, agent_image)?;
    let mut members = seen.side(Side::Target);
    let Some(leader) = members.next() else {
        return Err(wait(Reason::Preparing, "the target has no members".to_owned()));
    };
    if let Some(decision) = decide_member(seen, leader, source) {
        return Err(decision);
    }
    // Followers in parallel would share the leader's disk and the message; one after the other each is as fast as it can be.
    for member in members {
        if let Some(decision) = decide_member(seen, member, leader) {
            return Err(decision);
        }
    }
    if let Some(decision) = decide_leftover_slots(seen, leader, source, home) {
        return Err(decision);
    }
    decide_marker(seen, home, &primary.name, leader.server().and_then(|server| server.lsn))?;
    let generation = seen.traffic.routing.as_ref().map_or(0, |routing| routing.generation);
    let laggards = without_silent(seen, find_laggards(seen, generation, State::Open));
    if let Some(first) = laggards.first() {
        return Err(wait(
            Reason::RoutingPending,
            format!("HAProxy does not lead clients as wanted yet: {}", first.message),
        ));
    }
    Ok(Synchronized {
        primary: primary.name.clone(),
        follower: leader.name.clone(),
    })
}

/// Applies what is missing of the target's and the traffic's objects.
fn decide_objects(
    seen: &Snapshot,
    primary: &Member,
    server: &Server,
    phase: Phase,
    agent_image: &str,
) -> Result<(), Decision> {
    let mut due = plan_objects(seen, server).map_err(|message| Decision::Halt {
        told: Told::new(phase, Reason::InvalidSpec, message),
    })?;
    match plan_steady(seen, primary, agent_image) {
        Ok(actions) => due.extend(actions),
        Err(message) => {
            return Err(Decision::Wait {
                told: Told::new(phase, Reason::Preparing, message),
                recheck: Duration::from_secs(1),
            });
        }
    }
    due.extend(plan_labels(seen));
    if !due.is_empty() {
        // Nothing is seeded for it.
        let told = Told::new(
            phase,
            Reason::RoutingPending,
            "HAProxy is told which standbys may serve readers",
        );
        if let Some(decision) = decide_readers(seen, primary.name.as_str(), &told) {
            return Err(decision);
        }
        return Err(act(
            phase,
            due,
            Reason::Preparing,
            "objects of the target and of the traffic are applied".to_owned(),
        ));
    }
    Ok(())
}

fn act(phase: Phase, actions: Vec<Action>, reason: Reason, message: String) -> Decision {
    let phase = match phase {
        Phase::RolledBack => phase,
        _ => Phase::Seeding,
    };
    Decision::Act {
        actions,
        effect: None,
        told: Told::new(phase, reason, message),
    }
}

/// Slots for the leader on source members that it does not follow any more would keep WAL there for ever.
fn decide_leftover_slots(seen: &Snapshot, leader: &Member, upstream: &Member, home: Phase) -> Option<Decision> {
    let slot = leader.name.slot();
    let keeper = seen.side(Side::Source).find(|member| {
        member.name != upstream.name && member.server().is_some_and(|server| server.has_slot(slot.as_str()))
    })?;
    Some(Decision::Act {
        actions: vec![Action::DropSlot {
            on: keeper.name.clone(),
            slot,
        }],
        effect: None,
        told: Told::new(
            home,
            Reason::Preparing,
            format!("the slot on {} is not needed any more", keeper.name),
        ),
    })
}

/// Judges lag by a marker that was written on the primary and must be replayed by the leader.
fn decide_marker(seen: &Snapshot, home: Phase, primary: &MemberName, replayed: Option<Lsn>) -> Result<(), Decision> {
    let status = seen.migration.status.as_ref();
    let write = || Decision::Act {
        actions: vec![Action::WriteMarker { on: primary.clone() }],
        effect: None,
        told: Told::new(home, Reason::Synchronized, "the target follows the source"),
    };
    let Some(marker) = status.and_then(|status| status.marker.as_ref()) else {
        return Err(write());
    };
    let age = (seen.now - marker.time).total(jiff::Unit::Second).unwrap_or(0.0);
    let position: Option<Lsn> = marker.lsn.parse().ok();
    if position.is_some() && replayed >= position {
        return if age > MARKER_EVERY { Err(write()) } else { Ok(()) };
    }
    let (reason, message) = if age > MARKER_PATIENCE {
        (
            Reason::Lagging,
            format!(
                "the leader has not replayed a marker that is {age:.0} s old; lag: {}",
                status.and_then(|status| status.lag.as_deref()).unwrap_or("unknown")
            ),
        )
    } else {
        (Reason::Starting, MARKER_ON_ITS_WAY.to_owned())
    };
    Err(Decision::Wait {
        told: Told::new(home, reason, message),
        recheck: Duration::from_millis(200),
    })
}
