//! Objects of the managed HAProxy: Deployment with the agent beside it, Service, the agent's rights, and the routing.

use serde_json::{Value, json};

use super::{
    Kind, Wanted,
    wanted::{pod_security, restricted},
};
use crate::{
    agent::Desired,
    api::{ClusterMigration, LABEL_COMPONENT, LABEL_MIGRATION, Traffic},
};

/// Port of the agent's read-only report.
pub const AGENT_PORT: u16 = 8405;
/// User of the HAProxy pods: both containers share the sockets.
const USER: i64 = 65532;

/// Name of the HAProxy Deployment and Service.
#[must_use]
pub fn haproxy_name(migration: &ClusterMigration) -> String {
    format!("{}-haproxy", migration.metadata.name.as_deref().unwrap_or_default())
}

/// Name of the ConfigMap that holds the routing.
#[must_use]
pub fn routing_name(migration: &ClusterMigration) -> String {
    format!("{}-routing", migration.metadata.name.as_deref().unwrap_or_default())
}

/// Port that HAProxy listens on inside its pod: it runs without the right to bind ports below 1024.
#[must_use]
pub const fn listen_port(port: u16) -> u16 {
    if port < 1024 { port + 30_000 } else { port }
}

/// The routing as the agents read it.
#[must_use]
pub fn build_routing(migration: &ClusterMigration, routing: &Desired) -> Wanted {
    let body = json!({"data": routing.to_data()});
    Wanted::new(Kind::ConfigMap, migration, &routing_name(migration), "routing", body)
}

/// Everything that runs HAProxy.
#[must_use]
pub fn build_haproxy(migration: &ClusterMigration, traffic: &Traffic, agent_image: &str) -> Vec<Wanted> {
    let name = haproxy_name(migration);
    let object = |kind, body| Wanted::new(kind, migration, &name, "haproxy", body);
    let selector = json!({LABEL_MIGRATION: migration.metadata.name, LABEL_COMPONENT: "haproxy"});
    let ports: Vec<Value> = traffic
        .routes
        .iter()
        .map(|route| json!({"name": route.name, "port": route.port, "targetPort": listen_port(route.port)}))
        .collect();
    vec![
        object(Kind::ServiceAccount, json!({"automountServiceAccountToken": false})),
        object(
            Kind::Role,
            json!({"rules": [{
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": [routing_name(migration)],
                "verbs": ["get", "list", "watch"],
            }]}),
        ),
        object(
            Kind::RoleBinding,
            json!({
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": migration.metadata.namespace}],
            }),
        ),
        object(
            Kind::PodDisruptionBudget,
            json!({"spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}}}),
        ),
        object(Kind::Service, json!({"spec": {"selector": selector, "ports": ports}})),
        object(
            Kind::Deployment,
            json!({"spec": {
                "replicas": traffic.haproxy.managed.replicas,
                "selector": {"matchLabels": selector},
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": {
                    "metadata": {"labels": {
                        LABEL_MIGRATION: migration.metadata.name,
                        LABEL_COMPONENT: "haproxy",
                        "app.kubernetes.io/managed-by": "mitosis",
                    }},
                    "spec": pod(migration, &name, &traffic.haproxy.managed.image, agent_image),
                },
            }}),
        ),
    ]
}

fn pod(migration: &ClusterMigration, account: &str, haproxy_image: &str, agent_image: &str) -> Value {
    let mounts = json!([
        {"name": "config", "mountPath": "/etc/haproxy-mitosis"},
        {"name": "sockets", "mountPath": "/run/haproxy"},
    ]);
    let agent = |name: &str, once: &[&str]| {
        let mut arguments = vec![
            "agent".to_owned(),
            format!(
                "--namespace={}",
                migration.metadata.namespace.as_deref().unwrap_or_default()
            ),
            format!("--configmap={}", routing_name(migration)),
        ];
        arguments.extend(once.iter().map(ToString::to_string));
        json!({
            "name": name,
            "image": agent_image,
            "args": arguments,
            "securityContext": restricted(),
            "volumeMounts": mounts,
        })
    };
    let mut sidecar = agent("agent", &[]);
    sidecar["ports"] = json!([{"name": "report", "containerPort": AGENT_PORT}]);
    sidecar["readinessProbe"] = json!({"httpGet": {"path": "/readyz", "port": AGENT_PORT}, "periodSeconds": 2});
    sidecar["livenessProbe"] = json!({"httpGet": {"path": "/healthz", "port": AGENT_PORT}, "periodSeconds": 10});
    json!({
        "serviceAccountName": account,
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 10,
        "securityContext": pod_security(USER),
        // The file is there, with what the API holds now, before HAProxy starts.
        "initContainers": [agent("agent-init", &["--once"])],
        "containers": [
            {
                "name": "haproxy",
                "image": haproxy_image,
                "command": ["haproxy", "-W", "-db", "-S", "/run/haproxy/master.sock,level,admin",
                    "-f", "/etc/haproxy-mitosis/haproxy.cfg"],
                "securityContext": restricted(),
                "volumeMounts": mounts,
            },
            sidecar,
        ],
        "volumes": [{"name": "config", "emptyDir": {}}, {"name": "sockets", "emptyDir": {}}],
    })
}
