//! What a decision can be.

use std::time::Duration;

use super::{Effect, poolers::PoolerOrder};
use crate::{
    act::StopBy,
    api::{Finding, Phase, Proof, Reason, Rehearsal, RewindStatus, Step, SwitchoverStatus},
    postgres::{Conninfo, Lsn, MemberName, SlotName},
    resources::Wanted,
};

/// What to do next: exactly one of advancing, acting, waiting or halting.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Record that the next step begins. Nothing else happens in this turn.
    Advance(Advance),
    /// Change the world, then look again.
    Act {
        /// What to do, in order. Each is idempotent.
        actions: Vec<Action>,
        /// Which effect of a switchover this is.
        effect: Option<Effect>,
        /// What is going on.
        told: Told,
    },
    /// Nothing is wrong and nothing is to do now.
    Wait {
        /// What is waited for.
        told: Told,
        /// When to look again at the latest.
        recheck: Duration,
    },
    /// A person must act.
    Halt {
        /// What is wrong and what to change.
        told: Told,
    },
}

/// What status tells about a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The observed phase.
    pub phase: Phase,
    /// Why.
    pub reason: Reason,
    /// One sentence for a person.
    pub message: String,
}

impl Told {
    /// What status tells.
    #[must_use]
    pub fn new(phase: Phase, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            phase,
            reason,
            message: message.into(),
        }
    }
}

/// The beginning of a step, as it is recorded before its effect.
#[derive(Clone, Debug)]
pub struct Advance {
    /// The step.
    pub to: Step,
    /// Why, from the table of transitions.
    pub because: String,
    /// The record with everything that the step needs to know later.
    pub record: Box<SwitchoverStatus>,
}

/// What is written into a ConfigMap of the user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The ConfigMap.
    pub config_map: String,
    /// The key.
    pub key: String,
    /// All that the key says then.
    pub text: String,
    /// Generation of the routing in it.
    pub generation: u64,
    /// The version of the ConfigMap that the text was made from: where somebody changed it meanwhile, nothing is written.
    pub resource_version: String,
}

/// One change of the world.
#[derive(Clone, Debug)]
pub enum Action {
    /// Apply an object.
    Apply(Box<Wanted>),
    /// Write the routing into a ConfigMap of the user's own.
    Place(Box<Placement>),
    /// Make the kubelet look for what HAProxy pods mount: it does when an annotation of the pod changes.
    Refresh {
        /// The pods.
        pods: Vec<String>,
    },
    /// Freeze identity: record the system identifier and the clone source before anything is made on the source.
    BeginSeeding {
        /// System identifier of the source.
        system_identifier: String,
        /// Member to clone from.
        clone_source: MemberName,
    },
    /// Make a slot.
    EnsureSlot {
        /// Member that gets the slot.
        on: MemberName,
        /// The slot.
        slot: SlotName,
    },
    /// Drop a slot.
    DropSlot {
        /// Member that has the slot.
        on: MemberName,
        /// The slot.
        slot: SlotName,
    },
    /// Point a standby at its upstream.
    Follow {
        /// The standby.
        member: MemberName,
        /// How it reaches its upstream; the password is added when it is done.
        upstream: Box<Conninfo>,
        /// Its slot there.
        slot: SlotName,
    },
    /// Write a marker on the primary, by which lag is judged.
    WriteMarker {
        /// The primary.
        on: MemberName,
    },
    /// Label the pod of a member with its observed role.
    LabelRole {
        /// The member.
        member: MemberName,
        /// `primary` or `standby`.
        role: &'static str,
    },
    /// End transactions that are older than a time.
    EndTransactions {
        /// The primary.
        on: MemberName,
        /// Age from which a transaction is ended.
        older_than: Duration,
    },
    /// Write the canary row and ask both servers for a checkpoint, so that the shutdown has little left to write.
    Prepare {
        /// The primary.
        primary: MemberName,
        /// The standby that will be promoted.
        standby: MemberName,
        /// Token of the canary row; none when no canary is wanted.
        canary: Option<String>,
    },
    /// Arm the old primary.
    Arm {
        /// The old primary.
        member: MemberName,
        /// How it reaches the member that is promoted.
        upstream: Box<Conninfo>,
        /// Its slot there.
        slot: SlotName,
        /// By whose order: the switchover's id.
        token: String,
    },
    /// Take the arming back.
    Disarm {
        /// The old primary.
        member: MemberName,
        /// By whose order it was seen armed.
        armed_by: Option<String>,
    },
    /// Stop the old primary cleanly and let it start again.
    Stop {
        /// The old primary.
        member: MemberName,
        /// By whose order it was armed: the switchover's id.
        armed_by: String,
        /// How.
        by: StopBy,
    },
    /// Restart a standby as an old primary would be restarted.
    Rehearse {
        /// The standby.
        member: MemberName,
        /// How.
        by: StopBy,
    },
    /// Mend a standby that diverged with pg_rewind.
    Rewind {
        /// What was recorded of it.
        begun: Box<RewindStatus>,
        /// The primary that the standby becomes the same as.
        primary: MemberName,
        /// How the standby reaches the primary.
        upstream: Box<Conninfo>,
    },
    /// Let a standby follow nobody any more. It stays a standby.
    Detach {
        /// The standby.
        member: MemberName,
    },
    /// Remove the schema with the canary's table.
    DropCanary {
        /// The primary.
        on: MemberName,
    },
    /// Ask a member for a checkpoint (a restartpoint on a standby).
    Checkpoint {
        /// The member.
        member: MemberName,
    },
    /// Tell instances of PgBouncer to pause databases.
    PausePoolers(Vec<PoolerOrder>),
    /// Tell instances of PgBouncer to resume databases.
    ResumePoolers(Vec<PoolerOrder>),
    /// Promote the new primary.
    Promote {
        /// The standby.
        member: MemberName,
        /// It must still have replayed exactly to here.
        end: Lsn,
        /// How that was proven.
        proof: Proof,
    },
    /// Write a row on the new primary, as a client would.
    ConfirmWrites {
        /// The new primary.
        on: MemberName,
        /// Token of the row beside the canary's.
        token: String,
    },
    /// Make the old primary primary again.
    Reinstate {
        /// The old primary.
        member: MemberName,
        /// It must still be on the timeline on which it was primary: each reinstatement and each promotion begins another.
        timeline: u32,
    },
    /// Renew statistics.
    Analyze {
        /// The new primary.
        member: MemberName,
    },
    /// Remember how far a rehearsal is.
    RecordRehearsal(Box<Rehearsal>),
    /// Remember how far a rewind is.
    RecordRewind(Box<RewindStatus>),
    /// Let the resource go: remove the finalizer.
    LetGo,
}

impl Action {
    /// Whether it would do harm after somebody else went on: a process that was frozen may wake up with an old decision.
    #[must_use]
    pub const fn is_dangerous_late(&self) -> bool {
        matches!(
            self,
            Self::Arm { .. }
                | Self::Disarm { .. }
                | Self::Stop { .. }
                | Self::PausePoolers(_)
                | Self::Rewind { .. }
                | Self::Promote { .. }
                | Self::Reinstate { .. }
        )
    }
}

/// A decision with what the preflight found on the way.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The decision.
    pub decision: Decision,
    /// What the preflight found.
    pub findings: Vec<Finding>,
    /// Why there is no way back now; nothing when it is there or when there is nothing to go back from.
    pub no_way_back: Option<(Reason, String)>,
}
