//! `ClusterMigration`, version v1alpha1.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{ClusterMigrationStatus, DesiredPhase, Pgbouncer, Rollback, Seeding, Source, Switchover, Target, Traffic};

/// A live PostgreSQL cluster that moves from one place to another.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "pgmitosis.dev",
    version = "v1alpha1",
    kind = "ClusterMigration",
    plural = "clustermigrations",
    shortname = "cmig",
    category = "mitosis",
    namespaced,
    cel,
    derive = "PartialEq",
    status = "ClusterMigrationStatus",
    doc = "A live PostgreSQL cluster that moves from one place to another, by physical replication.",
    validation = Rule::new("self.metadata.name.size() <= 30 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name starts with a lower-case letter, has only lower-case letters, digits and '-', and at most 30 characters"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.systemIdentifier) || self.spec.source.members == oldSelf.spec.source.members")
        .message("spec.source.members is frozen once seeding began: delete the ClusterMigration and its target members to start anew"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.systemIdentifier) || self.spec.target.storage == oldSelf.spec.target.storage")
        .message("spec.target.storage is frozen once seeding began: delete the ClusterMigration and its target members to start anew"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.systemIdentifier) || self.spec.target.members >= oldSelf.spec.target.members")
        .message("spec.target.members cannot shrink once seeding began"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.switchover) || oldSelf.status.switchover.step in ['Gate', 'Done', 'Aborted'] || (has(self.spec.traffic) == has(oldSelf.spec.traffic) && (!has(self.spec.traffic) || self.spec.traffic == oldSelf.spec.traffic))")
        .message("spec.traffic is frozen while the switchover runs: change it when status.switchover.step is Done or Aborted"),
    validation = Rule::new("self.spec.phase != 'Replicating' || oldSelf.spec.phase == 'Replicating' || !has(oldSelf.status) || !has(oldSelf.status.switchover) || (oldSelf.status.switchover.to == 'Target' && oldSelf.status.switchover.beganIn != 'RolledBack' && !(oldSelf.status.switchover.step in ['Promote', 'Route', 'Follow', 'Finish', 'Done']))")
        .message("spec.phase cannot go back to Replicating once the target was promoted: RolledBack leads back to the source, Completed gives the way back up"),
    printcolumn(name = "Phase", json_path = ".status.phase", type_ = "string"),
    printcolumn(name = "Ready", json_path = ".status.conditions[?(@.type==\"Ready\")].status", type_ = "string"),
    printcolumn(name = "Progress", json_path = ".status.progress", type_ = "string"),
    printcolumn(name = "Lag", json_path = ".status.lag", type_ = "string"),
    printcolumn(name = "Age", json_path = ".metadata.creationTimestamp", type_ = "date"),
    printcolumn(name = "Source", json_path = ".status.cloneSource", type_ = "string", priority = 1),
    printcolumn(name = "Target", json_path = ".spec.target.image", type_ = "string", priority = 1),
    printcolumn(name = "Message", json_path = ".status.message", type_ = "string", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMigrationSpec {
    /// Where the migration shall be: `Planned`, then `Replicating`, then `Switched`; from there `RolledBack` and `Switched` again, as often as
    /// needed, and `Completed` at the end. Set back before promotion, it undoes a running switchover.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf || self != 'Planned'")
        .message("spec.phase cannot go back to Planned: the order is Planned, Replicating, Switched"))]
    #[x_kube(validation = Rule::new("self == oldSelf || self != 'RolledBack' || oldSelf == 'Switched'")
        .message("spec.phase RolledBack comes after Switched"))]
    #[x_kube(validation = Rule::new("self == oldSelf || self != 'Completed' || oldSelf in ['Switched', 'RolledBack']")
        .message("spec.phase Completed comes after Switched or RolledBack"))]
    #[x_kube(validation = Rule::new("self == oldSelf || oldSelf != 'Completed'")
        .message("spec.phase Completed is final: delete the ClusterMigration; data, pods and traffic stay"))]
    pub phase: DesiredPhase,
    /// Stops new actions, except inside a switchover, which first ends.
    #[serde(default)]
    pub suspend: bool,
    /// Checks of the plan whose findings are accepted, such as `unlogged-tables`; docs/checks.md tells which can be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub acknowledged: Vec<String>,
    /// The old cluster.
    pub source: Source,
    /// The new cluster.
    pub target: Target,
    /// How the target is cloned.
    #[serde(default)]
    pub seeding: Seeding,
    /// How clients are led. Without it, clients are yours to lead and see errors at the switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// How the switchover is done.
    #[serde(default)]
    pub switchover: Switchover,
    /// How the old side connects to the new primary afterwards.
    #[serde(default)]
    pub rollback: Rollback,
}

impl ClusterMigrationSpec {
    /// PgBouncer before HAProxy, where there is one.
    #[must_use]
    pub fn pgbouncer(&self) -> Option<&Pgbouncer> {
        self.traffic.as_ref()?.pgbouncer.as_ref()
    }
}
