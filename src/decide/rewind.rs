//! The rewind: a server of the old side that diverged is mended with pg_rewind, when a person has said what is given up.

use std::time::Duration;

use super::{
    Action, Decision, Told,
    members::conninfo_between,
    way_back::{BROKEN, can_be_rewound, is_diverged, why_not_rewound},
};
use crate::{
    api::{Phase, Reason, Rewind, RewindOutcome, RewindStatus, Side},
    observe::{Member, Snapshot},
    postgres::{Lsn, Server},
};

/// What the rewind demands next; nothing when none is asked for, it has ended, or it does not fit what is there.
pub fn decide_rewind(seen: &Snapshot, primary: &Member) -> Option<Decision> {
    let asked = seen.migration.spec.rollback.rewind.as_ref()?;
    let discard: Lsn = asked.discard.parse().ok()?;
    let member = seen
        .side(Side::Source)
        .find(|member| member.name.as_str() == asked.member)?;
    let (name, server) = (&member.name, member.server());
    let last = seen.migration.status.as_ref().and_then(|status| status.rewind.as_ref());
    let Some(begun) = last.filter(|last| is_for(last, asked)) else {
        return begin(seen, primary, asked, server?, discard);
    };
    if begun.outcome.is_some() {
        return None;
    }
    let Some(server) = server else {
        return Some(wait(format!(
            "{name} is being rewound and does not answer; if this stays, look into DATA.mitosis-rewind.log beside its data directory (docs/rewind.md)"
        )));
    };
    if server.started == begun.server_started {
        return Some(act(
            Action::Rewind {
                begun: Box::new(begun.clone()),
                primary: primary.name.clone(),
                upstream: Box::new(conninfo_between(seen, member, primary)?),
            },
            format!("{name} is stopped, rewound and started"),
        ));
    }
    let follows = primary
        .server()
        .is_some_and(|primary| primary.timeline == server.timeline);
    let ended = if follows && server.streams_within(BROKEN) {
        RewindStatus {
            outcome: Some(RewindOutcome::Rewound),
            ..begun.clone()
        }
    } else if server.timeline == begun.timeline && server.received == Some(discard) {
        RewindStatus {
            outcome: Some(RewindOutcome::Refused),
            message: Some(format!("{}.mitosis-rewind.log says why", server.data_directory)),
            ..begun.clone()
        }
    } else {
        return Some(wait(format!(
            "{name} was started again and does not stream yet; if this stays, look into its log, or take spec.rollback.rewind away and clone it anew"
        )));
    };
    let told = format!("the rewind of {name} ended: {:?}", ended.outcome?);
    Some(act(Action::RecordRewind(Box::new(ended)), told))
}

/// Records what is given up, where that is what is there.
fn begin(seen: &Snapshot, primary: &Member, asked: &Rewind, server: &Server, discard: Lsn) -> Option<Decision> {
    let fits = is_diverged(seen, primary, server) && server.standby_signal && server.received == Some(discard);
    if !fits || !can_be_rewound(server) || why_not_rewound(seen, &asked.member, server).is_some() {
        return None;
    }
    let begun = RewindStatus {
        member: asked.member.clone(),
        discard: discard.to_string(),
        attempt: asked.attempt,
        timeline: server.timeline,
        start_time: seen.now,
        server_started: server.started,
        outcome: None,
        message: None,
    };
    let told = format!(
        "what {} alone holds up to {discard} on timeline {} is given up",
        asked.member, server.timeline
    );
    Some(act(Action::RecordRewind(Box::new(begun)), told))
}

fn is_for(begun: &RewindStatus, asked: &Rewind) -> bool {
    let position = |text: &str| text.parse::<Lsn>().ok();
    begun.member == asked.member
        && begun.attempt == asked.attempt
        && position(&begun.discard) == position(&asked.discard)
}

fn told(message: String) -> Told {
    Told::new(Phase::Switched, Reason::Rewinding, message)
}

fn act(action: Action, message: String) -> Decision {
    Decision::Act {
        actions: vec![action],
        effect: None,
        told: told(message),
    }
}

fn wait(message: String) -> Decision {
    Decision::Wait {
        told: told(message),
        recheck: Duration::from_secs(1),
    }
}
