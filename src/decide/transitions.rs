//! The one table of the switchover's transitions. Every step that is entered is entered by one of these rows.

use crate::api::Step;

/// One row: from which step to which, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The step that is left.
    pub from: Step,
    /// The step that is entered.
    pub to: Step,
    /// What was observed, as a sentence.
    pub because: &'static str,
}

const fn row(from: Step, to: Step, because: &'static str) -> Transition {
    Transition { from, to, because }
}

/// Every transition.
pub const TRANSITIONS: &[Transition] = &[
    row(
        Step::Gate,
        Step::Hold,
        "the gate is open: canary and checkpoint are done and the leader replayed them",
    ),
    row(
        Step::Gate,
        Step::Aborted,
        "the switchover was called off before clients were held",
    ),
    row(
        Step::Hold,
        Step::Arm,
        "every HAProxy pod holds new connections and ended the old ones",
    ),
    row(
        Step::Arm,
        Step::Stop,
        "the old primary comes back as a standby of the leader, whatever restarts it",
    ),
    row(
        Step::Stop,
        Step::Prove,
        "the old primary does not serve as primary any more",
    ),
    row(
        Step::Prove,
        Step::Promote,
        "the leader replayed the old primary's shutdown checkpoint and nothing after it",
    ),
    row(Step::Promote, Step::Route, "the leader accepts writes"),
    row(Step::Route, Step::Follow, "every HAProxy pod leads to the new primary"),
    row(Step::Follow, Step::Finish, "all members stream on the new timeline"),
    row(
        Step::Follow,
        Step::Done,
        "the ClusterMigration is being deleted before the old side follows",
    ),
    row(
        Step::Finish,
        Step::Done,
        "statistics are renewed and the old slot is dropped",
    ),
    row(Step::Hold, Step::Restore, "undone before the old primary was touched"),
    row(Step::Arm, Step::Restore, "undone before the old primary was stopped"),
    row(
        Step::Stop,
        Step::Restore,
        "undone while the old primary was being stopped",
    ),
    row(Step::Prove, Step::Restore, "undone because completeness was not proven"),
    row(
        Step::Restore,
        Step::Release,
        "the old primary accepts writes and is not armed",
    ),
    row(
        Step::Release,
        Step::Aborted,
        "every HAProxy pod leads to the old primary",
    ),
];

/// The row between two steps.
pub fn find(from: Step, to: Step) -> Option<&'static Transition> {
    TRANSITIONS.iter().find(|row| row.from == from && row.to == to)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn reachable_from(start: Step) -> BTreeSet<&'static str> {
        let mut reached = BTreeSet::from([start.as_str()]);
        let mut open = vec![start];
        while let Some(step) = open.pop() {
            for row in TRANSITIONS.iter().filter(|row| row.from == step) {
                if reached.insert(row.to.as_str()) {
                    open.push(row.to);
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
    fn every_step_that_is_not_terminal_has_an_exit_and_terminal_ones_have_none() {
        for step in Step::ALL {
            let exits = TRANSITIONS.iter().filter(|row| row.from == step).count();
            assert_eq!(exits == 0, step.is_terminal(), "{step:?}");
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
    fn no_row_is_there_twice() {
        for (index, row) in TRANSITIONS.iter().enumerate() {
            assert!(
                !TRANSITIONS[index + 1..]
                    .iter()
                    .any(|other| other.from == row.from && other.to == row.to)
            );
        }
    }
}
