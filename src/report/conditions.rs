//! Conditions, from what was seen and decided. Pure. Times move only when a status changes.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::status::is_where_wanted;
use crate::{
    api::{
        ClusterMigrationStatus, ConditionType, Part, Phase, Reason, RoutingDrift, Severity, Side, Step,
        condition_status, find_condition,
    },
    decide::{Decided, Told, way_back_until},
    observe::Snapshot,
    resources::routing_name,
};

/// The longest time before the end of the way back in which it is announced.
const LONGEST_NOTICE: Duration = Duration::from_hours(24);

/// How long a change of the routing by somebody else is told of after it was put right.
const DRIFT_REMEMBERED: Duration = Duration::from_mins(10);

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
pub(super) fn build_conditions(
    seen: &Snapshot,
    next: &ClusterMigrationStatus,
    decided: &Decided,
    told: &Told,
) -> Vec<Condition> {
    ConditionType::ALL
        .into_iter()
        .map(|kind| {
            let verdict = judge(kind, seen, next, decided, told);
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

fn judge(
    kind: ConditionType,
    seen: &Snapshot,
    next: &ClusterMigrationStatus,
    decided: &Decided,
    told: &Told,
) -> Verdict {
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
            Reason::Synchronized if matches!(next.phase, Phase::Replicating | Phase::RolledBack) => verdict(
                Some(true),
                Reason::ReadyToSwitch,
                "set spec.phase to Switched to switch over",
            ),
            _ if matches!(next.phase, Phase::Switching | Phase::Switched | Phase::RollingBack) => {
                verdict(Some(false), Reason::Switching, "the switchover has begun")
            }
            reason => verdict(Some(false), reason, told.message.as_str()),
        },
        ConditionType::RoutingOwned => judge_routing(seen, next),
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
        ConditionType::RollbackAvailable => judge_way_back(seen, next, decided),
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

fn judge_routing(seen: &Snapshot, next: &ClusterMigrationStatus) -> Verdict {
    if seen.migration.spec.traffic.is_none() {
        return verdict(None, Reason::NotYet, "spec.traffic is not set");
    }
    let lately = |drift: &&RoutingDrift| seen.now.duration_since(drift.last_repair).unsigned_abs() < DRIFT_REMEMBERED;
    match next.routing_drift.as_ref().filter(lately) {
        Some(drift) => verdict(
            Some(false),
            Reason::RoutingDrift,
            format!(
                "{} changed the routing in ConfigMap {} and it was put right at {:.0}, {} times in all: {}",
                drift.last_by,
                drift.config_map_name.as_ref().unwrap_or(&routing_name(&seen.migration)),
                drift.last_repair,
                drift.repairs,
                remedy_for_drift(seen, drift)
            ),
        ),
        None => verdict(
            Some(true),
            Reason::RoutingOwned,
            format!(
                "nobody but the operator wrote the routing lately, ConfigMap {}",
                routing_name(&seen.migration)
            ),
        ),
    }
}

/// What keeps a field manager from writing the routing again, ready to be pasted where that is known.
fn remedy_for_drift(seen: &Snapshot, drift: &RoutingDrift) -> String {
    let traffic = seen.migration.spec.traffic.as_ref();
    let own = traffic.and_then(|traffic| traffic.haproxy.mounted()?.config_map.as_ref());
    let own = own.filter(|own| drift.config_map_name.as_ref() == Some(&own.name));
    let (name, pointer) = match own {
        Some(own) => (own.name.clone(), format!("/data/{}", own.key)),
        None => (routing_name(&seen.migration), "/data".to_owned()),
    };
    let instead = match own.map(|own| own.part) {
        None => "remove it from Git",
        Some(Part::Key) => "remove that key from Git",
        Some(Part::Block) => "give the routes a key of their own that Git does not hold (part: Key)",
    };
    if drift.last_by.contains("argocd") {
        format!(
            "{instead}, or add to the Application's spec `ignoreDifferences: [{{kind: ConfigMap, name: {name}, jsonPointers: [{pointer}]}}]` \
             and `syncPolicy: {{syncOptions: [RespectIgnoreDifferences=true, ServerSideApply=true]}}`"
        )
    } else if drift.last_by.contains("kustomize-controller") || drift.last_by.contains("helm-controller") {
        match own.map(|own| own.part) {
            Some(Part::Key) => {
                format!("{instead}, and annotate it there with `kustomize.toolkit.fluxcd.io/ssa: Merge`")
            }
            _ => format!("{instead}, and annotate it there with `kustomize.toolkit.fluxcd.io/ssa: Ignore`"),
        }
    } else {
        "change spec.traffic instead".to_owned()
    }
}

/// Reasons for which waiting does not help.
pub(crate) const fn needs_person(reason: Reason) -> bool {
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
            | Reason::OutOfOrder
            | Reason::Diverged
    )
}

/// A switchover that has not come to its end is not settled, wherever clients are led by then.
fn is_settled(seen: &Snapshot, next: &ClusterMigrationStatus, told: &Told) -> bool {
    let ended = next.switchover.as_ref().is_none_or(|record| record.step.is_terminal());
    ended
        && is_where_wanted(seen, next)
        && matches!(
            told.reason,
            Reason::Synchronized | Reason::Done | Reason::PreflightPassed | Reason::OldSideBehind | Reason::Expired
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
        (Phase::Switched | Phase::RollingBack | Phase::Completed, _) => {
            verdict(Some(true), Reason::Done, "the switchover is behind")
        }
        (
            _,
            Reason::Synchronized | Reason::GateClosed | Reason::AttemptConsumed | Reason::Switching | Reason::Aborted,
        ) => verdict(Some(true), Reason::Synchronized, "the leader replayed the last marker"),
        (_, reason) => verdict(Some(false), reason, told.message.as_str()),
    }
}

/// True from when the step to the target was entered, which happens only after what the condition says was seen, until the way back
/// passed the point of no return.
fn judge_step(next: &ClusterMigrationStatus, step: Step, reason: Reason, message: &str) -> Verdict {
    let entered = next.switchover.as_ref().is_some_and(|record| match record.to {
        Side::Target => record.started(step).is_some(),
        Side::Source => record.started(Step::Promote).is_none(),
    });
    if entered {
        verdict(Some(true), reason, message)
    } else {
        verdict(Some(false), Reason::NotYet, "")
    }
}

/// Whether the last tenth of the time for which the way back is kept has begun, or its last day.
fn ends_soon(seen: &Snapshot, until: jiff::Timestamp) -> bool {
    let keep: Duration = seen.migration.spec.rollback.keep.into();
    let notice = (keep / 10).min(LONGEST_NOTICE);
    until
        .checked_sub(notice)
        .is_ok_and(|notice_from| seen.now >= notice_from)
}

fn judge_way_back(seen: &Snapshot, next: &ClusterMigrationStatus, decided: &Decided) -> Verdict {
    match (&decided.no_way_back, next.phase) {
        (None, Phase::Switched) => {
            let until = way_back_until(seen);
            let told = until.map(|until| format!(" until {until:.0}")).unwrap_or_default();
            let message =
                format!("every source member streams from the new primary; spec.phase RolledBack leads back{told}");
            if until.is_some_and(|until| ends_soon(seen, until)) {
                let message = format!("{message}; a longer spec.rollback.keep keeps the way back for longer");
                return verdict(Some(true), Reason::EndsSoon, message);
            }
            verdict(Some(true), Reason::OldSideFollows, message)
        }
        (Some((reason, message)), Phase::Switched) => verdict(Some(false), *reason, message.as_str()),
        (_, Phase::Completed) => verdict(Some(false), Reason::Done, "the way back was given up"),
        (_, Phase::RollingBack) => verdict(Some(false), Reason::Switching, "the way back is being taken"),
        _ => verdict(Some(false), Reason::NotYet, "there is nothing to go back from"),
    }
}
