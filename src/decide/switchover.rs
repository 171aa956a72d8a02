//! The switchover, step by step. Each step says what to do until what it waits for is seen, then the next one is recorded.
//!
//! gate, hold, arm, stop, prove, promote, route, follow; before promotion every failure leads to restore and release.

use std::time::Duration;

use super::{
    Action, Advance, Decision, Told,
    gate::find_obstacles,
    members::{conninfo_back, is_told_to_follow, plan_labels},
    replicate::Synchronized,
    routing::{find_laggards, has_held_routes, plan_switch},
    transitions,
};
use crate::{
    api::{Certificate, DesiredPhase, Phase, Reason, RouteStatus, Side, Step, StepRecord, SwitchoverStatus},
    haproxy::State,
    observe::{Member, Snapshot},
    postgres::Lsn,
};

/// How soon to look again while clients are held.
const SOON: Duration = Duration::from_millis(2);
/// Age of the preparation in seconds after which it is done again before clients are held.
const PREPARED_FOR: f64 = 5.0;

/// Begins an attempt: records who is to be switched to whom.
pub fn begin(seen: &Snapshot, pair: &Synchronized) -> Decision {
    let attempt = seen.migration.spec.switchover.attempt;
    let server = seen.member(pair.primary.as_str()).and_then(Member::server);
    let uid = seen.migration.metadata.uid.as_deref().unwrap_or_default();
    let record = SwitchoverStatus {
        id: format!("{uid}-{attempt}"),
        attempt,
        step: Step::Gate,
        old_primary: pair.primary.to_string(),
        leader: pair.leader.to_string(),
        system_identifier: server
            .map(|server| server.system_identifier.clone())
            .unwrap_or_default(),
        timeline: server.map_or(0, |server| server.timeline),
        generation: 0,
        deadline: None,
        canary_lsn: None,
        armed_lsn: None,
        end_of_wal: None,
        abort_reason: None,
        steps: Vec::new(),
        certificate: None,
    };
    enter(
        seen,
        record,
        Step::Gate,
        "spec.phase is Switched and the target follows",
    )
}

/// Decides the next thing to do in a running switchover.
pub fn decide_switchover(seen: &Snapshot, record: &SwitchoverStatus) -> Decision {
    let (Some(old), Some(leader)) = (seen.member(&record.old_primary), seen.member(&record.leader)) else {
        return halt(
            record,
            "the members of the running switchover are not in the specification any more".to_owned(),
        );
    };
    let turn = Turn {
        seen,
        record,
        old,
        leader,
    };
    if let Some(why) = turn.reason_to_abort() {
        return turn.abort(&why);
    }
    match record.step {
        Step::Gate => turn.gate(),
        Step::Hold => turn.hold(),
        Step::Arm => turn.arm(),
        Step::Stop => turn.stop(),
        Step::Prove => turn.prove(),
        Step::Promote => turn.promote(),
        Step::Route => turn.route(),
        Step::Follow => turn.follow(),
        Step::Finish => turn.finish(),
        Step::Restore => turn.restore(),
        Step::Release => turn.release(),
        Step::Done | Step::Aborted => halt(record, "a switchover that ended was taken for a running one".to_owned()),
    }
}

/// One turn of a switchover.
struct Turn<'a> {
    seen: &'a Snapshot,
    record: &'a SwitchoverStatus,
    old: &'a Member,
    leader: &'a Member,
}

