//! How clients are led.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How clients are led to the primary, to standbys and to other services of the active side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Traffic {
    /// The HAProxy that leads them.
    pub haproxy: Haproxy,
    /// What HAProxy listens for and where each route leads. Before the switch every route leads to the source.
    #[schemars(length(min = 1, max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.port == a.port))")
        .message("each route needs a port of its own"))]
    pub routes: Vec<Route>,
    /// What is done about sessions on the primary that did not come through HAProxy.
    #[serde(default)]
    pub bypass: Bypass,
}

/// Sessions that did not come through HAProxy: nothing leads their clients to the new primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bypass {
    /// Whether they keep a switchover from beginning. Default: Report.
    #[serde(default)]
    pub policy: BypassPolicy,
    /// Addresses, or networks such as 10.8.0.0/16, from which sessions may come besides the HAProxy pods, their nodes and where the
    /// operator's own sessions come from (a gateway that translates the pods' addresses).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 2, max = 64)))]
    pub addresses: Vec<String>,
    /// Users whose sessions may come from anywhere, such as one of monitoring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub users: Vec<String>,
}

/// What sessions that did not come through HAProxy mean for a switchover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BypassPolicy {
    /// They are listed in `status.plan.findings`.
    #[default]
    Report,
    /// They keep the gate closed as well.
    Refuse,
}

/// The HAProxy that leads clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Haproxy {
    /// HAProxy pods that the operator deploys, with the `mitosis agent` beside each.
    pub managed: ManagedHaproxy,
}

/// HAProxy pods that the operator deploys as `NAME-haproxy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManagedHaproxy {
    /// Number of pods, 1 to 20. Default: 2.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 20))]
    pub replicas: u8,
    /// Image of HAProxy 2.4 or later. Default: haproxy:3.0.
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 500))]
    pub image: String,
}

fn default_replicas() -> u8 {
    2
}

fn default_image() -> String {
    "haproxy:3.0".to_owned()
}

/// One port that HAProxy listens on: either for PostgreSQL or for any other TCP service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.postgres) != has(self.static)")
    .message("a route has either postgres: Primary or Replicas, or static: with the addresses of both sides"))]
pub struct Route {
    /// Name of the route: lower-case letters, digits and `-`, at most 15 characters.
    #[schemars(length(min = 1, max = 15))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("a route's name starts with a lower-case letter and has only lower-case letters, digits and '-', such as write"))]
    pub name: String,
    /// TCP port that HAProxy listens on.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The route leads to PostgreSQL members in this role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresRole>,
    /// The route leads to fixed addresses of the active side.
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    pub fixed: Option<StaticRoute>,
}

/// Which members of the active side a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PostgresRole {
    /// The one writable member.
    Primary,
    /// Its standbys; the primary when there is none.
    Replicas,
}

/// Addresses of a TCP service on both sides, each as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StaticRoute {
    /// Where it leads before the switch.
    #[schemars(length(min = 1, max = 32), inner(length(max = 260)))]
    pub source: Vec<String>,
    /// Where it leads after the switch.
    #[schemars(length(min = 1, max = 32), inner(length(max = 260)))]
    pub target: Vec<String>,
}
