//! Objects of the managed HAProxy: Deployment with the agent beside it, Service, the agent's rights, and the routing.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Kind, Wanted,
    wanted::{pod_security, restricted},
};
use crate::{
    agent::Desired,
    api::{ClusterMigration, Haproxy, LABEL_COMPONENT, LABEL_MIGRATION, ManagedHaproxy, Traffic},
    haproxy::REPORT_PORT,
};

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

/// Port that HAProxy listens on inside its pod: where the operator deploys it, it runs without the right to bind ports below 1024.
#[must_use]
pub const fn listen_port(haproxy: &Haproxy, port: u16) -> u16 {
    if port < 1024 && haproxy.managed.is_some() {
        port + 30_000
    } else {
        port
    }
}

/// Labels by which the HAProxy pods are found, as a selector.
///
/// # Errors
/// See [`render_selector`].
pub fn haproxy_selector(migration: &ClusterMigration, haproxy: &Haproxy) -> Result<String, String> {
    match &haproxy.own {
        Some(own) => render_selector(&own.selector),
        None => Ok(format!(
            "{LABEL_MIGRATION}={},{LABEL_COMPONENT}=haproxy",
            migration.metadata.name.as_deref().unwrap_or_default()
        )),
    }
}

/// Labels as a selector.
///
/// # Errors
/// A sentence: one of them is no label. A comma, for example, would begin another term.
pub fn render_selector(labels: &BTreeMap<String, String>) -> Result<String, String> {
    let legal = |text: &str, more: char| {
        text.len() <= 253
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || c == more)
    };
    let terms = labels.iter().map(|(key, value)| {
        if !key.is_empty() && legal(key, '/') && legal(value, '.') {
            return Ok(format!("{key}={value}"));
        }
        Err(format!(
            "`{}: {}` is no label: write a key such as app.kubernetes.io/name and a value of letters, digits, '-', '_' and '.'",
            key.escape_debug(),
            value.escape_debug()
        ))
    });
    Ok(terms.collect::<Result<Vec<_>, _>>()?.join(","))
}

/// The routing as the agents read it.
#[must_use]
pub fn build_routing(migration: &ClusterMigration, routing: &Desired) -> Wanted {
    let body = json!({"data": routing.to_data()});
    Wanted::new(Kind::ConfigMap, migration, &routing_name(migration), "routing", body)
}

/// The right of the HAProxy pods to read the routing, and everything that runs HAProxy where the operator deploys it.
#[must_use]
pub fn build_haproxy(migration: &ClusterMigration, traffic: &Traffic, agent_image: &str) -> Vec<Wanted> {
    let name = haproxy_name(migration);
    let account = match &traffic.haproxy.own {
        Some(own) => own.service_account_name.as_ref(),
        None => Some(&name),
    };
    // Without an agent nobody in the pods reads anything by the API.
    let mut wanted = account.map_or_else(Vec::new, |account| build_rights(migration, account));
    if let Some(managed) = &traffic.haproxy.managed {
        wanted.extend(build_managed(migration, traffic, managed, agent_image));
    }
    wanted
}

fn build_rights(migration: &ClusterMigration, account: &str) -> Vec<Wanted> {
    let name = haproxy_name(migration);
    let object = |kind, body| Wanted::new(kind, migration, &name, "haproxy", body);
    vec![
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
                "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": migration.metadata.namespace}],
            }),
        ),
    ]
}

fn build_managed(
    migration: &ClusterMigration,
    traffic: &Traffic,
    managed: &ManagedHaproxy,
    agent_image: &str,
) -> Vec<Wanted> {
    let name = haproxy_name(migration);
    let object = |kind, body| Wanted::new(kind, migration, &name, "haproxy", body);
    let selector = json!({LABEL_MIGRATION: migration.metadata.name, LABEL_COMPONENT: "haproxy"});
    let ports: Vec<Value> = traffic
        .routes
        .iter()
        .map(|route| json!({"name": route.name, "port": route.port, "targetPort": listen_port(&traffic.haproxy, route.port)}))
        .collect();
    vec![
        object(Kind::ServiceAccount, json!({"automountServiceAccountToken": false})),
        object(
            Kind::PodDisruptionBudget,
            json!({"spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}}}),
        ),
        object(Kind::Service, json!({"spec": {"selector": selector, "ports": ports}})),
        object(
            Kind::Deployment,
            json!({"spec": {
                "replicas": managed.replicas,
                "selector": {"matchLabels": selector},
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": {
                    "metadata": {"labels": {
                        LABEL_MIGRATION: migration.metadata.name,
                        LABEL_COMPONENT: "haproxy",
                        "app.kubernetes.io/managed-by": "mitosis",
                    }},
                    "spec": pod(migration, &name, &managed.image, agent_image),
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
    sidecar["ports"] = json!([{"name": "report", "containerPort": REPORT_PORT}]);
    sidecar["readinessProbe"] = json!({"httpGet": {"path": "/readyz", "port": REPORT_PORT}, "periodSeconds": 2});
    sidecar["livenessProbe"] = json!({"httpGet": {"path": "/healthz", "port": REPORT_PORT}, "periodSeconds": 10});
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_would_be_read_as_a_selector_is_refused() {
        let render = |key: &str, value: &str| render_selector(&[(key.to_owned(), value.to_owned())].into());
        assert_eq!(
            render("app.kubernetes.io/name", "edge_1").unwrap(),
            "app.kubernetes.io/name=edge_1"
        );
        assert!(render("app", "").is_ok());
        for (key, value) in [
            ("", "a"),
            ("a,b", "c"),
            ("a", "b,c"),
            ("a", "b=c"),
            ("a in (b)", "c"),
            ("!a", "b"),
            ("a", "b/c"),
            ("a", "my app"),
            ("a", "b\n"),
        ] {
            assert!(render(key, value).is_err(), "{key:?} {value:?}");
        }
    }
}
