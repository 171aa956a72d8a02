//! How clients are led.

use std::collections::BTreeMap;

use kube::{KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ByteSize, CredentialsRef, Side, TlsMode};

/// How clients are led to the primary, to standbys and to other services of the active side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.haproxy.own) || self.haproxy.own.form == 'File' || self.routes.all(r, !has(r.postgres) || r.postgres == 'Primary')")
    .message("a route with postgres: Replicas leads to several addresses, and a variable takes one: use haproxy.own.form File, or leave it out"))]
pub struct Traffic {
    /// The HAProxy that leads them.
    pub haproxy: Haproxy,
    /// What HAProxy listens for and where each route leads. Before the switch every route leads to the source.
    #[schemars(length(min = 1, max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.port == a.port))")
        .message("each route needs a port of its own"))]
    pub routes: Vec<Route>,
    /// PgBouncer between the clients and HAProxy: paused around the switch, so that its clients wait instead of getting errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pgbouncer: Option<Pgbouncer>,
    /// What is done about sessions on the primary that did not come through HAProxy.
    #[serde(default)]
    pub bypass: Bypass,
}

/// PgBouncer whose servers are the routes of HAProxy. Before clients are held, every instance is told to `PAUSE`: it waits for the end of
/// each transaction, and its clients wait for it. After their release it is told to `RESUME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.hosts) != has(self.selector)")
    .message("name the instances of PgBouncer by hosts, or their pods by selector"))]
pub struct Pgbouncer {
    /// Address of every instance as `host:port`. Where several processes share a port (`so_reuseport`), give each a port of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(max = 260)))]
    pub hosts: Option<Vec<String>>,
    /// Labels of the pods of PgBouncer, in the namespace of the `ClusterMigration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub selector: Option<BTreeMap<String, String>>,
    /// TCP port of PgBouncer in the pods that `selector` finds. Default: 6432.
    #[serde(default = "default_pgbouncer_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Login of one of its `admin_users`.
    pub credentials: CredentialsRef,
    /// How connections to its console are protected. Default: verify-full.
    #[serde(default)]
    pub tls: TlsMode,
    /// Databases to pause, as PgBouncer names them. Default: all that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub databases: Vec<String>,
    /// How long transactions may take to end once PgBouncer was told to pause, such as `2s`. Default: 2s, at most 1m.
    #[serde(default = "default_pause_timeout")]
    #[schemars(with = "String")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}(ms|s|m))+$') && duration(self) >= duration('100ms') && duration(self) <= duration('1m')")
        .message("write a duration between 100ms and 1m, such as 2s"))]
    pub pause_timeout: Duration,
    /// What is done when transactions take longer. Default: Abort.
    #[serde(default)]
    pub on_timeout: OnPauseTimeout,
}

fn default_pgbouncer_port() -> u16 {
    6432
}

fn default_pause_timeout() -> Duration {
    Duration::from(std::time::Duration::from_secs(2))
}

/// What is done when transactions that go through PgBouncer do not end in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnPauseTimeout {
    /// The attempt is undone.
    #[default]
    Abort,
    /// The switchover goes on: HAProxy ends the sessions that are left, and each of their clients gets one error.
    Proceed,
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

/// The HAProxy that leads clients: deployed by the operator, or your own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.managed) != has(self.own)")
    .message("HAProxy is either managed, or own: your pods with the agent beside HAProxy"))]
#[x_kube(validation = Rule::new("has(self.managed) == has(oldSelf.managed)")
    .message("spec.traffic.haproxy cannot change between managed and own: its clients would be led by neither"))]
#[x_kube(validation = Rule::new("!has(self.own) || !has(oldSelf.own) || self.own.form == oldSelf.own.form")
    .message("spec.traffic.haproxy.own.form cannot change: HAProxy would listen for what no file says"))]
#[x_kube(validation = Rule::new("!has(self.own) || !has(oldSelf.own) || has(self.own.mounted) == has(oldSelf.own.mounted)")
    .message("spec.traffic.haproxy.own cannot change between pods with an agent and mounted ones: the file of one does not fit the other"))]
pub struct Haproxy {
    /// HAProxy pods that the operator deploys, with the `mitosis agent` beside each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedHaproxy>,
    /// Your own HAProxy pods: the routes are a file beside your configuration, which the `mitosis agent` in each pod sees to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnHaproxy>,
    /// What a pod whose agent does not answer means for a switchover. Default: Strict.
    #[serde(default)]
    pub policy: ProxyPolicy,
}

/// What HAProxy pods whose agents do not answer mean for a switchover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProxyPolicy {
    /// They keep it from beginning, undo it before promotion, and it is not done before they verified their routes.
    #[default]
    Strict,
    /// It goes on without them as long as one other pod does what it should: nobody holds their clients, who get errors until the agent is back.
    BestEffort,
}

/// HAProxy pods of your own, in the namespace of the `ClusterMigration`: with the `mitosis agent` beside HAProxy, or without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.serviceAccountName) != has(self.mounted)")
    .message("name the pods' serviceAccountName, whose agent reads the routing, or set mounted for pods without an agent"))]
