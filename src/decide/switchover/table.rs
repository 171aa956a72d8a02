//! The one table of the switchover: in each step, what is observed and what is done about it.
//!
//! A pair of step and observation has at most one row. A pair without a row is ambiguous: the switchover halts and a person looks.

use super::effect::Effect;
use crate::api::Step;

/// What a step can come upon. Each turn comes upon exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Observation {
    /// The ClusterMigration is being deleted.
    Deleted,
    /// `spec.phase` does not ask for this switchover any more.
    CalledOff,
    /// The budget is over.
    OverBudget,
    /// Something forbids to begin.
    Obstructed,
    /// Slot, checkpoints or canary are still to be made.
    Unprepared,
    /// Nothing but long transactions forbids to begin, and they may be ended.
    LongTransactions,
    /// The canary was written and not replayed yet.
    CanaryOnItsWay,
    /// Everything is as it must be.
    Ready,
    /// An address that is needed is not known.
    AddressUnknown,
    /// There is no route that the step concerns.
    NoRoutes,
    /// Databases of PgBouncer are not paused.
    PoolersServing,
    /// Databases of PgBouncer are paused, and transactions have not ended yet or an instance was not seen.
    PoolersBusy,
    /// The same, for longer than it may take.
    PoolersLate,
    /// Clients are led to the primary, and databases of PgBouncer are paused.
    PoolersPaused,
    /// Clients are led to the primary, and an instance of PgBouncer was not seen.
    PoolersUnseen,
    /// The routing does not say what the step wants.
    ProxiesUntold,
    /// The routing says it, and not every HAProxy pod does it yet.
    ProxiesBehind,
    /// Every HAProxy pod does what the routing says.
    ProxiesDone,
    /// Clients are released, and no row was written on the new primary yet.
    Unconfirmed,
    /// The old primary was not seen.
    OldUnseen,
    /// The old primary accepts writes and would come back as primary.
    OldServes,
    /// The old primary accepts writes and would come back as a standby of the other side.
    OldArmed,
    /// The old primary is in recovery.
    OldStandby,
    /// The old primary is in recovery and does not replay: promoted, it would lack what it has not replayed.
    OldPaused,
    /// The old primary and the new one both accept writes.
    TwoPrimaries,
    /// The member that is promoted was not seen.
    NewUnseen,
    /// The member that is promoted is in recovery.
    NewStandby,
    /// The old primary was stopped a moment ago, and the member that is promoted has not replayed its last record yet.
    NewCatchingUp,
    /// The member that is promoted holds everything that the old primary wrote.
    NewProven,
    /// The member that is promoted accepts writes.
    NewServes,
    /// Pods are labelled with former roles.
    LabelsDue,
    /// The new timeline's history was not read yet.
    HistoryUnread,
    /// The new timeline does not fork off where the old primary ended.
    ForkElsewhere,
    /// The new primary was not reached by SQL through every HAProxy pod.
    ProxiesUnproven,
    /// Not every member is known to stream on the new timeline.
    Behind,
    /// What is left to be done does not come to its end, and was waited for long enough.
    GivenUp,
    /// Every member streams on the new timeline.
    Following,
    /// Statistics are still to be renewed and slots to be dropped.
    Unfinished,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The next step is recorded. Nothing else happens in the turn.
    Enter(Step),
    /// The world is changed, then looked at again.
    Do(Effect),
    /// Nothing is wrong and nothing is to do now.
    Wait,
    /// A person must act.
    Halt,
}

/// One row: in this step, on this observation, this answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The step.
    pub step: Step,
    /// What is observed.
    pub seen: Observation,
    /// What is done.
    pub answer: Answer,
    /// Why, as a sentence.
    pub because: &'static str,
}

const fn enter(step: Step, seen: Observation, to: Step, because: &'static str) -> Row {
    Row {
        step,
        seen,
        answer: Answer::Enter(to),
        because,
    }
}

const fn act(step: Step, seen: Observation, effect: Effect, because: &'static str) -> Row {
    Row {
        step,
        seen,
        answer: Answer::Do(effect),
        because,
    }
}

