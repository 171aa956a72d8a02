//! Which part of the world the next decision depends on. While clients are held nothing else is looked at.

use crate::api::{ClusterMigration, Step};

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// Everything.
    Everything,
    /// The old primary and the routing: nobody waits for HAProxy yet.
    Routing,
    /// The HAProxy pods and the routing, until the agents hold this generation, and beside them the old primary.
    Held {
        /// Generation that is waited for.
        generation: u64,
    },
    /// The agents, until they run this generation; then the HAProxy pods and the routing.
    Released {
        /// Generation that is waited for.
        generation: u64,
    },
    /// The member that is promoted, and the old primary for as long as that does not delay.
    BothPrimaries,
}

impl Focus {
    /// What the next decision on a migration depends on.
    #[must_use]
    pub fn of(migration: &ClusterMigration) -> Self {
        let record = migration.status.as_ref().and_then(|status| status.switchover.as_ref());
        match record.map(|record| (record.step, record.generation)) {
            Some((Step::Arm, _)) => Self::Routing,
            Some((Step::Hold, generation)) => Self::Held { generation },
            Some((Step::Route, generation)) => Self::Released {
                generation: generation + 1,
            },
            Some((Step::Stop | Step::Prove | Step::Promote, _)) => Self::BothPrimaries,
            Some((
                Step::Gate | Step::Follow | Step::Finish | Step::Done | Step::Restore | Step::Release | Step::Aborted,
                _,
            ))
            | None => Self::Everything,
        }
    }

    /// Whether a member with this place is looked at.
    #[must_use]
    pub const fn includes(self, is_old_primary: bool, is_new_primary: bool) -> bool {
        match self {
            Self::Everything => true,
            Self::Routing | Self::Held { .. } => is_old_primary,
            Self::Released { .. } => false,
            Self::BothPrimaries => is_new_primary || is_old_primary,
        }
    }

    /// Generation of the routing that is waited for.
    #[must_use]
    pub const fn generation(self) -> Option<u64> {
        match self {
            Self::Held { generation } | Self::Released { generation } => Some(generation),
            _ => None,
        }
    }

    /// Whether the HAProxy pods and the instances of PgBouncer are looked at.
    #[must_use]
    pub const fn includes_proxies(self) -> bool {
        matches!(self, Self::Everything | Self::Held { .. } | Self::Released { .. })
    }
}
