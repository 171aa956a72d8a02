//! Conditions, from what was seen and decided. Pure. Times move only when a status changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::status::is_where_wanted;
use crate::{
    api::{
        ClusterMigrationStatus, ConditionType, Phase, Reason, Severity, Side, Step, condition_status, find_condition,
    },
    decide::Told,
    observe::Snapshot,
};

/// Everything that one condition says.
struct Verdict {
    value: Option<bool>,
    reason: Reason,
    message: String,
}

fn verdict(value: Option<bool>, reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict {
        value,
        reason,
        message: message.into(),
    }
}

/// All conditions.
pub(super) fn build_conditions(seen: &Snapshot, next: &ClusterMigrationStatus, told: &Told) -> Vec<Condition> {
    ConditionType::ALL
        .into_iter()
        .map(|kind| {
            let verdict = judge(kind, seen, next, told);
            let status = condition_status(verdict.value);
            let before = find_condition(&next.conditions, kind);
            let since = before
                .filter(|before| before.status == status)
                .map_or(Time(seen.now), |before| before.last_transition_time.clone());
            Condition {
                type_: kind.as_str().to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.as_str().to_owned(),
                message: verdict.message,
                observed_generation: next.observed_generation,
                last_transition_time: since,
            }
        })
        .collect()
}

fn judge(kind: ConditionType, seen: &Snapshot, next: &ClusterMigrationStatus, told: &Told) -> Verdict {
    match kind {
        ConditionType::Ready => judge_ready(seen, next, told),
        ConditionType::Reconciling => {
            let working = !needs_person(told.reason) && !is_settled(seen, next, told);
            verdict(
                Some(working),
                told.reason,
                if working { told.message.as_str() } else { "" },
            )
        }
        ConditionType::Stalled => {
            let stalled = needs_person(told.reason);
            verdict(
                Some(stalled),
                told.reason,
                if stalled { told.message.as_str() } else { "" },
            )
        }
        ConditionType::PreflightPassed => judge_preflight(next, told),
        ConditionType::Seeded => judge_seeded(next),
        ConditionType::Synchronized => judge_synchronized(next, told),
        ConditionType::CutoverReady => match told.reason {
            Reason::Synchronized if next.phase == Phase::Replicating => verdict(
                Some(true),
                Reason::ReadyToSwitch,
                "set spec.phase to Switched to switch over",
            ),
            _ if matches!(next.phase, Phase::Switching | Phase::Switched) => {
                verdict(Some(false), Reason::Switching, "the switchover has begun")
            }
            reason => verdict(Some(false), reason, told.message.as_str()),
        },
        ConditionType::SourceFenced => judge_step(
            next,
            Step::Promote,
            Reason::Proven,
            "the old primary was shut down cleanly and nothing is missing",
        ),
        ConditionType::TargetPromoted => judge_step(next, Step::Route, Reason::Promoted, "the leader accepts writes"),
        ConditionType::RoutingSwitched => judge_step(
            next,
            Step::Follow,
            Reason::RoutingVerified,
            "every HAProxy pod leads to the new primary",
        ),
        ConditionType::RollbackAvailable => judge_way_back(next, told),
        ConditionType::Succeeded => match next.switchover.as_ref().map(|record| record.step) {
            Some(Step::Done) => verdict(Some(true), Reason::Done, "the switchover ended well"),
            Some(Step::Aborted) => verdict(
                Some(false),
                Reason::Aborted,
                next.attempts
                    .first()
                    .map(|attempt| attempt.message.clone())
                    .unwrap_or_default(),
            ),
            _ => verdict(None, Reason::NotYet, ""),
        },
    }
}

/// Reasons for which waiting does not help.
const fn needs_person(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InvalidSpec
            | Reason::SecretUnusable
            | Reason::MemberUnreachable
            | Reason::LoginRefused
            | Reason::PreflightFailed
            | Reason::SeedingFailed
            | Reason::NeedsAttention
            | Reason::AttemptConsumed
    )
}

fn is_settled(seen: &Snapshot, next: &ClusterMigrationStatus, told: &Told) -> bool {
    is_where_wanted(seen, next)
        && matches!(
            told.reason,
            Reason::Synchronized | Reason::Done | Reason::PreflightPassed | Reason::OldSideBehind
        )
}

fn judge_ready(seen: &Snapshot, next: &ClusterMigrationStatus, told: &Told) -> Verdict {
    verdict(Some(is_settled(seen, next, told)), told.reason, told.message.as_str())
}

fn judge_preflight(next: &ClusterMigrationStatus, told: &Told) -> Verdict {
    let blocked = next
        .plan
        .iter()
        .flat_map(|plan| &plan.findings)
        .find(|finding| finding.severity == Severity::Block);
    match blocked {
        Some(finding) => verdict(
            Some(false),
            Reason::PreflightFailed,
            format!("{}: {}", finding.message, finding.remedy),
        ),
        None if matches!(told.reason, Reason::InvalidSpec | Reason::SecretUnusable) => {
            verdict(Some(false), told.reason, told.message.as_str())
        }
        None if told.reason == Reason::Probing || next.plan.is_none() => {
            verdict(None, Reason::Probing, "checks are still running")
        }
        None => verdict(Some(true), Reason::PreflightPassed, "no check blocks"),
    }
}

fn judge_seeded(next: &ClusterMigrationStatus) -> Verdict {
    let missing: Vec<&str> = next
        .seeding
        .iter()
        .filter(|seeding| !seeding.complete)
        .map(|seeding| seeding.member.as_str())
        .collect();
    if next.seeding.is_empty() {
        verdict(Some(false), Reason::NotYet, "no member was cloned yet")
    } else if missing.is_empty() {
        verdict(Some(true), Reason::Done, "every target member was cloned")
    } else {
        verdict(
            Some(false),
            Reason::Seeding,
            format!("not cloned yet: {}", missing.join(", ")),
        )
    }
}

fn judge_synchronized(next: &ClusterMigrationStatus, told: &Told) -> Verdict {
    match (next.phase, told.reason) {
        (Phase::Switched, _) => verdict(Some(true), Reason::Done, "the target is primary"),
        (
            _,
            Reason::Synchronized | Reason::GateClosed | Reason::AttemptConsumed | Reason::Switching | Reason::Aborted,
        ) => verdict(Some(true), Reason::Synchronized, "the leader replayed the last marker"),
        (_, reason) => verdict(Some(false), reason, told.message.as_str()),
    }
}

/// True once the step was entered, which happens only after what the condition says was seen.
fn judge_step(next: &ClusterMigrationStatus, step: Step, reason: Reason, message: &str) -> Verdict {
    let entered = next
        .switchover
        .as_ref()
        .is_some_and(|record| record.started(step).is_some());
    if entered {
        verdict(Some(true), reason, message)
    } else {
        verdict(Some(false), Reason::NotYet, "")
    }
}

fn judge_way_back(next: &ClusterMigrationStatus, told: &Told) -> Verdict {
    if next.phase != Phase::Switched {
        return verdict(Some(false), Reason::NotYet, "there is nothing to go back from");
    }
    let behind: Vec<&str> = next
        .members
        .iter()
        .filter(|member| member.side == Side::Source && member.streaming != Some(true))
        .map(|member| member.name.as_str())
        .collect();
    if behind.is_empty() && told.reason != Reason::OldSideBehind {
        verdict(
            Some(true),
            Reason::OldSideFollows,
            "every source member streams from the new primary",
        )
    } else {
        verdict(
            Some(false),
            Reason::OldSideBehind,
            format!("not streaming: {}", behind.join(", ")),
        )
    }
}