pub struct OwnHaproxy {
    /// Labels of the pods.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub selector: BTreeMap<String, String>,
    /// ServiceAccount of the pods, which is given the right to read the routing, ConfigMap `NAME-routing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// What the routes become in the pods. Default: File.
    #[serde(default)]
    pub form: OwnForm,
    /// The pods have no agent: they mount the routing, and something of yours reloads HAProxy when the file changes. Clients are not held at a
    /// switch: they get errors until the kubelet has brought the file, which takes a second or two, and a minute or two at worst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<Mounted>,
}

/// Where pods without an agent have the routing from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mounted {
    /// A ConfigMap of yours into which the routing is written as well. Default: none, and the pods mount ConfigMap `NAME-routing`, key
    /// `haproxy.cfg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<OwnConfigMap>,
}

/// A ConfigMap of your own, in the namespace of the `ClusterMigration`, and the part of it that the routing is written into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnConfigMap {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The key.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
    /// How much of that key is the routing. Default: Block.
    #[serde(default)]
    pub part: Part,
}

/// How much of a key of a ConfigMap the routing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Part {
    /// What stands between the lines `# BEGIN mitosis NAME` and `# END mitosis NAME`, where NAME is that of the `ClusterMigration`. Nothing else
    /// is changed.
    #[default]
    Block,
    /// All of it.
    Key,
}

/// What routes become in HAProxy pods of your own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OwnForm {
    /// Frontends and backends of their own, in a file beside your configuration.
    #[default]
    File,
    /// Variables, in a file before your configuration: your own frontend `fe_NAME` and backend `be_NAME` have
    /// `server s1 "${MITOSIS_ROUTE_NAME}"`, for routes with one address.
    Variables,
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

/// One port that HAProxy listens on: for PostgreSQL, for a pooler before it, or for any other TCP service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("[has(self.postgres), has(self.pooler), has(self.static)].filter(given, given).size() == 1")
    .message("a route has one of postgres: Primary or Replicas, pooler: or static: with the addresses of both sides"))]
#[x_kube(validation = Rule::new("!has(self.maxLag) || (has(self.postgres) && self.postgres == 'Replicas')")
    .message("maxLag is for routes with postgres: Replicas"))]
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
    /// How much WAL a standby may be behind the primary, such as `64Mi`: one that is further behind, or does not follow it, gets no readers until it
    /// is less than half as far behind. Default: 64Mi. Only with `postgres: Replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "maxLag")]
    pub max_lag: Option<ByteSize>,
    /// The route leads to a pooler of the active side, such as PgPool2, which leads to its primary. It is held like a route to the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler: Option<PoolerRoute>,
    /// The route leads to fixed addresses of the active side.
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    pub fixed: Option<StaticRoute>,
}

impl Haproxy {
    /// How its pods have the routing, where no agent brings it to them.
    #[must_use]
    pub fn mounted(&self) -> Option<&Mounted> {
        self.own.as_ref()?.mounted.as_ref()
    }
}

impl Route {
    /// How much WAL a standby may be behind.
    #[must_use]
    pub fn max_lag(&self) -> ByteSize {
        self.max_lag.unwrap_or(ByteSize::from_bytes(64 << 20))
    }
}

/// Which members of the active side a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PostgresRole {
    /// The one writable member.
    Primary,
    /// Its standbys; the primary when there is none.
    Replicas,
}

/// Addresses of a pooler on both sides, each as `host:port`; IP addresses are turned over fastest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolerRoute {
    /// Where it leads while the source is primary.
    #[schemars(length(min = 1, max = 32), inner(length(max = 260)))]
    pub source: Vec<String>,
    /// Where it leads while the target is primary.
    #[schemars(length(min = 1, max = 32), inner(length(max = 260)))]
    pub target: Vec<String>,
    /// How the operator connects through it to see where it leads, with the login of `spec.source.credentials`. Default: verify-full.
    #[serde(default)]
    pub tls: TlsMode,
}

impl PoolerRoute {
    /// Where it leads while a side is primary.
    #[must_use]
    pub const fn of(&self, side: Side) -> &Vec<String> {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }
}

/// Addresses of a TCP service on both sides, each as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct StaticRoute {
    /// Where it leads before the switch.
    #[schemars(length(min = 1, max = 32), inner(length(max = 260)))]
    pub source: Vec<String>,
    /// Where it leads after the switch.
    #[schemars(length(min = 1, max = 32), inner(length(max = 260)))]
    pub target: Vec<String>,
    /// How long sessions that are open at a switch may go on where they are, such as `30s`, at most 10m. Default: 5s.
    #[serde(default = "default_drain")]
    #[schemars(with = "String", length(max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,6}(ms|s|m))+$') && duration(self) <= duration('10m')")
        .message("write a duration of 10m at most, such as 5s"))]
    pub drain: Duration,
}

fn default_drain() -> Duration {
    Duration::from(std::time::Duration::from_secs(5))
}

impl StaticRoute {
    /// Where it leads while a side is primary.
    #[must_use]
    pub const fn of(&self, side: Side) -> &Vec<String> {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }
}
