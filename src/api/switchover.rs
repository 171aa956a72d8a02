//! The switchover: what is asked, what is recorded, and what is certified.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ByteSize, Phase, Side};

/// How the switchover is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Switchover {
    /// Number of the attempt. After an attempt was undone, the operator tries again only when this number changes. Default: 1.
    #[serde(default = "default_attempt")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub attempt: u32,
    /// Longest time for which clients may be held before everything is put back, such as `30s`. Default: 30s, at least 2s.
    #[serde(default = "default_budget")]
    #[schemars(with = "String")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}(ms|s|m))+$') && duration(self) >= duration('2s') && duration(self) <= duration('10m')")
        .message("write a duration between 2s and 10m, such as 30s"))]
    pub budget: Duration,
    /// Lag in bytes above which the switchover does not start. Default: 1Mi.
    #[serde(default = "default_max_lag")]
    pub max_lag: ByteSize,
    /// Whether a canary row is written on the old primary and looked for on the leader. Default: true.
    #[serde(default = "default_canary")]
    pub canary: bool,
    /// What happens to transactions and to sessions idle in a transaction that are older than `transactionGrace`: `Wait` keeps the
    /// switchover from beginning, `Terminate` ends them when nothing else forbids to begin. Default: Wait.
    #[serde(default)]
    pub long_transactions: LongTransactions,
    /// Age from which a transaction is long, such as `10s`. Default: 10s, at most 24h.
    #[serde(default = "default_transaction_grace")]
    #[schemars(with = "String")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}(ms|s|m|h))+$') && duration(self) <= duration('24h')")
        .message("write a duration up to 24h, such as 10s"))]
    pub transaction_grace: Duration,
    /// Says that a manager of high availability on either side (Patroni, repmgrd, pg_auto_failover) was paused, which SQL cannot show.
    /// Without it, a server that such a manager watches keeps the switchover from beginning. Default: false.
    #[serde(default)]
    pub manager_paused: bool,
}

/// What happens to long transactions before the switchover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LongTransactions {
    /// The switchover waits for their end.
    #[default]
    Wait,
    /// They are ended.
    Terminate,
}

impl Default for Switchover {
    fn default() -> Self {
        Self {
            attempt: default_attempt(),
            budget: default_budget(),
            max_lag: default_max_lag(),
            canary: default_canary(),
            long_transactions: LongTransactions::default(),
            transaction_grace: default_transaction_grace(),
            manager_paused: false,
        }
    }
}

fn default_attempt() -> u32 {
    1
}

fn default_budget() -> Duration {
    Duration::from(std::time::Duration::from_secs(30))
}

fn default_transaction_grace() -> Duration {
    Duration::from(std::time::Duration::from_secs(10))
}

fn default_max_lag() -> ByteSize {
    ByteSize::from_bytes(1 << 20)
}

fn default_canary() -> bool {
    true
}

/// How the old side connects to the new primary, as the source members' hosts see it, and for how long the way back is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollback {
    /// How long after the switch the way back is kept, such as `72h`. Then the old side is let go, as with `phase: Completed`, so that it
    /// does not hold WAL on the new primary for ever. Default: 72h, at most 8760h.
    #[serde(default = "default_keep")]
    #[schemars(with = "String")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}(s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('8760h')")
        .message("write a duration between 1s and 8760h, such as 72h"))]
    pub keep: Duration,
    /// A member of the old side that diverged and is to be mended with pg_rewind. Whether that can be done, and what it takes, is in the
    /// message of the condition `RollbackAvailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewind: Option<Rewind>,
    /// libpq's sslmode of the old side's standbys. Default: verify-full.
    #[serde(default)]
    pub sslmode: RollbackSslMode,
    /// Path of the CA file on the source members' hosts, for verify-full. Default: libpq's own, `~/.postgresql/root.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub sslrootcert: Option<String>,
}

fn default_keep() -> Duration {
    Duration::from(std::time::Duration::from_hours(72))
}

impl Default for Rollback {
    fn default() -> Self {
        Self {
            keep: default_keep(),
            rewind: None,
            sslmode: RollbackSslMode::default(),
            sslrootcert: None,
        }
    }
}

/// What is given up for mending a member that diverged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rewind {
    /// Name of the source member.
    #[schemars(length(min = 1, max = 40))]
    pub member: String,
    /// The last WAL position that it holds, such as `0/5000200`: everything that it alone wrote up to there is thrown away. Where it holds
    /// another one by now, nothing is done.
    #[schemars(regex(pattern = "^[0-9A-F]{1,8}/[0-9A-F]{1,8}$"))]
    pub discard: String,
    /// Number of the attempt. After one was refused, the operator tries again only when this number changes. Default: 1.
    #[serde(default = "default_attempt")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub attempt: u32,
}

