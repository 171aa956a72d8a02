//! The switchover: gate, arm, hold, stop, prove, promote, route, follow; before promotion every failure leads to restore and release.
//!
//! It is the same in both directions. What a turn comes upon is named by `observation`, the [`table`] says what is done about it, and
//! this file turns that into a decision.

mod effect;
mod gate;
mod observation;
mod table;

use std::time::Duration;

pub use effect::Effect;
pub use table::{Answer, Observation, Row, TABLE, render};

use super::{
    Action, Advance, Decision, Told,
    members::{conninfo_between, plan_labels},
    poolers::{list_paused, list_serving, list_unresumed},
    readers::list_unfit,
    replicate::Synchronized,
    routing::{has_held_routes, plan_switch},
    way_back::way_back_until,
};
use crate::{
    act::StopBy,
    api::{Certificate, Phase, Reason, RouteStatus, Side, Step, StepRecord, StopMethod, SwitchoverStatus},
    haproxy::State,
    observe::{Lead, Member, Snapshot},
};

/// How soon to look again while clients are held.
const SOON: Duration = Duration::from_millis(2);
/// How soon to look again while something is missing that nobody can hurry.
const LATER: Duration = Duration::from_millis(50);
/// Seconds in which clients are usually held.
const AT_ONCE: f64 = 0.5;
/// How soon the gate is looked at again.
const AT_GATE: Duration = Duration::from_secs(1);
/// A link whose upstream was not heard of for longer is not fresh, in seconds.
const FRESH: f64 = 5.0;
/// Seconds after which a person is told what keeps clients from the new primary.
const ROUTE_PATIENCE: f64 = 10.0;
/// Seconds after which a missing server needs a person.
const PATIENCE: f64 = 5.0;

/// Begins an attempt: records who is to be switched to whom.
pub fn begin(seen: &Snapshot, pair: &Synchronized) -> Decision {
    let attempt = seen.migration.spec.switchover.attempt;
    let old = seen.member(pair.primary.as_str());
    let server = old.and_then(Member::server);
    let timeline = server.map_or(0, |server| server.timeline);
    let uid = seen.migration.metadata.uid.as_deref().unwrap_or_default();
    let to = old.map_or(Side::Target, |old| old.side.other());
    let record = SwitchoverStatus {
        // The timeline makes it another one each time: a canary of an earlier switch proves nothing.
        id: format!("{uid}-{attempt}-{timeline}"),
        attempt,
        step: Step::Gate,
        to,
        began_in: home_phase(seen),
        way_back_since: way_back_until(seen).and_then(|until| {
            until
                .checked_sub(Duration::from(seen.migration.spec.rollback.keep))
                .ok()
        }),
        old_primary: pair.primary.to_string(),
        new_primary: pair.follower.to_string(),
        system_identifier: server
            .map(|server| server.system_identifier.clone())
            .unwrap_or_default(),
        timeline,
        generation: 0,
        deadline: None,
        canary_lsn: None,
        armed_lsn: None,
        end_of_wal: None,
        proof: None,
        first_write: None,
        alarm: None,
        unresumed: Vec::new(),
        left_out: Vec::new(),
        analyzed: false,
        abort_reason: None,
        steps: Vec::new(),
        certificate: None,
    };
    let because = match to {
        Side::Target => "spec.phase is Switched and the target follows",
        Side::Source => "spec.phase is RolledBack and the source follows",
    };
    enter(seen, record, Step::Gate, because.to_owned())
}

/// The phase in which a migration rests while no switchover runs.
pub fn home_phase(seen: &Snapshot) -> Phase {
    let record = seen
        .migration
        .status
        .as_ref()
        .and_then(|status| status.switchover.as_ref());
    match record {
        Some(record) if record.step == Step::Done => match record.to {
            Side::Target => Phase::Switched,
            Side::Source => Phase::RolledBack,
        },
        Some(record) => record.began_in,
        // A resource that was deleted after its switch and applied again.
        None if seen.primaries().iter().any(|primary| primary.side == Side::Target) => Phase::Switched,
        None => Phase::Replicating,
    }
}

/// Decides the next thing to do in a running switchover.
pub fn decide_switchover(seen: &Snapshot, record: &SwitchoverStatus) -> Decision {
    let (Some(old), Some(new)) = (seen.member(&record.old_primary), seen.member(&record.new_primary)) else {
        return Decision::Halt {
            told: Told::new(
                phase_of(record, record.step),
                Reason::NeedsAttention,
                "the members of the running switchover are not in the specification any more: put them back",
            ),
        };
    };
    Turn { seen, record, old, new }.decide()
}

