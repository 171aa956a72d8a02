//! What users write and read: the `ClusterMigration` resource and the names that go with it.
//!
//! This module depends on nothing else of ours.

mod bytes;
mod condition;
mod crd;
mod phase;
mod reason;
mod source;
mod status;
mod switchover;
mod target;
mod traffic;
mod v1alpha1;

pub use bytes::ByteSize;
pub use condition::{ConditionType, condition_status, find_condition, is_true};
pub use crd::render_crd;
pub use phase::{DesiredPhase, Phase};
pub use reason::Reason;
pub use source::{CredentialsRef, Source, SourceMember, Stop, StopMethod, TlsMode};
pub use status::{
    CatchUpSample, CatchUpStatus, ClusterMigrationStatus, Finding, Marker, MemberStatus, PlanStatus, Rehearsal,
    RehearsalOutcome, RewindOutcome, RewindStatus, Role, RoutingDrift, SeedingSample, SeedingStatus, Severity, Side,
};
pub use switchover::{
    Attempt, Certificate, LongTransactions, Outcome, Proof, Rewind, Rollback, RollbackSslMode, RouteStatus, Step,
    StepRecord, Switchover, SwitchoverStatus,
};
pub use target::{
    Compression, Exposure, ExposureType, PodTemplate, PostgresqlOptions, Seeding, Storage, Target, TargetTls,
};
pub use traffic::{
    Bypass, BypassPolicy, Haproxy, ManagedHaproxy, Mounted, OnPauseTimeout, OwnConfigMap, OwnForm, OwnHaproxy, Part,
    Pgbouncer, PoolerRoute, PostgresRole, ProxyPolicy, Route, StaticRoute, Traffic,
};
pub use v1alpha1::{ClusterMigration, ClusterMigrationSpec};

/// API group of the resource, and prefix of every label and annotation that Mitosis writes.
pub const GROUP: &str = "pgmitosis.dev";
/// Name under which Mitosis owns fields in server-side apply.
pub const FIELD_MANAGER: &str = "pg-mitosis";
/// Finalizer that lets the operator end what is under way before a `ClusterMigration` goes.
pub const FINALIZER: &str = "pgmitosis.dev/safe-end";
/// Label: the `ClusterMigration` that an object was made for.
pub const LABEL_MIGRATION: &str = "pgmitosis.dev/migration";
/// Label: the target member that an object was made for.
pub const LABEL_MEMBER: &str = "pgmitosis.dev/member";
/// Label: the observed role of a target member's pod, `primary` or `standby`.
pub const LABEL_ROLE: &str = "pgmitosis.dev/role";
/// Label: what an object is part of, for example `member`, `haproxy` or `probe`.
pub const LABEL_COMPONENT: &str = "pgmitosis.dev/component";
/// Annotation: hash of what the operator last applied, so that an unchanged object is not written again.
pub const ANNOTATION_HASH: &str = "pgmitosis.dev/applied-hash";
/// Annotation on a ConfigMap of the user's: `KEY@GENERATION` of the routing that the operator wrote into it last.
pub const ANNOTATION_GENERATION: &str = "pgmitosis.dev/generation";
/// Annotation on a HAProxy pod without an agent: when the operator last made the kubelet look for what the pod mounts.
pub const ANNOTATION_REFRESHED: &str = "pgmitosis.dev/refreshed-at";