impl Turn<'_> {
    /// Before promotion everything can be undone, and is when time is over or nobody wants it any more.
    fn reason_to_abort(&self) -> Option<String> {
        let step = self.record.step;
        if !matches!(step, Step::Gate | Step::Hold | Step::Arm | Step::Stop | Step::Prove) {
            return None;
        }
        let migration = &self.seen.migration;
        if migration.metadata.deletion_timestamp.is_some() {
            return Some("the ClusterMigration is being deleted".to_owned());
        }
        if step == Step::Gate && migration.spec.phase != DesiredPhase::Switched {
            return Some("spec.phase was set back".to_owned());
        }
        let deadline = self.record.deadline?;
        (self.seen.now > deadline).then(|| {
            format!(
                "the budget of {} was over in step {}: {}",
                migration.spec.switchover.budget,
                step.as_str(),
                self.waited_for()
            )
        })
    }

    /// What the running step was waiting for, for the record of an abort.
    fn waited_for(&self) -> String {
        match self.record.step {
            Step::Hold => match find_laggards(self.seen, self.record.generation, State::Held).first() {
                Some(laggard) => format!("HAProxy pod {laggard}"),
                None => "HAProxy held too late".to_owned(),
            },
            Step::Arm | Step::Stop => match &self.old.sight {
                crate::observe::Sight::Unreachable(because) | crate::observe::Sight::Refused(because) => {
                    because.clone()
                }
                _ => format!("{} was not stopped", self.old.name),
            },
            _ => format!(
                "{} had not replayed the shutdown checkpoint of {}",
                self.leader.name, self.old.name
            ),
        }
    }

    fn abort(&self, why: &str) -> Decision {
        let to = if self.record.step == Step::Gate {
            Step::Aborted
        } else {
            Step::Restore
        };
        let mut record = self.record.clone();
        record.abort_reason = Some(why.to_owned());
        self.advance_with(record, to)
    }

    fn gate(&self) -> Decision {
        let obstacles = find_obstacles(self.seen, self.record, self.old, self.leader);
        if !obstacles.is_empty() {
            return Decision::Wait {
                told: Told::new(
                    Phase::Replicating,
                    Reason::GateClosed,
                    format!("the switchover waits: {}", obstacles.join("; ")),
                ),
                recheck: Duration::from_secs(1),
            };
        }
        let slot = self.old.name.slot();
        let wants_canary = self.seen.migration.spec.switchover.canary;
        let marker = self
            .seen
            .migration
            .status
            .as_ref()
            .and_then(|status| status.marker.as_ref());
        let began = self.record.started(Step::Gate).unwrap_or(self.seen.now);
        let prepared = marker.filter(|marker| {
            marker.time >= began
                && (self.seen.now - marker.time)
                    .total(jiff::Unit::Second)
                    .is_ok_and(|age| age < PREPARED_FOR)
        });
        let has_slot = self
            .leader
            .server()
            .is_some_and(|server| server.has_slot(slot.as_str()));
        let Some(marker) = prepared.filter(|_| has_slot) else {
            return self.act(
                vec![
                    Action::EnsureSlot {
                        on: self.leader.name.clone(),
                        slot,
                    },
                    Action::Prepare {
                        primary: self.old.name.clone(),
                        leader: self.leader.name.clone(),
                        canary: wants_canary.then(|| self.record.id.clone()),
                    },
                ],
                "canary, checkpoint and slot are prepared",
            );
        };
        let position: Option<Lsn> = marker.lsn.parse().ok();
        let replayed = self.leader.server().and_then(|server| server.lsn);
        if position.is_none() || replayed < position || (wants_canary && !self.seen.canary_on_leader) {
            return self.wait(SOON, format!("{} has not replayed the canary yet", self.leader.name));
        }
        let mut record = self.record.clone();
        record.canary_lsn = Some(marker.lsn.clone());
        record.generation = self
            .seen
            .traffic
            .routing
            .as_ref()
            .map_or(0, |routing| routing.generation)
            + 1;
        let budget: Duration = self.seen.migration.spec.switchover.budget.into();
        record.deadline = self.seen.now.checked_add(budget).ok();
        self.advance_with(record, Step::Hold)
    }

    fn hold(&self) -> Decision {
        if !has_held_routes(self.seen) {
            return self.advance(Step::Arm);
        }
        match plan_switch(self.seen, self.old, self.record.generation, State::Held) {
            Err(message) => self.abort(&message),
            Ok(actions) if !actions.is_empty() => self.act(actions, "HAProxy is told to hold clients"),
            Ok(_) if find_laggards(self.seen, self.record.generation, State::Held).is_empty() => {
                self.advance(Step::Arm)
            }
            Ok(_) => self.wait(SOON, "HAProxy does not hold yet".to_owned()),
        }
    }

    fn arm(&self) -> Decision {
        let Some(conninfo) = conninfo_back(self.seen, self.old, self.leader) else {
            return self.abort("the leader's address outside is not known");
        };
        match self.old.server() {
            Some(server) if server.in_recovery => self.abort("the old primary is in recovery already"),
            Some(server) if server.standby_signal && is_told_to_follow(server, &conninfo.upstream, self.old) => {
                // No restart from here on brings a primary back, so the shutdown checkpoint that counts lies behind this position,
                // which was read in the same statement. Before it, a restart may have left another one.
                let mut record = self.record.clone();
                record.armed_lsn = server.lsn.map(|lsn| lsn.to_string());
                self.advance_with(record, Step::Stop)
            }
            Some(_) => self.act(
                vec![Action::Arm {
                    member: self.old.name.clone(),
                    upstream: Box::new(conninfo),
                    slot: self.old.name.slot(),
                }],
                "the old primary is armed",
            ),
            None => self.wait(SOON, format!("{} was not seen", self.old.name)),
        }
    }

    fn stop(&self) -> Decision {
        match self.old.server() {
            Some(server) if !server.in_recovery => self.act(
                vec![Action::Stop {
                    member: self.old.name.clone(),
                    command: self.seen.migration.spec.source.stop.restart_command.clone(),
                }],
                "the old primary is stopped",
            ),
            // In recovery it has been stopped. Out of sight it may have been; the proof will tell.
            _ => self.advance(Step::Prove),
        }
    }

    fn prove(&self) -> Decision {
        if self.old.server().is_some_and(|server| !server.in_recovery) {
            return self.abort("the old primary serves as primary again");
        }
        let Some(server) = self.leader.server() else {
            return self.wait(SOON, format!("{} was not seen", self.leader.name));
        };
        if !server.in_recovery {
            return halt(
                self.record,
                format!(
                    "{} was promoted by somebody else during the switchover",
                    self.leader.name
                ),
            );
        }
        let position = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<Lsn>().ok());
        let (armed, canary) = (position(&self.record.armed_lsn), position(&self.record.canary_lsn));
        let is_last = |end: &Lsn| {
            armed.is_some_and(|armed| *end > armed)
                && canary.is_some_and(|canary| *end > canary)
                // Back as a standby, the old primary must not have more than the leader either.
                && self.old.server().is_none_or(|old| old.lsn <= Some(*end))
        };
        let same = server.system_identifier == self.record.system_identifier && server.timeline == self.record.timeline;
        let canary = self.seen.canary_on_leader || !self.seen.migration.spec.switchover.canary;
        match server.replayed_shutdown_checkpoint().filter(is_last) {
            Some(end) if same && canary => {
                let mut record = self.record.clone();
                record.end_of_wal = Some(end.to_string());
                self.advance_with(record, Step::Promote)
            }
            _ => self.act(
                vec![Action::Checkpoint {
                    member: self.leader.name.clone(),
                }],
                "the leader shows what it replayed",
            ),
        }
    }

    fn promote(&self) -> Decision {
        match self.leader.server() {
            Some(server) if !server.in_recovery => self.advance(Step::Route),
            Some(_) => self.act(
                vec![Action::Promote {
                    member: self.leader.name.clone(),
                    proven: self.record.end_of_wal.as_deref().and_then(|text| text.parse().ok()),
                }],
                "the leader is promoted",
            ),
            None => self.wait(
                Duration::from_millis(20),
                format!(
                    "{} was not seen; whether it was promoted is not known, and nothing else may become primary",
                    self.leader.name
                ),
            ),
        }
    }

    fn route(&self) -> Decision {
        if self.seen.migration.spec.traffic.is_none() {
            return self.advance(Step::Follow);
        }
        match plan_switch(self.seen, self.leader, self.record.generation + 1, State::Open) {
            Err(message) => self.wait(SOON, message),
            Ok(actions) if !actions.is_empty() => self.act(actions, "HAProxy is turned over to the new primary"),
            Ok(_) => match find_laggards(self.seen, self.record.generation + 1, State::Open).first() {
                None => self.advance(Step::Follow),
                Some(laggard) => self.wait(
                    SOON,
                    format!("not every HAProxy pod leads to {}: {laggard}", self.leader.name),
                ),
            },
        }
    }

    fn follow(&self) -> Decision {
        if self.seen.migration.metadata.deletion_timestamp.is_some() {
            return self.advance(Step::Done);
        }
        let labels = plan_labels(self.seen);
        if !labels.is_empty() {
            return self.act(labels, "pods are labelled with their roles");
        }
        let Some(primary) = self.leader.server() else {
            return self.wait(Duration::from_millis(200), format!("{} was not seen", self.leader.name));
        };
        for member in self
            .seen
            .members
            .iter()
            .filter(|member| member.name != self.leader.name)
        {
            let follows = member.server().is_some_and(|server| {
                server.in_recovery && server.streams_within(FRESH) && server.timeline == primary.timeline
            });
            if !follows {
                return self.wait(
                    Duration::from_millis(50),
                    format!(
                        "{} does not stream on timeline {} yet; look into its log if this stays",
                        member.name, primary.timeline
                    ),
                );
            }
        }
        let (Some(fork), Some(end)) = (self.seen.fork, self.record.end_of_wal.clone()) else {
            return self.wait(
                Duration::from_millis(50),
                "the new timeline's history was not read yet".to_owned(),
            );
        };
        if fork.to_string() != end {
            return halt(
                self.record,
                format!(
                    "timeline {} forks off at {fork}, the old primary ended at {end}: somebody else wrote or promoted; compare both sides before using the old one",
                    primary.timeline
                ),
            );
        }
        let held = self.record.started(Step::Hold).unwrap_or(self.seen.now);
        let released = self.record.started(Step::Follow).unwrap_or(self.seen.now);
        let mut record = self.record.clone();
        record.certificate = Some(Certificate {
            system_identifier: primary.system_identifier.clone(),
            old_timeline: self.record.timeline,
            new_timeline: primary.timeline,
            fenced: format!(
                "{} was shut down cleanly: its shutdown checkpoint is the last record that {} replayed; it came back as a standby",
                self.old.name, self.leader.name
            ),
            end_of_wal: end,
            fork: fork.to_string(),
            canary: self.seen.canary_on_leader,
            held_milliseconds: released.as_millisecond() - held.as_millisecond(),
            routes: self
                .seen
                .traffic
                .pods
                .iter()
                .filter_map(|pod| {
                    Some(RouteStatus {
                        pod: pod.name.clone(),
                        generation: pod.report.as_ref()?.generation?,
                    })
                })
                .collect(),
        });
        self.advance_with(record, Step::Finish)
    }

    fn finish(&self) -> Decision {
        if self.seen.migration.metadata.deletion_timestamp.is_some() {
            return self.advance(Step::Done);
        }
        let slot = self.leader.name.slot();
        let keeper = self
            .seen
            .side(Side::Source)
            .find(|member| member.server().is_some_and(|server| server.has_slot(slot.as_str())));
        match keeper {
            // The slot goes last: while it is there, the rest may not have been done.
            Some(keeper) => self.act(
                vec![
                    Action::Analyze {
                        member: self.leader.name.clone(),
                    },
                    Action::DropSlot {
                        on: keeper.name.clone(),
                        slot,
                    },
                ],
                "statistics are renewed and the old slot is dropped",
            ),
            None if self.seen.side(Side::Source).all(|member| member.server().is_some()) => self.advance(Step::Done),
            None => self.wait(
                Duration::from_secs(1),
                format!("slot {slot} must be dropped from a source member that was not seen"),
            ),
        }
    }

    fn restore(&self) -> Decision {
        if self.leader.server().is_some_and(|server| !server.in_recovery) {
            return halt(
                self.record,
                format!(
                    "{} was promoted by somebody else; {} stays as it is, compare both before one is made primary",
                    self.leader.name, self.old.name
                ),
            );
        }
        match self.old.server() {
            Some(server) if server.in_recovery => self.act(
                vec![Action::Promote {
                    member: self.old.name.clone(),
                    proven: None,
                }],
                "the old primary becomes primary again",
            ),
            Some(server)
                if server.standby_signal || server.follows_as.as_deref() == Some(&self.old.name.application_name()) =>
            {
                self.act(
                    vec![Action::Disarm {
                        member: self.old.name.clone(),
                    }],
                    "the old primary is disarmed",
                )
            }
            Some(_) => self.advance(Step::Release),
            None => self.wait(
                Duration::from_millis(50),
                format!(
                    "{} was not seen: start it, it comes up as a standby and is then made primary again",
                    self.old.name
                ),
            ),
        }
    }

    fn release(&self) -> Decision {
        if self.seen.migration.spec.traffic.is_none() {
            return self.advance(Step::Aborted);
        }
        match plan_switch(self.seen, self.old, self.record.generation + 1, State::Open) {
            Err(message) => self.wait(SOON, message),
            Ok(actions) if !actions.is_empty() => self.act(actions, "HAProxy is turned back to the old primary"),
            Ok(_) => match find_laggards(self.seen, self.record.generation + 1, State::Open).first() {
                None => self.advance(Step::Aborted),
                Some(laggard) => self.wait(
                    SOON,
                    format!("not every HAProxy pod leads to {}: {laggard}", self.old.name),
                ),
            },
        }
    }

    fn advance(&self, to: Step) -> Decision {
        self.advance_with(self.record.clone(), to)
    }

    /// Enters a step by a row of the table; without such a row nothing is entered.
    fn advance_with(&self, record: SwitchoverStatus, to: Step) -> Decision {
        match transitions::find(self.record.step, to) {
            Some(row) => enter(self.seen, record, to, row.because),
            None => halt(
                self.record,
                format!(
                    "no transition leads from {} to {}",
                    self.record.step.as_str(),
                    to.as_str()
                ),
            ),
        }
    }

    fn told(&self, reason: Reason, message: impl Into<String>) -> Told {
        Told::new(phase_of(self.record.step), reason, message)
    }

    fn act(&self, actions: Vec<Action>, message: &str) -> Decision {
        Decision::Act {
            actions,
            told: self.told(Reason::Switching, message),
        }
    }

    fn wait(&self, recheck: Duration, message: String) -> Decision {
        let reason = match self.record.step {
            Step::Follow | Step::Finish => Reason::OldSideBehind,
            Step::Restore | Step::Release => Reason::Aborted,
            _ => Reason::Switching,
        };
        Decision::Wait {
            told: self.told(reason, message),
            recheck,
        }
    }
}

/// A link whose upstream was not heard of for longer is not fresh, in seconds.
const FRESH: f64 = 5.0;

const fn phase_of(step: Step) -> Phase {
    match step {
        Step::Gate | Step::Aborted => Phase::Replicating,
        Step::Follow | Step::Finish | Step::Done => Phase::Switched,
        _ => Phase::Switching,
    }
}

fn enter(seen: &Snapshot, mut record: SwitchoverStatus, to: Step, because: &str) -> Decision {
    record.step = to;
    record.steps.push(StepRecord {
        step: to,
        start_time: seen.now,
        because: because.to_owned(),
    });
    Decision::Advance(Advance {
        to,
        because: because.to_owned(),
        record: Box::new(record),
    })
}

fn halt(record: &SwitchoverStatus, message: String) -> Decision {
    Decision::Halt {
        told: Told::new(phase_of(record.step), Reason::NeedsAttention, message),
    }
}