const fn wait(step: Step, seen: Observation, because: &'static str) -> Row {
    Row {
        step,
        seen,
        answer: Answer::Wait,
        because,
    }
}

const fn halt(step: Step, seen: Observation, because: &'static str) -> Row {
    Row {
        step,
        seen,
        answer: Answer::Halt,
        because,
    }
}

use Observation as Seen;

const DELETED: &str = "the ClusterMigration is being deleted";
const CALLED_OFF: &str = "spec.phase was set back";
const OVER: &str = "the budget is over";

/// Every row.
pub const TABLE: &[Row] = &[
    enter(Step::Gate, Seen::Deleted, Step::Aborted, DELETED),
    enter(Step::Gate, Seen::CalledOff, Step::Aborted, CALLED_OFF),
    wait(Step::Gate, Seen::Obstructed, "the switchover waits"),
    act(
        Step::Gate,
        Seen::LongTransactions,
        Effect::EndTransactions,
        "long transactions are ended, as spec.switchover.longTransactions asks",
    ),
    act(
        Step::Gate,
        Seen::Unprepared,
        Effect::Prepare,
        "canary, checkpoints and slot are prepared",
    ),
    wait(Step::Gate, Seen::CanaryOnItsWay, "the canary was not replayed yet"),
    enter(
        Step::Gate,
        Seen::Ready,
        Step::Arm,
        "the gate is open: canary and checkpoint are done and replayed",
    ),
    enter(Step::Arm, Seen::Deleted, Step::Restore, DELETED),
    enter(Step::Arm, Seen::CalledOff, Step::Restore, CALLED_OFF),
    enter(Step::Arm, Seen::OverBudget, Step::Restore, OVER),
    enter(
        Step::Arm,
        Seen::AddressUnknown,
        Step::Restore,
        "the old primary cannot be told whom to follow, or HAProxy whom to lead to",
    ),
    enter(
        Step::Arm,
        Seen::OldStandby,
        Step::Restore,
        "the old primary is in recovery before it was armed",
    ),
    wait(Step::Arm, Seen::OldUnseen, "the old primary was not seen"),
    act(Step::Arm, Seen::OldServes, Effect::Arm, "the old primary is armed"),
    enter(
        Step::Arm,
        Seen::OldArmed,
        Step::Hold,
        "the old primary comes back as a standby of the other side, whatever restarts it",
    ),
    enter(Step::Hold, Seen::Deleted, Step::Restore, DELETED),
    enter(Step::Hold, Seen::CalledOff, Step::Restore, CALLED_OFF),
    enter(Step::Hold, Seen::OverBudget, Step::Restore, OVER),
    enter(
        Step::Hold,
        Seen::AddressUnknown,
        Step::Restore,
        "the routing cannot be written",
    ),
    enter(Step::Hold, Seen::NoRoutes, Step::Stop, "there is no client to hold"),
    act(
        Step::Hold,
        Seen::PoolersServing,
        Effect::Pause,
        "PgBouncer is told to let its clients wait",
    ),
    wait(
        Step::Hold,
        Seen::PoolersBusy,
        "transactions that go through PgBouncer have not ended yet",
    ),
    enter(
        Step::Hold,
        Seen::PoolersLate,
        Step::Restore,
        "transactions that go through PgBouncer did not end within spec.traffic.pgbouncer.pauseTimeout",
    ),
    act(
        Step::Hold,
        Seen::ProxiesUntold,
        Effect::Hold,
        "HAProxy is told to hold clients",
    ),
    wait(Step::Hold, Seen::ProxiesBehind, "HAProxy does not hold yet"),
    enter(
        Step::Hold,
        Seen::ProxiesDone,
        Step::Stop,
        "every HAProxy pod holds new connections and ended the old ones",
    ),
    enter(Step::Stop, Seen::Deleted, Step::Restore, DELETED),
    enter(Step::Stop, Seen::CalledOff, Step::Restore, CALLED_OFF),
    enter(Step::Stop, Seen::OverBudget, Step::Restore, OVER),
    enter(
        Step::Stop,
        Seen::AddressUnknown,
        Step::Restore,
        "the old primary cannot be told whom to follow",
    ),
    enter(
        Step::Stop,
        Seen::OldServes,
        Step::Restore,
        "the old primary was disarmed by somebody else",
    ),
    act(Step::Stop, Seen::OldArmed, Effect::Stop, "the old primary is stopped"),
    enter(
        Step::Stop,
        Seen::OldUnseen,
        Step::Prove,
        "the old primary does not answer; the proof tells whether it stopped",
    ),
    enter(
        Step::Stop,
        Seen::OldStandby,
        Step::Prove,
        "the old primary does not serve as primary any more",
    ),
    enter(Step::Prove, Seen::Deleted, Step::Restore, DELETED),
    enter(Step::Prove, Seen::CalledOff, Step::Restore, CALLED_OFF),
    enter(Step::Prove, Seen::OverBudget, Step::Restore, OVER),
    halt(
        Step::Prove,
        Seen::TwoPrimaries,
        "both sides accept writes: stop the one that is not meant to be primary",
    ),
    enter(
        Step::Prove,
        Seen::OldArmed,
        Step::Stop,
        "the old primary still serves, armed: it is stopped again",
    ),
    enter(
        Step::Prove,
        Seen::OldServes,
        Step::Restore,
        "the old primary serves as primary again",
    ),
    wait(Step::Prove, Seen::NewUnseen, "the member that is promoted was not seen"),
    halt(
        Step::Prove,
        Seen::NewServes,
        "somebody else promoted the new primary during the switchover: find out who, and compare both sides before clients are led anywhere",
    ),
    wait(
        Step::Prove,
        Seen::NewCatchingUp,
        "the last records of the old primary are on their way",
    ),
    act(
        Step::Prove,
        Seen::NewStandby,
        Effect::ShowReplayed,
        "the member that is promoted shows what it replayed",
    ),
    enter(
        Step::Prove,
        Seen::NewProven,
        Step::Promote,
        "it replayed everything that the old primary wrote, to its last record",
    ),
    halt(
        Step::Promote,
        Seen::TwoPrimaries,
        "both sides accept writes: stop the one that is not meant to be primary",
    ),
    halt(
        Step::Promote,
        Seen::OldServes,
        "somebody else made the old primary writable after it was proven stopped: nothing is promoted; compare both sides",
    ),
    wait(
        Step::Promote,
        Seen::OldUnseen,
        "the old primary was seen as primary after it was proven stopped, and is out of sight now: it must be seen as a standby first",
    ),
    act(
        Step::Promote,
        Seen::NewStandby,
        Effect::Promote,
        "the new primary is promoted",
    ),
    wait(
        Step::Promote,
        Seen::NewUnseen,
        "whether it was promoted is not known, and nothing else may become primary; start it if it is down",
    ),
    enter(
        Step::Promote,
        Seen::NewServes,
        Step::Route,
        "the new primary accepts writes",
    ),
    wait(
        Step::Route,
        Seen::AddressUnknown,
        "the address of the new primary is not known",
    ),
    act(
        Step::Route,
        Seen::ProxiesUntold,
        Effect::TurnOver,
        "HAProxy is turned over to the new primary",
    ),
    wait(
        Step::Route,
        Seen::ProxiesBehind,
        "not every HAProxy pod leads to the new primary",
    ),
    act(
        Step::Route,
        Seen::PoolersPaused,
        Effect::Resume,
        "HAProxy leads to the new primary; PgBouncer is told to go on",
    ),
    wait(
        Step::Route,
        Seen::PoolersUnseen,
        "an instance of PgBouncer was not seen, and may be paused still",
    ),
    act(
        Step::Route,
        Seen::Unconfirmed,
        Effect::Confirm,
        "clients are released; a row written on the new primary shows that writes are taken again",
    ),
    enter(
        Step::Route,
        Seen::NoRoutes,
        Step::Follow,
        "there is no client to release",
    ),
    enter(
        Step::Route,
        Seen::ProxiesDone,
        Step::Follow,
        "every HAProxy pod leads to the new primary",
    ),
    act(
        Step::Follow,
        Seen::PoolersPaused,
        Effect::Resume,
        "an instance of PgBouncer that was away when clients were released is told to go on",
    ),
    enter(
        Step::Follow,
        Seen::Deleted,
        Step::Done,
        "the ClusterMigration is being deleted before the old side follows",
    ),
    act(
        Step::Follow,
        Seen::LabelsDue,
        Effect::Label,
        "pods are labelled with their roles",
    ),
    wait(Step::Follow, Seen::NewUnseen, "the new primary was not seen"),
    wait(
        Step::Follow,
        Seen::HistoryUnread,
        "the new timeline's history was not read yet",
    ),
    halt(
        Step::Follow,
        Seen::ForkElsewhere,
        "somebody else wrote or promoted: compare both sides before the old one is used",
    ),
    wait(
        Step::Follow,
        Seen::ProxiesUnproven,
        "the new primary was not reached by SQL through every HAProxy pod yet",
    ),
    wait(
        Step::Follow,
        Seen::Behind,
        "a member does not stream on the new timeline yet; look into its log if this stays",
    ),
    enter(
        Step::Follow,
        Seen::GivenUp,
        Step::Finish,
        "the old side does not follow yet; the switch is done without it, the way back is not there",
    ),
    enter(
        Step::Follow,
        Seen::Following,
        Step::Finish,
        "all members stream on the new timeline",
    ),
    enter(
        Step::Finish,
        Seen::Deleted,
        Step::Done,
        "the ClusterMigration is being deleted",
    ),
    wait(Step::Finish, Seen::NewUnseen, "the new primary was not seen"),
    wait(
        Step::Finish,
        Seen::Behind,
        "a member that may keep the old slot was not seen",
    ),
    act(
        Step::Finish,
        Seen::Unfinished,
        Effect::Finish,
        "statistics are renewed and the old slot is dropped",
    ),
    enter(
        Step::Finish,
        Seen::GivenUp,
        Step::Done,
        "statistics were not renewed in time, or a slot could not be dropped yet; the switch is done",
    ),
    enter(
        Step::Finish,
        Seen::Ready,
        Step::Done,
        "statistics are renewed and the old slot is dropped",
    ),
    halt(
        Step::Restore,
        Seen::TwoPrimaries,
        "both sides accept writes: stop the one that is not meant to be primary",
    ),
    halt(
        Step::Restore,
        Seen::NewServes,
        "somebody else promoted the other side: the old primary stays as it is; compare both before one is made primary",
    ),
    wait(
        Step::Restore,
        Seen::NewUnseen,
        "the other side was seen as primary, and is out of sight now: it must be seen as a standby first",
    ),
    wait(
        Step::Restore,
        Seen::OldPaused,
        "replay is paused on the old primary: run `SELECT pg_wal_replay_resume()` there, and look for recovery_target parameters",
    ),
    wait(
        Step::Restore,
        Seen::OldUnseen,
        "start the old primary: it comes up as a standby and is then made primary again. Where it is lost for good, only a person can \
         decide to go on without what it alone may hold",
    ),
    act(
        Step::Restore,
        Seen::OldStandby,
        Effect::Reinstate,
        "the old primary becomes primary again",
    ),
    act(
        Step::Restore,
        Seen::OldArmed,
        Effect::Disarm,
        "the old primary is disarmed",
    ),
    enter(
        Step::Restore,
        Seen::OldServes,
        Step::Release,
        "the old primary accepts writes and is not armed",
    ),
    wait(
        Step::Release,
        Seen::AddressUnknown,
        "the address of the old primary is not known",
    ),
    act(
        Step::Release,
        Seen::ProxiesUntold,
        Effect::TurnBack,
        "HAProxy is turned back to the old primary",
    ),
    wait(
        Step::Release,
        Seen::ProxiesBehind,
        "not every HAProxy pod leads to the old primary",
    ),
    act(
        Step::Release,
        Seen::PoolersPaused,
        Effect::Resume,
        "HAProxy leads to the old primary; PgBouncer is told to go on",
    ),
    wait(
        Step::Release,
        Seen::PoolersUnseen,
        "an instance of PgBouncer was not seen, and may be paused still",
    ),
    enter(
        Step::Release,
        Seen::NoRoutes,
        Step::Aborted,
        "there is no client to release",
    ),
    enter(
        Step::Release,
        Seen::ProxiesDone,
        Step::Aborted,
        "every HAProxy pod leads to the old primary",
    ),
];