/// libpq's sslmode of the old side's standbys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RollbackSslMode {
    /// TLS with a verified certificate that names the host.
    #[default]
    #[serde(rename = "verify-full")]
    VerifyFull,
    /// TLS with a certificate verified by its CA only.
    #[serde(rename = "verify-ca")]
    VerifyCa,
    /// TLS without verification.
    #[serde(rename = "require")]
    Require,
    /// No TLS.
    #[serde(rename = "disable")]
    Disable,
}

impl RollbackSslMode {
    /// The value of libpq's `sslmode`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VerifyFull => "verify-full",
            Self::VerifyCa => "verify-ca",
            Self::Require => "require",
            Self::Disable => "disable",
        }
    }
}

/// Where a switchover is. Each step is recorded before its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Step {
    /// Everything is checked and prepared; clients notice nothing.
    Gate,
    /// The old primary is told to come back as a standby of the other side, whatever restarts it. The budget runs.
    Arm,
    /// HAProxy holds new connections and ends the old sessions.
    Hold,
    /// The old primary is stopped cleanly.
    Stop,
    /// The new primary-to-be shows that it replayed the old primary's last record.
    Prove,
    /// It is promoted: the point of no return.
    Promote,
    /// HAProxy is turned over to the new primary and clients are released.
    Route,
    /// The old side follows the new primary.
    Follow,
    /// Statistics are renewed and slots that are no longer needed are dropped.
    Finish,
    /// The switchover ended well.
    Done,
    /// Before promotion: the old primary is made writable again.
    Restore,
    /// Before promotion: HAProxy leads to the old primary again and clients are released.
    Release,
    /// The attempt was undone.
    Aborted,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 13] = [
        Self::Gate,
        Self::Arm,
        Self::Hold,
        Self::Stop,
        Self::Prove,
        Self::Promote,
        Self::Route,
        Self::Follow,
        Self::Finish,
        Self::Done,
        Self::Restore,
        Self::Release,
        Self::Aborted,
    ];

    /// Whether nothing more happens after this step.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Aborted)
    }

    /// Whether the record of the step before covers this one, so that it is not written by itself: what it does is undone by the same
    /// abort (`Stop` as `Hold`), is nothing but the next look (`Prove` after `Stop`), or is all that can follow (`Route` and `Follow` after
    /// `Promote`). Its time is recorded with the next step.
    #[must_use]
    pub const fn is_covered(self) -> bool {
        matches!(self, Self::Stop | Self::Prove | Self::Route | Self::Follow)
    }

    /// Whether the leader may already be primary, so that there is only forward.
    #[must_use]
    pub const fn is_past_no_return(self) -> bool {
        matches!(
            self,
            Self::Promote | Self::Route | Self::Follow | Self::Finish | Self::Done
        )
    }

    /// The name as it appears in status, logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gate => "Gate",
            Self::Arm => "Arm",
            Self::Hold => "Hold",
            Self::Stop => "Stop",
            Self::Prove => "Prove",
            Self::Promote => "Promote",
            Self::Route => "Route",
            Self::Follow => "Follow",
            Self::Finish => "Finish",
            Self::Done => "Done",
            Self::Restore => "Restore",
            Self::Release => "Release",
            Self::Aborted => "Aborted",
        }
    }
}

/// When a step was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepRecord {
    /// The step.
    pub step: Step,
    /// When its intent was recorded, with microseconds.
    #[schemars(with = "String")]
    pub start_time: Timestamp,
    /// Why the step was entered.
    pub because: String,
}

