//! The rehearsal: a source standby is restarted as the old primary will be, any time before the night.

use std::time::Duration;

use super::{Action, Decision, Told, switchover::stop_by};
use crate::{
    api::{Phase, Reason, Rehearsal, RehearsalOutcome, Side},
    observe::Snapshot,
};

/// Seconds within which the standby must stream again.
const PATIENCE: f64 = 60.0;
/// A link whose upstream was not heard of for longer is not fresh, in seconds.
const FRESH: f64 = 5.0;

/// What the rehearsal demands next; nothing when none is asked for or it has ended.
pub fn decide_rehearsal(seen: &Snapshot) -> Option<Decision> {
    let name = seen.migration.spec.source.stop.rehearse_on.as_deref()?;
    let last = seen
        .migration
        .status
        .as_ref()
        .and_then(|status| status.rehearsal.as_ref());
    let told = |message: String| Told::new(Phase::Replicating, Reason::Rehearsing, message);
    let record = |rehearsal: Rehearsal, message: String| Decision::Act {
        actions: vec![Action::RecordRehearsal(Box::new(rehearsal))],
        effect: None,
        told: told(message),
    };
    let standby = seen.side(Side::Source).find(|member| member.name.as_str() == name)?;
    let server = standby.server();
    let streams = server.is_some_and(|server| server.in_recovery && server.streams_within(FRESH));
    let rehearsal = match last.filter(|last| last.member == name) {
        Some(ended) if ended.outcome.is_some() => return None,
        Some(running) => running.clone(),
        None => {
            let fresh = Rehearsal {
                member: name.to_owned(),
                start_time: seen.now,
                server_started: server.filter(|_| streams)?.started,
                outcome: None,
                seconds: None,
            };
            return Some(record(fresh, format!("the restart is rehearsed on {name}")));
        }
    };
    let seconds = (seen.now - rehearsal.start_time)
        .total(jiff::Unit::Second)
        .unwrap_or(0.0);
    let restarted = server.is_none_or(|server| server.started != rehearsal.server_started);
    if !restarted && seconds <= PATIENCE {
        let by = stop_by(seen, standby, "rehearsal")?;
        return Some(Decision::Act {
            actions: vec![Action::Rehearse {
                member: standby.name.clone(),
                by,
            }],
            effect: None,
            told: told(format!("{name} is restarted as the old primary will be")),
        });
    }
    let outcome = match restarted && streams {
        true => RehearsalOutcome::Passed,
        false if seconds > PATIENCE => RehearsalOutcome::Failed,
        false => {
            return Some(Decision::Wait {
                told: told(format!("{name} was restarted and does not stream yet")),
                recheck: Duration::from_millis(500),
            });
        }
    };
    #[expect(clippy::cast_possible_truncation, reason = "some seconds")]
    let ended = Rehearsal {
        outcome: Some(outcome),
        seconds: Some(seconds.ceil() as i64),
        ..rehearsal
    };
    Some(record(ended, format!("the rehearsal on {name} ended: {outcome:?}")))
}
