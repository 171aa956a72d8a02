//! The old cluster.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The old cluster: PostgreSQL servers that exist already, outside or inside Kubernetes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Every server of the old cluster. Roles are observed, never declared. 1 to 9 members; frozen once seeding began.
    #[schemars(length(min = 1, max = 9))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<SourceMember>,
    /// Member to clone from. Default: the standby with the least lag. The primary is only cloned from when it is named here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub clone_from: Option<String>,
    /// Login of a superuser with REPLICATION, used by the operator and by the standbys.
    pub credentials: CredentialsRef,
    /// How connections to the source are protected. Default: verify-full.
    #[serde(default)]
    pub tls: TlsMode,
    /// How the old primary is stopped and started again as a standby.
    #[serde(default)]
    pub stop: Stop,
    /// Database that the operator connects to and in which it makes schema `mitosis` for its canary table. Default: postgres.
    #[serde(default = "default_database")]
    #[schemars(length(min = 1, max = 63))]
    pub maintenance_database: String,
}

fn default_database() -> String {
    "postgres".to_owned()
}

/// One server of the old cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct SourceMember {
    /// Name of the member: lower-case letters, digits and `-`, at most 40 characters.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("a member's name starts with a lower-case letter and has only lower-case letters, digits and '-', such as a1"))]
    pub name: String,
    /// IP address or DNS name at which the operator and the target's pods reach the server.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9.:-]+$')")
        .message("write an IP address or a DNS name, without a port and without brackets"))]
    pub host: String,
    /// TCP port of the server. Default: 5432.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

fn default_port() -> u16 {
    5432
}

/// Name of a Secret in the namespace of the `ClusterMigration`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsRef {
    /// Secret with the keys `username` and `password`, and `ca.crt` (PEM) where `tls` is verify-full.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// How connections are protected, in libpq's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// TLS; the certificate must be signed by the CA of the Secret and name the host.
    #[default]
    #[serde(rename = "verify-full")]
    VerifyFull,
    /// No TLS. Passwords are still never sent in clear (SCRAM), but data is.
    #[serde(rename = "disable")]
    Disable,
}

impl TlsMode {
    /// The value of libpq's `sslmode`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VerifyFull => "verify-full",
            Self::Disable => "disable",
        }
    }
}

/// How the old primary is stopped and started again as a standby.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.method != 'Kubernetes' || has(self.pods)")
    .message("method Kubernetes needs pods: the name of each member's pod"))]
#[x_kube(validation = Rule::new("self.method != 'Job' || has(self.cronJobName)")
    .message("method Job needs cronJobName: a suspended CronJob whose template restarts a server"))]
pub struct Stop {
    /// Who stops it. Default: Sql.
    #[serde(default)]
    pub method: StopMethod,
    /// For method Sql: command line that the server's own user runs on the server's host to restart the server where a supervisor owns
    /// it, such as `sudo -n systemctl restart postgresql@15-main`. Default: `pg_ctl restart` of the running server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub restart_command: Option<String>,
    /// For method Kubernetes: name of the pod by member, in the namespace of the `ClusterMigration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 9))]
    pub pods: Option<BTreeMap<String, String>>,
    /// For method Job: name of a suspended CronJob in the namespace of the `ClusterMigration`. A Job is made from its template with the
    /// environment variables `MITOSIS_MEMBER`, `MITOSIS_HOST` and `MITOSIS_PORT`; it must restart that server cleanly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub cron_job_name: Option<String>,
    /// Name of a source standby on which the restart is rehearsed once, any time before the night. The outcome is in `status.rehearsal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40))]
    pub rehearse_on: Option<String>,
}

/// Who stops the old primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StopMethod {
    /// The operator, by SQL as superuser: the server restarts itself (`COPY ... TO PROGRAM`).
    #[default]
    Sql,
    /// Kubernetes: the member's pod is deleted, and what owns it makes it anew.
    Kubernetes,
    /// A Job made from the user's template, for example by ssh or the interface of a cloud.
    Job,
    /// A person: when it is time, the message of the resource asks to stop it, and goes on when that is proven.
    Manual,
}