/// What a turn comes upon and what is decided, for tests.
#[cfg(test)]
pub fn look(seen: &Snapshot, record: &SwitchoverStatus) -> (Observation, Decision) {
    let (Some(old), Some(new)) = (seen.member(&record.old_primary), seen.member(&record.new_primary)) else {
        panic!("the members of the switchover are not there");
    };
    let turn = Turn { seen, record, old, new };
    (turn.observe().0, turn.decide())
}

/// One turn of a switchover.
struct Turn<'a> {
    seen: &'a Snapshot,
    record: &'a SwitchoverStatus,
    old: &'a Member,
    new: &'a Member,
}

impl Turn<'_> {
    fn decide(&self) -> Decision {
        let (observed, detail) = self.observe();
        let Some(row) = table::find(self.record.step, observed) else {
            return self.halt(format!(
                "{observed:?} is not foreseen in step {}: nothing is done until a person has looked. {detail}",
                self.record.step.as_str()
            ));
        };
        let message = if detail.is_empty() {
            row.because.to_owned()
        } else {
            format!("{}: {detail}", row.because)
        };
        match row.answer {
            Answer::Enter(to) => self.enter(to, message),
            Answer::Do(effect) => self.perform(effect, message),
            Answer::Wait => self.wait(message),
            Answer::Halt => self.halt(message),
        }
    }

    /// Records the next step, with what was seen that it needs to know later.
    fn enter(&self, to: Step, because: String) -> Decision {
        let mut record = self.record.clone();
        if matches!(self.record.step, Step::Route | Step::Release) {
            record.unresumed = list_unresumed(self.seen);
        }
        if self.record.step == Step::Hold {
            // Where somebody wrote meanwhile it is a later one, and what comes next must come after it.
            let held = self.seen.traffic.routing.as_ref().map(|routing| routing.generation);
            record.generation = record.generation.max(held.unwrap_or(0));
        }
        match (self.record.step, to) {
            (_, Step::Restore | Step::Aborted) if record.abort_reason.is_none() => {
                record.abort_reason = Some(because.clone());
            }
            (Step::Gate, Step::Arm) => {
                record.canary_lsn = self.prepared_lsn().map(|lsn| lsn.to_string());
                let generation = self.seen.traffic.routing.as_ref().map(|routing| routing.generation);
                record.generation = generation.unwrap_or(0) + 1;
                let budget: Duration = self.seen.migration.spec.switchover.budget.into();
                record.deadline = self.seen.now.checked_add(budget).ok();
                record.left_out = list_unfit(self.seen, self.old, self.new);
            }
            // No restart from here on brings a primary back, so the shutdown checkpoint that counts lies behind this position, which
            // was read in the same statement. Before it, a restart may have left another one.
            (Step::Arm, Step::Hold) => {
                let lsn = self.old.server().and_then(|server| server.lsn);
                record.armed_lsn = lsn.map(|lsn| lsn.to_string());
            }
            (Step::Prove, Step::Promote) => {
                let proven = self.new.server().and_then(|server| self.proof(server));
                record.end_of_wal = proven.map(|(end, _)| end.to_string());
                record.proof = proven.map(|(_, proof)| proof);
            }
            (Step::Follow, Step::Finish) => record.certificate = self.certificate(),
            _ => {}
        }
        enter(self.seen, record, to, because)
    }

    /// The actions of an effect.
    fn perform(&self, effect: Effect, message: String) -> Decision {
        let old = || self.old.name.clone();
        let new = || self.new.name.clone();
        let actions = match effect {
            Effect::EndTransactions => vec![Action::EndTransactions {
                on: old(),
                older_than: self.seen.migration.spec.switchover.transaction_grace.into(),
            }],
            Effect::Prepare => vec![
                Action::EnsureSlot {
                    on: new(),
                    slot: self.old.name.slot(),
                },
                Action::Prepare {
                    primary: old(),
                    standby: new(),
                    canary: self
                        .seen
                        .migration
                        .spec
                        .switchover
                        .canary
                        .then(|| self.record.id.clone()),
                },
            ],
            Effect::Pause => vec![Action::PausePoolers(list_serving(self.seen))],
            Effect::Resume => vec![Action::ResumePoolers(list_paused(self.seen))],
            Effect::Hold => self.reroute(State::Held),
            Effect::TurnOver | Effect::TurnBack => self.reroute(State::Open),
            Effect::Arm => conninfo_between(self.seen, self.old, self.new)
                .map(|conninfo| Action::Arm {
                    member: old(),
                    upstream: Box::new(conninfo),
                    slot: self.old.name.slot(),
                    token: self.record.id.clone(),
                })
                .into_iter()
                .collect(),
            Effect::Stop => match self.stop_by() {
                Some(by) => vec![Action::Stop {
                    member: old(),
                    armed_by: self.record.id.clone(),
                    by,
                }],
                None => {
                    return Decision::Wait {
                        told: self.told(Reason::NeedsAttention, self.ask_to_stop()),
                        // A person takes seconds, and the server still has work.
                        recheck: LATER,
                    };
                }
            },
            Effect::ShowReplayed => vec![Action::Checkpoint { member: new() }],
            Effect::Promote => {
                let end = self.record.end_of_wal.as_deref().and_then(|text| text.parse().ok());
                // Without a proof on record there is nothing to do, and a person looks.
                let promote = end.zip(self.record.proof).map(|(end, proof)| Action::Promote {
                    member: new(),
                    end,
                    proof,
                });
                promote.into_iter().collect()
            }
            Effect::Confirm => vec![Action::ConfirmWrites {
                on: new(),
                token: format!("{}-after", self.record.id),
            }],
            Effect::Label => plan_labels(self.seen),
            Effect::Finish => self.finish(),
            Effect::Reinstate => vec![Action::Reinstate {
                member: old(),
                timeline: self.record.timeline,
            }],
            Effect::Disarm => vec![Action::Disarm {
                member: old(),
                armed_by: self.old.server().and_then(|server| server.armed_by.clone()),
            }],
        };
        if actions.is_empty() {
            return self.halt(format!("{} has nothing to do: {message}", effect.as_str()));
        }
        Decision::Act {
            actions,
            effect: Some(effect),
            told: self.told(Reason::Switching, message),
        }
    }

    fn reroute(&self, state: State) -> Vec<Action> {
        let (primary, first) = self.wanted_routing();
        plan_switch(self.seen, primary, first, state).map_or_else(|_| Vec::new(), |(_, actions)| actions)
    }

    /// How the old primary is stopped; nothing where a person does it.
    fn stop_by(&self) -> Option<StopBy> {
        match self.old.side {
            // The members' containers start their server again.
            Side::Target => Some(StopBy::ShutDown),
            Side::Source => stop_by(
                self.seen,
                self.old,
                &format!("{}-{}", self.record.attempt, self.record.timeline),
            ),
        }
    }

    fn ask_to_stop(&self) -> String {
        format!(
            "stop {} cleanly now, for example with `pg_ctl stop -m fast` or its service manager, and start it again: it comes up as a \
             standby",
            self.old.name
        )
    }

    fn finish(&self) -> Vec<Action> {
        let analyze = (!self.record.analyzed).then(|| Action::Analyze {
            member: self.new.name.clone(),
        });
        let drops = self.keepers_of_old_slot().into_iter().map(|keeper| Action::DropSlot {
            on: keeper.name.clone(),
            slot: self.new.name.slot(),
        });
        analyze.into_iter().chain(drops).collect()
    }

    fn certificate(&self) -> Option<Certificate> {
        let primary = self.new.server()?;
        let held = self.record.started(Step::Hold).unwrap_or(self.seen.now);
        // What is measured after the release does not count.
        let followed = self.record.started(Step::Follow).unwrap_or(self.seen.now);
        let released = self.record.first_write.unwrap_or(followed);
        Some(Certificate {
            system_identifier: primary.system_identifier.clone(),
            old_primary: self.record.old_primary.clone(),
            new_primary: self.record.new_primary.clone(),
            old_timeline: self.record.timeline,
            new_timeline: primary.timeline,
            proof: self.record.proof?,
            fenced: self.record.proof?.describe(&self.old.name, &self.new.name),
            end_of_wal: self.record.end_of_wal.clone()?,
            fork: self.seen.fork?.to_string(),
            canary: self.seen.canary_replayed,
            canary_token: self.record.id.clone(),
            held_milliseconds: released.as_millisecond() - held.as_millisecond(),
            write_gap_milliseconds: self
                .record
                .first_write
                .zip(self.record.started(Step::Arm))
                .map(|(after, before)| after.as_millisecond() - before.as_millisecond()),
            step_milliseconds: self.step_milliseconds(),
            routes: self
                .seen
                .traffic
                .pods
                .iter()
                .filter_map(|pod| {
                    Some(RouteStatus {
                        pod: pod.name.clone(),
                        generation: pod.report.as_ref()?.generation?,
                        reached: pod.lead == Lead::ToPrimary,
                    })
                })
                .collect(),
        })
    }

    /// How long each step took until the next one was recorded, in milliseconds.
    fn step_milliseconds(&self) -> std::collections::BTreeMap<String, i64> {
        let steps = &self.record.steps;
        steps
            .iter()
            .zip(steps.iter().skip(1))
            .map(|(step, next)| {
                (
                    step.step.as_str().to_owned(),
                    next.start_time.as_millisecond() - step.start_time.as_millisecond(),
                )
            })
            .collect()
    }

    fn told(&self, reason: Reason, message: impl Into<String>) -> Told {
        Told::new(phase_of(self.record, self.record.step), reason, message)
    }

    fn wait(&self, message: String) -> Decision {
        let step = self.record.step;
        let reason = match step {
            Step::Gate => Reason::GateClosed,
            Step::Follow | Step::Finish => Reason::OldSideBehind,
            // Clients wait and only a person can bring the server back.
            Step::Restore | Step::Promote if self.waiting() > PATIENCE => Reason::MemberUnreachable,
            // Else status would be silent for as long as clients are not led to the new primary.
            Step::Route if self.waiting() > ROUTE_PATIENCE => Reason::NeedsAttention,
            Step::Restore | Step::Release => Reason::Aborted,
            _ => Reason::Switching,
        };
        Decision::Wait {
            told: self.told(reason, message),
            recheck: match step {
                Step::Gate if reason == Reason::GateClosed && self.prepared_lsn().is_none() => AT_GATE,
                Step::Follow | Step::Finish | Step::Restore | Step::Promote => LATER,
                // What has not come at once comes no sooner for being asked for, nor does what the kubelet brings.
                Step::Hold | Step::Route if self.waiting() > AT_ONCE || !has_held_routes(self.seen) => LATER,
                _ => SOON,
            },
        }
    }

    /// Seconds since the step was recorded.
    fn waiting(&self) -> f64 {
        self.record
            .steps
            .last()
            .and_then(|step| (self.seen.now - step.start_time).total(jiff::Unit::Second).ok())
            .unwrap_or(0.0)
    }

    fn halt(&self, message: String) -> Decision {
        Decision::Halt {
            told: self.told(Reason::NeedsAttention, message),
        }
    }
}

