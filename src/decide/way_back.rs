//! The way back: whether it is there, and giving it up.

use std::{cmp::Ordering, time::Duration};

use super::{
    Action, Decision, Told,
    members::{conninfo_between, is_told_to_follow},
    replicate::Synchronized,
    switchover::home_phase,
};
use crate::{
    api::{DesiredPhase, Phase, Reason, RewindOutcome, Side, Step, StopMethod},
    observe::{Member, Snapshot},
    postgres::Server,
};

/// A link whose upstream was not heard of for longer is broken, in seconds.
pub const BROKEN: f64 = 30.0;

/// The member of the other side that can take over from the primary.
///
/// # Errors
/// Why there is none now, with its reason.
pub fn find_way_back(seen: &Snapshot, primary: &Member) -> Result<Synchronized, (Reason, String)> {
    let Some(server) = primary.server() else {
        return Err((Reason::MemberUnreachable, primary.unseen_because()));
    };
    if has_expired(seen) {
        return Err((
            Reason::Expired,
            format!(
                "spec.rollback.keep {} is over: the old side was let go",
                seen.migration.spec.rollback.keep
            ),
        ));
    }
    let mut behind = Vec::new();
    for member in seen.side(primary.side.other()) {
        let Some(standby) = member.server() else {
            behind.push(format!("{} was not seen", member.name));
            continue;
        };
        if is_diverged(seen, primary, standby) {
            return Err((
                Reason::Diverged,
                format!(
                    "{} holds WAL that {} does not have and is not used as it is: {}",
                    member.name,
                    primary.name,
                    how_to_mend(seen, member, standby, primary)
                ),
            ));
        }
        if !(standby.in_recovery && standby.timeline == server.timeline && standby.streams_within(BROKEN)) {
            behind.push(format!("{} does not stream", member.name));
        }
    }
    if !behind.is_empty() {
        return Err((Reason::OldSideBehind, behind.join(", ")));
    }
    let follower = seen.side(primary.side.other()).find(|member| {
        let conninfo = conninfo_between(seen, member, primary);
        member
            .server()
            .zip(conninfo)
            .is_some_and(|(standby, conninfo)| is_told_to_follow(standby, &conninfo.upstream, member))
    });
    match follower {
        Some(follower) => Ok(Synchronized {
            primary: primary.name.clone(),
            follower: follower.name.clone(),
        }),
        None => Err((
            Reason::OldSideBehind,
            format!("no member of the old side follows {} directly", primary.name),
        )),
    }
}

/// Whether a standby holds WAL that the primary does not have, past the fork of the primary's timeline or on a later one of its own: it
/// would silently stay stale.
pub fn is_diverged(seen: &Snapshot, primary: &Member, standby: &Server) -> bool {
    let Some(server) = primary.server().filter(|_| standby.in_recovery) else {
        return false;
    };
    match standby.timeline.cmp(&server.timeline) {
        Ordering::Less => seen.fork.is_some_and(|fork| standby.received > Some(fork)),
        Ordering::Equal => false,
        Ordering::Greater => true,
    }
}

/// Whether what pg_rewind needs to find the changed blocks was written all the time.
pub fn can_be_rewound(diverged: &Server) -> bool {
    let is_on = |name: &str| diverged.settings.get(name).is_some_and(|value| value == "on");
    (is_on("wal_log_hints") || is_on("data_checksums")) && is_on("full_page_writes")
}

/// Why the operator does not rewind a server for which pg_rewind works; nothing when it does.
pub fn why_not_rewound(seen: &Snapshot, member: &str, diverged: &Server) -> Option<String> {
    let stop = &seen.migration.spec.source.stop;
    if stop.method != StopMethod::Sql || stop.restart_command.is_some() {
        return Some("a server that something else starts is not rewound by the operator".to_owned());
    }
    if let Some(unit) = &diverged.supervisor {
        return Some(format!("{unit} would end what rewinds it"));
    }
    if !diverged.tablespaces.is_empty() {
        return Some("it has tablespaces".to_owned());
    }
    if !diverged.standby_signal {
        return Some("without standby.signal it would come back as a primary".to_owned());
    }
    let last = seen.migration.status.as_ref().and_then(|status| status.rewind.as_ref());
    let asked = seen.migration.spec.rollback.rewind.as_ref();
    last.filter(|last| last.member == member && last.outcome == Some(RewindOutcome::Refused))
        .filter(|last| asked.is_some_and(|asked| asked.attempt == last.attempt && asked.member == member))
        .map(|last| {
            format!(
                "the operator could not rewind it ({}): raise spec.rollback.rewind.attempt when that is mended",
                last.message.as_deref().unwrap_or_default()
            )
        })
}

