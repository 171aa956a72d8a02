//! The rewind: a server of the old side that diverged is mended with pg_rewind, when a person has said what is given up.

use std::time::Duration;

use super::{
    Action, Decision, Told,
    members::conninfo_between,
    way_back::{can_be_rewound, is_diverged, why_not_rewound},
};
use crate::{
    api::{Phase, Reason, RewindOutcome, RewindStatus, Side},
    observe::{Member, Snapshot},
};

/// What the rewind demands next; nothing when none is asked for, it has ended, or it does not fit what is there.
pub fn decide_rewind(seen: &Snapshot, primary: &Member) -> Option<Decision> {
    let asked = seen.migration.spec.rollback.rewind.as_ref()?;
    let last = seen.migration.status.as_ref().and_then(|status| status.rewind.as_ref());
    let told = |message: String| Told::new(Phase::Switched, Reason::Rewinding, message);
    let record = |rewind: RewindStatus, message: String| Decision::Act {
        actions: vec![Action::RecordRewind(Box::new(rewind))],
        effect: None,
        told: told(message),
    };
    let member = seen
        .side(Side::Source)
        .find(|member| member.name.as_str() == asked.member)?;
    let name = &member.name;
    let server = member.server();
    let running = last.filter(|last| last.member == asked.member && last.discard == asked.discard);
    let Some(rewind) = running else {
        let server = server?;
        let holds = server.received.filter(|held| held.to_string() == asked.discard)?;
        if !is_diverged(seen, primary, server) || !can_be_rewound(server) || why_not_rewound(seen, server).is_some() {
            return None;
        }
        let begun = RewindStatus {
            member: asked.member.clone(),
            discard: holds.to_string(),
            timeline: server.timeline,
            start_time: seen.now,
            server_started: server.started,
            outcome: None,
        };
        return Some(record(
            begun,
            format!(
                "what {name} alone holds up to {holds} on timeline {} is given up",
                server.timeline
            ),
        ));
    };
    if rewind.outcome.is_some() {
        return None;
    }
    let Some(server) = server else {
        return Some(Decision::Wait {
            told: told(format!(
                "{name} is being rewound and does not answer; if this stays, look into DATA.mitosis-rewind.log beside its data directory"
            )),
            recheck: Duration::from_secs(1),
        });
    };
    if server.started == rewind.server_started {
        return Some(Decision::Act {
            actions: vec![Action::Rewind {
                member: name.clone(),
                primary: primary.name.clone(),
                upstream: Box::new(conninfo_between(seen, member, primary)?),
                discard: rewind.discard.parse().ok()?,
            }],
            effect: None,
            told: told(format!("{name} is stopped, rewound and started")),
        });
    }
    let outcome = if is_diverged(seen, primary, server) {
        RewindOutcome::Refused
    } else {
        RewindOutcome::Rewound
    };
    let ended = RewindStatus {
        outcome: Some(outcome),
        ..rewind.clone()
    };
    Some(record(ended, format!("pg_rewind of {name} ended: {outcome:?}")))
}
