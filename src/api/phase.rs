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
    /// The resource is being deleted; the operator ends what is under way.
    Ending,
}

impl Phase {
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
            Self::Ending => "Ending",
        }
    }
}