/// The row for an observation in a step.
#[must_use]
pub fn find(step: Step, seen: Observation) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.step == step && row.seen == seen)
}

/// The table as a page of documentation: a state diagram and every row.
#[must_use]
pub fn render() -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "# The switchover, step by step\n\n\
         Generated from the table that the operator decides by (`src/decide/switchover/table.rs`); `make docs` writes it anew.\n\
         The same table leads to the target (`spec.phase: Switched`) and back to the source (`RolledBack`). An observation that a step\n\
         has no row for is ambiguous: the switchover halts and a person looks.\n\n```mermaid\nstateDiagram-v2\n    [*] --> Gate\n",
    );
    let mut drawn: Vec<(Step, Step)> = Vec::new();
    for row in TABLE {
        let Answer::Enter(to) = row.answer else { continue };
        if drawn.contains(&(row.step, to)) {
            continue;
        }
        drawn.push((row.step, to));
        let _ = writeln!(text, "    {} --> {}", row.step.as_str(), to.as_str());
    }
    text.push_str("    Done --> [*]\n    Aborted --> [*]\n```\n");
    for step in Step::ALL {
        let rows: Vec<&Row> = TABLE.iter().filter(|row| row.step == step).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = write!(
            text,
            "\n## {}\n\n| observed | answer | because |\n|---|---|---|\n",
            step.as_str()
        );
        for row in rows {
            let answer = match row.answer {
                Answer::Enter(to) => format!("enter **{}**", to.as_str()),
                Answer::Do(effect) => format!("do `{effect:?}`"),
                Answer::Wait => "wait".to_owned(),
                Answer::Halt => "halt: a person must act".to_owned(),
            };
            let _ = writeln!(text, "| {:?} | {answer} | {} |", row.seen, row.because);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn reachable_from(start: Step) -> BTreeSet<&'static str> {
        let mut reached = BTreeSet::from([start.as_str()]);
        let mut open = vec![start];
        while let Some(step) = open.pop() {
            for row in TABLE.iter().filter(|row| row.step == step) {
                if let Answer::Enter(to) = row.answer
                    && reached.insert(to.as_str())
                {
                    open.push(to);
                }
            }
        }
        reached
    }

    #[test]
    fn every_step_is_reached_from_the_gate() {
        assert_eq!(reachable_from(Step::Gate).len(), Step::ALL.len());
    }

    #[test]
    fn every_step_that_is_not_terminal_has_an_exit_and_terminal_ones_have_no_row() {
        for step in Step::ALL {
            let rows = TABLE.iter().filter(|row| row.step == step);
            let exits = rows.filter(|row| matches!(row.answer, Answer::Enter(_))).count();
            assert_eq!(exits == 0, step.is_terminal(), "{step:?}");
            if step.is_terminal() {
                assert!(TABLE.iter().all(|row| row.step != step), "{step:?}");
            }
        }
    }

    #[test]
    fn from_promotion_on_there_is_only_forward() {
        for step in Step::ALL.into_iter().filter(|step| step.is_past_no_return()) {
            let reached = reachable_from(step);
            assert!(!reached.contains("Restore") && !reached.contains("Aborted"), "{step:?}");
        }
    }

    #[test]
    fn a_step_and_an_observation_have_one_answer() {
        for (index, row) in TABLE.iter().enumerate() {
            assert!(
                !TABLE[index + 1..]
                    .iter()
                    .any(|other| other.step == row.step && other.seen == row.seen),
                "{row:?}"
            );
        }
    }

    #[test]
    fn every_effect_is_done_by_a_row() {
        for effect in Effect::ALL {
            assert!(TABLE.iter().any(|row| row.answer == Answer::Do(effect)), "{effect:?}");
        }
    }

    #[test]
    fn the_page_in_docs_is_the_table() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/switchover.md");
        if std::env::var_os("MITOSIS_WRITE_DOCS").is_some() {
            std::fs::write(page, render()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(page).unwrap_or_default(),
            render(),
            "run `make docs`"
        );
    }
}
