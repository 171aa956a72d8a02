//! The new cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ByteSize;

/// The new cluster: one StatefulSet, volume and Service per member in the namespace of the `ClusterMigration`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Container image with PostgreSQL's programs on PATH, of the source's major version, such as `postgres:15`.
    #[schemars(length(min = 1, max = 500))]
    pub image: String,
    /// Number of members, 1 to 9. The first is the leader, which will be promoted; the others follow it.
    #[serde(default = "default_members")]
    #[schemars(range(min = 1, max = 9))]
    pub members: u8,
    /// Storage of each member.
    pub storage: Storage,
    /// Server certificate of the members.
    pub tls: TargetTls,
    /// Configuration on top of what following the source requires.
    #[serde(default)]
    pub postgresql: PostgresqlOptions,
    /// What the pods need from the cluster.
    #[serde(default)]
    pub pod_template: PodTemplate,
    /// How the source's members reach the leader after the switch, to follow it.
    #[serde(default)]
    pub exposure: Exposure,
}

fn default_members() -> u8 {
    3
}

/// Storage of each member. Frozen once seeding began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of each volume in bytes, such as `500Gi`.
    pub size: ByteSize,
    /// StorageClass of the volumes. Default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
}

/// Server certificate of the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetTls {
    /// Secret with `tls.crt`, `tls.key` and `ca.crt` (PEM). The certificate must name every member's Service, such as
    /// `*.NAMESPACE.svc`, and the addresses in `exposure.hosts`.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Configuration of PostgreSQL on the members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct PostgresqlOptions {
    /// Parameters for `postgresql.conf`, as text. Those that replication, TLS and paths depend on belong to the operator and are refused.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self.all(name, name.matches('^[a-z_][a-z0-9_.]*$'))")
        .message("a parameter's name has only lower-case letters, digits, '_' and '.', such as work_mem"))]
    #[x_kube(validation = Rule::new("!self.exists(name, name in ['data_directory', 'hba_file', 'config_file', 'listen_addresses', 'port', 'primary_conninfo', 'primary_slot_name', 'hot_standby', 'recovery_target_timeline', 'recovery_target', 'recovery_target_lsn', 'recovery_target_name', 'recovery_target_time', 'recovery_target_xid', 'recovery_target_inclusive', 'recovery_target_action', 'ssl', 'ssl_cert_file', 'ssl_key_file', 'ssl_ca_file', 'cluster_name', 'unix_socket_directories', 'synchronous_standby_names'])")
        .message("this parameter belongs to the operator: remove data_directory, hba_file, config_file, listen_addresses, port, primary_conninfo, primary_slot_name, hot_standby, recovery_target*, ssl*, cluster_name, unix_socket_directories and synchronous_standby_names"))]
    #[schemars(extend("maxProperties" = 200))]
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf` that come before the operator's own. Default: none, so that every client logs in with SCRAM.
    #[serde(default)]
    #[schemars(length(max = 200))]
    pub hba: Vec<String>,
}

/// What the members' pods need from the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Compute resources of the PostgreSQL container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a node must have.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
    /// PriorityClass of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// User and group id of the image's `postgres` user. Default: 999, as in Debian-based official images (Alpine: 70).
    #[serde(default = "default_user")]
    #[schemars(range(min = 1, max = 4_294_967_294_i64))]
    pub run_as_user: i64,
}

impl Default for PodTemplate {
    fn default() -> Self {
        Self {
            resources: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            priority_class_name: None,
            run_as_user: default_user(),
        }
    }
}

fn default_user() -> i64 {
    999
}

/// How the source's members reach the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exposure {
    /// Kind of Service that is made for it. Default: None, so nothing is exposed and `hosts` must name reachable addresses with ports.
    #[serde(default, rename = "type")]
    pub kind: ExposureType,
    /// Address by member as the source's hosts see it. `NodePort`: a node's address. `LoadBalancer`: overrides the reported address.
    /// `None`: `host:port`.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 9))]
    pub hosts: BTreeMap<String, String>,
}

/// Kind of Service that exposes a member to the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExposureType {
    /// A load balancer of the cloud.
    LoadBalancer,
    /// A port on every node.
    NodePort,
    /// Nothing is made.
    #[default]
    None,
}

/// How the target is cloned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Seeding {
    /// Highest rate of each base backup in bytes a second, between 32Ki and 1Gi. Default: not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<ByteSize>,
    /// How base backups are compressed on their way, by the server that sends them: worth it where the link is slower than one processor
    /// compresses. Needs PostgreSQL 15. Default: None.
    #[serde(default)]
    pub compression: Compression,
}

/// Compression of base backups on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compression {
    /// None.
    #[default]
    None,
    /// LZ4, which costs little.
    Lz4,
    /// Zstandard at its first level, which saves most.
    Zstd,
}