/// What a person can do about a server that diverged; what it alone holds is given up by it.
fn how_to_mend(seen: &Snapshot, member: &Member, diverged: &Server, primary: &Member) -> String {
    if !can_be_rewound(diverged) {
        return "clone it anew; pg_rewind cannot mend it without full_page_writes, and wal_log_hints or data checksums"
            .to_owned();
    }
    let held = diverged.received.map(|held| held.to_string()).unwrap_or_default();
    let because = match (member.side, why_not_rewound(seen, member.name.as_str(), diverged)) {
        (Side::Source, None) => {
            return format!(
                "look at what it alone holds up to {held}, then give that up with spec.rollback.rewind: {{member: {}, discard: {held}}}, \
                 or clone it anew",
                member.name
            );
        }
        (Side::Source, Some(because)) => because,
        (Side::Target, _) => "a pod's server is not rewound by the operator".to_owned(),
    };
    // As the diverged server reaches it.
    let source =
        conninfo_between(seen, member, primary).map_or_else(|| primary.address.clone(), |conninfo| conninfo.upstream);
    format!(
        "{because}; look at what it alone holds, then stop it cleanly and run `pg_rewind --target-pgdata={} --source-server='host={} \
         port={} user=… dbname=postgres'` there, keep its own postgresql.auto.conf and standby.signal, and start it; or clone it anew",
        diverged.data_directory, source.host, source.port
    )
}

/// When the way back ends by itself; nothing while there is none to end.
#[must_use]
pub fn way_back_until(seen: &Snapshot) -> Option<jiff::Timestamp> {
    let record = seen.migration.status.as_ref()?.switchover.as_ref()?;
    if home_phase(seen) != Phase::Switched {
        return None;
    }
    // An undone way back does not prolong it.
    let switched = match record.step {
        Step::Done => record.started(Step::Done)?,
        _ => record.way_back_since?,
    };
    switched
        .checked_add(Duration::from(seen.migration.spec.rollback.keep))
        .ok()
}

fn has_expired(seen: &Snapshot) -> bool {
    way_back_until(seen).is_some_and(|until| seen.now > until)
}

/// Gives the way back up, when that is asked for or its time is over; nothing when it stays.
pub fn decide_completion(seen: &Snapshot, primary: &Member) -> Option<Decision> {
    let completed = seen.migration.spec.phase == DesiredPhase::Completed;
    if !completed && !has_expired(seen) {
        return None;
    }
    let phase = if completed { Phase::Completed } else { home_phase(seen) };
    let told = |message: String| {
        let reason = if completed { Reason::Done } else { Reason::Expired };
        Told::new(phase, reason, message)
    };
    let mut actions = Vec::new();
    for member in seen.side(primary.side.other()) {
        let Some(standby) = member.server() else { continue };
        let conninfo = conninfo_between(seen, member, primary);
        if conninfo.is_some_and(|conninfo| is_told_to_follow(standby, &conninfo.upstream, member)) {
            actions.push(Action::Detach {
                member: member.name.clone(),
            });
        }
    }
    if let Some(server) = primary.server() {
        let theirs = seen.side(primary.side.other()).map(|member| member.name.slot());
        actions.extend(
            theirs
                .filter(|slot| server.has_slot(slot.as_str()))
                .map(|slot| Action::DropSlot {
                    on: primary.name.clone(),
                    slot,
                }),
        );
        if completed && server.canary_schema {
            actions.push(Action::DropCanary {
                on: primary.name.clone(),
            });
        }
    }
    if !actions.is_empty() {
        return Some(Decision::Act {
            actions,
            effect: None,
            told: told("the way back is given up: slots and the canary's schema are removed".to_owned()),
        });
    }
    let unseen: Vec<&str> = seen
        .side(primary.side.other())
        .filter(|member| member.server().is_none())
        .map(|member| member.name.as_str())
        .collect();
    let left = if unseen.is_empty() {
        "the old side follows it no more and stays as it is".to_owned()
    } else {
        format!("{} was not seen and may still try to follow it", unseen.join(", "))
    };
    Some(Decision::Wait {
        told: told(format!("{} is primary; {left}", primary.name)),
        recheck: Duration::from_secs(15),
    })
}