/// How a source server is stopped, as the specification asks; nothing where a person does it. `occasion` names what it is for.
pub fn stop_by(seen: &Snapshot, member: &Member, occasion: &str) -> Option<StopBy> {
    let stop = &seen.migration.spec.source.stop;
    match stop.method {
        StopMethod::Sql => Some(StopBy::Restart(stop.restart_command.clone())),
        StopMethod::Kubernetes => Some(StopBy::Pod(stop.pods.as_ref()?.get(member.name.as_str())?.clone())),
        StopMethod::Job => Some(StopBy::Job {
            cron_job: stop.cron_job_name.clone()?,
            name: format!(
                "{}-stop-{}-{occasion}",
                seen.migration.metadata.name.as_deref().unwrap_or_default(),
                member.name
            ),
        }),
        StopMethod::Manual => None,
    }
}

/// The phase that is shown in a step of a switchover.
#[must_use]
pub fn phase_of(record: &SwitchoverStatus, step: Step) -> Phase {
    match (step, record.to) {
        (Step::Gate | Step::Aborted, _) => record.began_in,
        (Step::Follow | Step::Finish | Step::Done, Side::Target) => Phase::Switched,
        (Step::Follow | Step::Finish | Step::Done, Side::Source) => Phase::RolledBack,
        (_, Side::Target) => Phase::Switching,
        (_, Side::Source) => Phase::RollingBack,
    }
}

fn enter(seen: &Snapshot, mut record: SwitchoverStatus, to: Step, because: String) -> Decision {
    record.step = to;
    record.steps.push(StepRecord {
        step: to,
        start_time: seen.now,
        because: because.clone(),
    });
    Decision::Advance(Advance {
        to,
        because,
        record: Box::new(record),
    })
}
