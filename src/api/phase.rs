//! The phase that a user wants, and the phase that is observed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the user wants the migration to be. Moving from `Replicating` to `Switched` is the fire button.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredPhase {
    /// Preflight only: nothing but throw-away probes is created on either side.
    #[default]
    Planned,
    /// The target is cloned from a source standby and follows the source.
    Replicating,
    /// The target is primary, HAProxy leads to it, and the source follows it.
    Switched,
    /// The source is primary again, by the same switchover the other way, and the target follows it. Comes after `Switched`.
    RolledBack,
    /// The way back is given up: the side that is primary stays, the other one does not follow it any more. Final.
    Completed,
}

impl DesiredPhase {
    /// The name as it is written in the specification.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "Planned",
            Self::Replicating => "Replicating",
            Self::Switched => "Switched",
            Self::RolledBack => "RolledBack",
            Self::Completed => "Completed",
        }
    }
}

/// Where the migration is, for people; machines read the conditions. Values may be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Nothing was looked at yet, or preflight does not pass.
    #[default]
    Pending,
    /// Preflight passes; nothing was created.
    Planned,
    /// Target members are being cloned.
    Seeding,
    /// Every target member follows the source.
    Replicating,
    /// The switchover is under way.
    Switching,
    /// The target is primary and the source follows it.
    Switched,
    /// The switchover back to the source is under way.
    RollingBack,
    /// The source is primary again and the target follows it.
    RolledBack,
    /// The way back is given up.
    Completed,
    /// The resource is being deleted; the operator ends what is under way.
    Ending,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Planned,
        Self::Seeding,
        Self::Replicating,
        Self::Switching,
        Self::Switched,
        Self::RollingBack,
        Self::RolledBack,
        Self::Completed,
        Self::Ending,
    ];

    /// The name as it appears in status and in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Planned => "Planned",
            Self::Seeding => "Seeding",
            Self::Replicating => "Replicating",
            Self::Switching => "Switching",
            Self::Switched => "Switched",
            Self::RollingBack => "RollingBack",
            Self::RolledBack => "RolledBack",
            Self::Completed => "Completed",
            Self::Ending => "Ending",
        }
    }
}
