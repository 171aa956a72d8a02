//! What the operator observed.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Attempt, Phase, SwitchoverStatus};

/// What the operator observed: where the migration is, whether it is healthy, what it waits for and what comes next.
///
/// Its parts have one writer and are atomic: the API server keeps no note of who owns each field in them, which took a third of the time
/// of a write while clients are held.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterMigrationStatus {
    /// Where the migration is, for people. Machines read the conditions; values may be added.
    pub phase: Phase,
    /// One sentence: what happens now or what is waited for.
    pub message: String,
    /// `metadata.generation` that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The contract for machines.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What the preflight found.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub plan: Option<PlanStatus>,
    /// Every server of both sides.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub members: Vec<MemberStatus>,
    /// How far each clone is.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub seeding: Vec<SeedingStatus>,
    /// Whole progress of the clones, such as `42%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Lag of the leader behind the primary, such as `208 B`; with how long it lasts where it is of 16 MiB or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
    /// How fast the leader catches up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub catch_up: Option<CatchUpStatus>,
    /// System identifier of the cluster. Set when seeding begins; from then on identity fields are frozen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// Member of the source from which the leader is cloned and which it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clone_source: Option<String>,
    /// The newest marker written on the primary, by which lag is judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub marker: Option<Marker>,
    /// The running or last switchover.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub switchover: Option<SwitchoverStatus>,
    /// The last rehearsal of stopping a source server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub rehearsal: Option<Rehearsal>,
    /// The last pg_rewind of a member that had diverged.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub rewind: Option<RewindStatus>,
    /// Changes of the routing by others, which were put right.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub routing_drift: Option<RoutingDrift>,
    /// The last attempts and why they ended, newest first, at most 10.
    pub attempts: Vec<Attempt>,
}

/// Changes of the routing by others, which were put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoutingDrift {
    /// How often it was put right.
    pub repairs: u64,
    /// The ConfigMap that was changed last. Default: `NAME-routing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_name: Option<String>,
    /// Who changed it last, as its field manager is called, such as `kubectl-edit` or `argocd-controller`.
    pub last_by: String,
    /// When it was put right last.
    #[schemars(with = "String")]
    pub last_repair: Timestamp,
}

/// A rehearsal of stopping a source server: on a standby, any time before the switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rehearsal {
    /// The standby.
    pub member: String,
    /// When it was begun.
    #[schemars(with = "String")]
    pub start_time: Timestamp,
    /// When its server had been started, in microseconds since 1970 by its own clock: it restarted when that is another time.
    pub server_started: i64,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<RehearsalOutcome>,
    /// Seconds from the beginning until it streamed again, as it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
}

/// How a rehearsal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RehearsalOutcome {
    /// The server restarted and streams again.
    Passed,
    /// It did not restart, or does not stream within 60 s.
    Failed,
}

/// A pg_rewind of a member that had diverged. It is recorded before it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RewindStatus {
    /// The member.
    pub member: String,
    /// The last WAL position that it held.
    pub discard: String,
    /// `spec.rollback.rewind.attempt` that this is for.
    pub attempt: u32,
    /// The timeline that it was on.
    pub timeline: u32,
    /// When it was begun.
    #[schemars(with = "String")]
    pub start_time: Timestamp,
    /// When its server had been started, in microseconds since 1970 by its own clock: it restarted when that is another time.
    pub server_started: i64,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<RewindOutcome>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a pg_rewind ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RewindOutcome {
    /// The server is on the primary's timeline.
    Rewound,
    /// The server goes on as it was.
    Refused,
}

/// What the preflight found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PlanStatus {
    /// Findings; those of severity Block forbid to go on.
    pub findings: Vec<Finding>,
    /// Size of all databases of the source in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_bytes: Option<u64>,
}

/// One finding of the preflight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Identity of the check.
    pub check: String,
    /// What it means for the migration.
    pub severity: Severity,
    /// Member that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// What was found.
    pub message: String,
    /// What to change.
    pub remedy: String,
}

/// What a finding means for the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    /// The migration does not go on.
    Block,
    /// Worth a change; the migration goes on.
    Warn,
    /// Worth knowing: what was asked for has this price.
    Inform,
}

/// Which side a member belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Side {
    /// The old cluster.
    Source,
    /// The new cluster.
    Target,
}

impl Side {
    /// The side that this one is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Source => Self::Target,
            Self::Target => Self::Source,
        }
    }
}

/// The observed role of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// It accepts writes.
    Primary,
    /// It is in recovery.
    Standby,
    /// It was not seen.
    Unknown,
}

/// One server as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Name of the member.
    pub name: String,
    /// Which side it belongs to.
    pub side: Side,
    /// Its role.
    pub role: Role,
    /// Member that it streams from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Whether its WAL receiver streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streaming: Option<bool>,
    /// Its timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Last position written (primary) or replayed (standby).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// Distance behind the primary's position in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// Why it was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How far the clone of a member is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeedingStatus {
    /// Name of the member.
    pub member: String,
    /// Member that it is cloned from.
    pub from: String,
    /// Bytes that have been sent.
    pub bytes_done: u64,
    /// Bytes to send, as estimated by the server; 0 when not known yet.
    pub bytes_total: u64,
    /// Whether the clone is complete.
    pub complete: bool,
    /// Bytes a second, smoothed over the last half minute or so. Nothing while none or no two looks are apart enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Seconds that are left at this rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<u64>,
    /// From when to when the rate is told next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<SeedingSample>,
    /// Why the clone began anew: what its last attempt said when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// How fast the leader catches up with what is written on the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatchUpStatus {
    /// Bytes of WAL that are written a second, smoothed over the last half minute or so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_bytes_per_second: Option<u64>,
    /// Bytes of WAL that the leader replays a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_bytes_per_second: Option<u64>,
    /// Seconds until it has caught up at these rates; nothing where it does not, or lags by less than 16 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<u64>,
    /// From when on the rates are told next.
    pub sample: CatchUpSample,
}

/// Where both servers were at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CatchUpSample {
    /// When.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// Position of the primary.
    pub written: String,
    /// Position that the leader had replayed.
    pub replayed: String,
}

/// How far a clone was at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeedingSample {
    /// When.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// Bytes that had been sent.
    pub bytes_done: u64,
}

/// A marker in the primary's WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    /// Position of the primary right after the marker.
    pub lsn: String,
    /// When it was written, by the operator's clock.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// When the leader was seen to have replayed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub replayed_time: Option<Timestamp>,
}
