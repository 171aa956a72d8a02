//! Conditions: the contract for machines.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// The conditions of a `ClusterMigration`, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// The migration is where `spec.phase` wants it.
    Ready,
    /// The operator is working toward the desired phase (kstatus).
    Reconciling,
    /// A person must act (kstatus).
    Stalled,
    /// No check of the preflight blocks.
    PreflightPassed,
    /// Every target member was cloned.
    Seeded,
    /// Every target member follows and the newest marker was replayed.
    Synchronized,
    /// The gate of the switchover is open.
    CutoverReady,
    /// Nobody but the operator writes the routing.
    RoutingOwned,
    /// The old primary was stopped and that was proven.
    SourceFenced,
    /// The leader of the target is primary.
    TargetPromoted,
    /// Every HAProxy pod leads to the target.
    RoutingSwitched,
    /// The old side follows the new primary.
    RollbackAvailable,
    /// The switchover ended well (True) or was undone (False).
    Succeeded,
}

impl ConditionType {
    /// All conditions, in the order in which they are shown.
    pub const ALL: [Self; 13] = [
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::PreflightPassed,
        Self::Seeded,
        Self::Synchronized,
        Self::CutoverReady,
        Self::RoutingOwned,
        Self::SourceFenced,
        Self::TargetPromoted,
        Self::RoutingSwitched,
        Self::RollbackAvailable,
        Self::Succeeded,
    ];

    /// The `type` of the condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::PreflightPassed => "PreflightPassed",
            Self::Seeded => "Seeded",
            Self::Synchronized => "Synchronized",
            Self::CutoverReady => "CutoverReady",
            Self::RoutingOwned => "RoutingOwned",
            Self::SourceFenced => "SourceFenced",
            Self::TargetPromoted => "TargetPromoted",
            Self::RoutingSwitched => "RoutingSwitched",
            Self::RollbackAvailable => "RollbackAvailable",
            Self::Succeeded => "Succeeded",
        }
    }
}

/// The `status` of a condition; `None` is `Unknown`.
#[must_use]
pub const fn condition_status(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    }
}

/// The condition of a type, when it was reported before.
#[must_use]
pub fn find_condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == kind.as_str())
}

/// Whether the condition of a type was reported as `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: ConditionType) -> bool {
    find_condition(conditions, kind).is_some_and(|condition| condition.status == "True")
}
