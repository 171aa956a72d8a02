//! Objects of one target member: ConfigMap, volume claim, Services and StatefulSet.

use serde_json::{Value, json};

use super::{
    Kind, Wanted,
    wanted::{pod_security, restricted},
};
use crate::{
    api::{ClusterMigration, ExposureType, LABEL_MEMBER, LABEL_MIGRATION, LABEL_ROLE},
    postgres::MemberName,
};

/// Where the CA of the target's certificate lies in the members' pods.
pub const CA_FILE: &str = "/etc/mitosis/tls/ca.crt";
/// Where the CA of the source lies in the members' pods.
pub const SOURCE_CA_FILE: &str = "/etc/mitosis/source/ca.crt";
/// Where the volume is mounted.
pub(super) const VOLUME: &str = "/var/lib/pgmitosis";

/// What the objects of a member are built from.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// The migration.
    pub migration: &'a ClusterMigration,
    /// The member.
    pub member: &'a MemberName,
}

impl Plan<'_> {
    fn object(&self, kind: Kind, name: &str, mut body: Value) -> Wanted {
        body["metadata"]["labels"][LABEL_MEMBER] = json!(self.member.as_str());
        Wanted::new(kind, self.migration, name, "member", body)
    }

    fn selector(&self) -> Value {
        json!({
            LABEL_MIGRATION: self.migration.metadata.name,
            LABEL_MEMBER: self.member.as_str(),
        })
    }
}

/// DNS name of a member inside the cluster, which its certificate must name.
#[must_use]
pub fn member_host(namespace: &str, member: &MemberName) -> String {
    format!("{member}.{namespace}.svc")
}

/// Name of the Service that exposes a member to the source.
#[must_use]
pub fn external_name(member: &MemberName) -> String {
    format!("{member}-external")
}

/// Configuration files of a member.
#[must_use]
pub fn build_configuration(plan: &Plan<'_>, postgresql: &str, hba: &str) -> Wanted {
    let data = json!({"data": {"postgresql.conf": postgresql, "pg_hba.conf": hba}});
    plan.object(Kind::ConfigMap, plan.member.as_str(), data)
}

/// Volume claim of a member. It stays when the `ClusterMigration` goes.
#[must_use]
pub fn build_claim(plan: &Plan<'_>) -> Wanted {
    let storage = &plan.migration.spec.target.storage;
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage.size.to_string()}},
    });
    if let Some(class) = &storage.class_name {
        spec["storageClassName"] = json!(class);
    }
    plan.object(Kind::PersistentVolumeClaim, plan.member.as_str(), json!({"spec": spec}))
}

/// Services of a member: one inside the cluster, and where asked one for the source's hosts.
#[must_use]
pub fn build_services(plan: &Plan<'_>) -> Vec<Wanted> {
    let service = |name: &str, kind: &str| {
        plan.object(
            Kind::Service,
            name,
            json!({"spec": {
                "type": kind,
                "selector": plan.selector(),
                // A member is reached while it recovers, and the route to it must not flap at the switch.
                "publishNotReadyAddresses": true,
                "ports": [{"name": "postgresql", "port": 5432, "targetPort": "postgresql"}],
            }}),
        )
    };
    let mut services = vec![service(plan.member.as_str(), "ClusterIP")];
    match plan.migration.spec.target.exposure.kind {
        ExposureType::NodePort => services.push(service(&external_name(plan.member), "NodePort")),
        ExposureType::LoadBalancer => services.push(service(&external_name(plan.member), "LoadBalancer")),
        ExposureType::None => {}
    }
    services
}

/// Services `NAME-rw` and `NAME-ro` by observed role.
#[must_use]
pub fn build_role_services(migration: &ClusterMigration) -> Vec<Wanted> {
    let name = migration.metadata.name.clone().unwrap_or_default();
    [("rw", "primary"), ("ro", "standby")]
        .into_iter()
        .map(|(suffix, role)| {
            let body = json!({"spec": {
                "selector": {LABEL_MIGRATION: name, LABEL_ROLE: role},
                "ports": [{"name": "postgresql", "port": 5432, "targetPort": "postgresql"}],
            }});
            Wanted::new(Kind::Service, migration, &format!("{name}-{suffix}"), "member", body)
        })
        .collect()
}

/// Program of a member's container: the server, started again when it was shut down from inside.
const SERVE: &str = include_str!("serve.sh");

/// StatefulSet of a member: one pod that runs PostgreSQL from the member's volume, without any script of the image.
#[must_use]
pub fn build_stateful_set(plan: &Plan<'_>) -> Wanted {
    let target = &plan.migration.spec.target;
    let template = &target.pod_template;
    let data = format!("{VOLUME}/data");
    let mut container = json!({
        "name": "postgresql",
        "image": target.image,
        "command": ["sh", "-c", SERVE, "serve", data, "/etc/mitosis/conf/postgresql.conf"],
        "ports": [{"name": "postgresql", "containerPort": 5432}],
        "securityContext": restricted(),
        "readinessProbe": {
            "exec": {"command": ["pg_isready", "-q", "-h", "/tmp"]},
            "timeoutSeconds": 5,
        },
        // Often only until it is up: each look starts a process.
        "startupProbe": {
            "exec": {"command": ["pg_isready", "-q", "-h", "/tmp"]},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 86400,
        },
        "volumeMounts": member_mounts(),
    });
    if let Some(resources) = &template.resources {
        container["resources"] = json!(resources);
    }
    let mut labels = plan.selector();
    labels["app.kubernetes.io/managed-by"] = json!("mitosis");
    let body = json!({"spec": {
        "replicas": 1,
        "serviceName": plan.member.as_str(),
        "selector": {"matchLabels": plan.selector()},
        "template": {
            "metadata": {"labels": labels},
            "spec": pod(plan, &container, 60),
        },
    }});
    plan.object(Kind::StatefulSet, plan.member.as_str(), body)
}

/// A pod on the member's volume, for the server and for the Job that fills the volume.
pub(super) fn pod(plan: &Plan<'_>, container: &Value, grace_seconds: u32) -> Value {
    let spec = &plan.migration.spec;
    let template = &spec.target.pod_template;
    let mut pod = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": pod_security(template.run_as_user),
        "nodeSelector": template.node_selector,
        "tolerations": template.tolerations,
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": plan.member.as_str()}},
            {"name": "conf", "configMap": {"name": plan.member.as_str()}},
            {"name": "tls", "secret": {"secretName": spec.target.tls.secret_name, "defaultMode": 0o440}},
            {"name": "source", "secret": {"secretName": spec.source.credentials.secret_name, "defaultMode": 0o440}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    });
    if let Some(class) = &template.priority_class_name {
        pod["priorityClassName"] = json!(class);
    }
    pod
}

/// Mounts of the server and of the Job that fills its volume.
pub(super) fn member_mounts() -> Value {
    json!([
        {"name": "data", "mountPath": VOLUME},
        {"name": "conf", "mountPath": "/etc/mitosis/conf", "readOnly": true},
        {"name": "tls", "mountPath": "/etc/mitosis/tls", "readOnly": true},
        {"name": "source", "mountPath": "/etc/mitosis/source", "readOnly": true},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ])
}