/// The record of the running or last switchover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SwitchoverStatus {
    /// Identity of this attempt: part of the canary and of the certificate.
    pub id: String,
    /// `spec.switchover.attempt` that this is for.
    pub attempt: u32,
    /// Where it is.
    pub step: Step,
    /// Side that becomes primary: `Target` for the switch, `Source` for the way back.
    pub to: Side,
    /// Phase in which it began, to which an abort returns.
    pub began_in: Phase,
    /// For the way back: since when it was there, which an undone attempt does not prolong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub way_back_since: Option<Timestamp>,
    /// Member that was primary when it began.
    pub old_primary: String,
    /// Member of the other side that is promoted.
    pub new_primary: String,
    /// System identifier of the cluster.
    pub system_identifier: String,
    /// Timeline before the switch.
    pub timeline: u32,
    /// Generation of the routing that holds, and that releases when it is one higher.
    pub generation: u64,
    /// When the budget ends. Set with the step Arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub deadline: Option<Timestamp>,
    /// WAL position right after the canary row, on the old primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_lsn: Option<String>,
    /// WAL position of the old primary when it was seen armed. The shutdown checkpoint that is the proof lies behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub armed_lsn: Option<String>,
    /// End of the old primary's WAL: the end of its shutdown checkpoint, as replayed on the member that is promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_of_wal: Option<String>,
    /// How that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// When a row written on the new primary was acknowledged for the first time after clients were released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub first_write: Option<Timestamp>,
    /// What halted it. Kept: a server that was once seen as a second primary must be seen as none before another one is promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<String>,
    /// Instances of PgBouncer that were not seen to go on when clients were released. They are told to as soon as they are seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unresumed: Vec<String>,
    /// Standbys of either side that get no readers until the end, as they were seen before clients were held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Whether the new primary's statistics were renewed.
    #[serde(default)]
    pub analyzed: bool,
    /// Why the attempt is being undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_reason: Option<String>,
    /// When each step was recorded.
    #[serde(default)]
    pub steps: Vec<StepRecord>,
    /// What was proven, once the switchover is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
}

impl SwitchoverStatus {
    /// Whether it is past the gate and has not ended.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        !self.step.is_terminal() && !matches!(self.step, Step::Gate)
    }

    /// When a step was recorded first.
    #[must_use]
    pub fn started(&self, step: Step) -> Option<Timestamp> {
        self.steps
            .iter()
            .find(|record| record.step == step)
            .map(|record| record.start_time)
    }
}

/// How the end of the old primary's WAL is known, and that nothing is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Proof {
    /// The last record that the new primary replayed is the old primary's shutdown checkpoint: it stopped cleanly and wrote nothing more.
    ShutdownCheckpoint,
    /// The old primary crashed after it was armed, came back as a standby, read all of its own WAL, and both replayed exactly the same.
    SameEnd,
}

impl Proof {
    /// What was proven, as a sentence.
    #[must_use]
    pub fn describe(self, old: &impl std::fmt::Display, new: &impl std::fmt::Display) -> String {
        match self {
            Self::ShutdownCheckpoint => {
                format!("{old} was shut down cleanly: its shutdown checkpoint is the last record that {new} replayed")
            }
            Self::SameEnd => format!(
                "{old} crashed while armed and came back as a standby of {new}: both replayed exactly the same WAL"
            ),
        }
    }
}

/// What a switchover proved. It holds no word of the operator's opinion, only what was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// System identifier of the cluster.
    pub system_identifier: String,
    /// Member that was primary.
    pub old_primary: String,
    /// Member that was promoted.
    pub new_primary: String,
    /// Timeline before the switch.
    pub old_timeline: u32,
    /// Timeline of the new primary.
    pub new_timeline: u32,
    /// How the end of the old primary's WAL is known.
    pub proof: Proof,
    /// The same as a sentence, with the member that was stopped.
    pub fenced: String,
    /// End of the old primary's WAL: the end of its shutdown checkpoint.
    pub end_of_wal: String,
    /// Where the new timeline forks off, read from its history file. Equal to `endOfWal`.
    pub fork: String,
    /// Whether the canary row of this attempt is on the new primary.
    pub canary: bool,
    /// Token of the canary row in `mitosis.canary`.
    pub canary_token: String,
    /// Time in milliseconds from the record of the hold until every HAProxy had released and the new primary had taken a write, as the
    /// operator saw it; clients see it through the proxy.
    pub held_milliseconds: i64,
    /// Longest time in milliseconds for which no write was possible, as the operator could measure it: from the last record before
    /// clients were held, when the old primary took writes, until the new primary acknowledged a row after their release. None where
    /// `spec.switchover.canary` is off, or the row was not acknowledged within the budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_gap_milliseconds: Option<i64>,
    /// How long each step took until the next one was recorded, in milliseconds.
    pub step_milliseconds: BTreeMap<String, i64>,
    /// What each HAProxy pod answered after the release.
    #[serde(default)]
    pub routes: Vec<RouteStatus>,
}

/// What one HAProxy pod answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// Name of the pod.
    pub pod: String,
    /// Generation that the running HAProxy answers with.
    pub generation: u64,
    /// Whether SQL through it reached the new primary.
    #[serde(default)]
    pub reached: bool,
}

/// An attempt that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// `spec.switchover.attempt` that it was for.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it ended so.
    pub message: String,
    /// When it ended.
    #[schemars(with = "String")]
    pub end_time: Timestamp,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    /// The target is primary.
    Switched,
    /// The source is primary again.
    RolledBack,
    /// It was undone; the primary is the same as before.
    Aborted,
}
