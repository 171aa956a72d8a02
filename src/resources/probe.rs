//! A throw-away Job that shows which PostgreSQL the target's image holds, and what it lacks of what the source uses.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
};

use serde_json::json;

use super::{
    Kind, Wanted,
    wanted::{pod_security, restricted},
};
use crate::{api::ClusterMigration, postgres::Inventory};

const SCRIPT: &str = include_str!("probe.sh");
const SQL: &str = include_str!("probe.sql");

/// Name of the probe, which depends on what it probes, and for what: another image is another probe.
#[must_use]
pub fn probe_name(migration: &ClusterMigration, inventory: &Inventory) -> String {
    let mut hasher = DefaultHasher::new();
    let target = &migration.spec.target;
    let parameters = &target.postgresql.parameters;
    (&target.image, target.pod_template.run_as_user, inventory, parameters).hash(&mut hasher);
    let name = migration.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-probe-{:08x}", hasher.finish() & 0xFFFF_FFFF)
}

/// The probe: its pod's termination message tells the version of PostgreSQL in the target's image, and what of the inventory it lacks.
#[must_use]
pub fn build_probe(migration: &ClusterMigration, inventory: &Inventory) -> Wanted {
    let target = &migration.spec.target;
    let parameters: Vec<&String> = target.postgresql.parameters.keys().collect();
    let arguments = [
        "probe".to_owned(),
        "/dev/termination-log".to_owned(),
        json!(inventory).to_string(),
        json!(parameters).to_string(),
        SQL.to_owned(),
    ];
    let body = json!({"spec": {
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": 86400,
        "template": {"spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "securityContext": pod_security(target.pod_template.run_as_user),
            "nodeSelector": target.pod_template.node_selector,
            "tolerations": target.pod_template.tolerations,
            "containers": [{
                "name": "probe",
                "image": target.image,
                "command": ["sh", "-c", SCRIPT],
                "args": arguments,
                "securityContext": restricted(),
                "volumeMounts": [{"name": "work", "mountPath": "/tmp"}],
            }],
            "volumes": [{"name": "work", "emptyDir": {}}],
        }},
    }});
    Wanted::new(Kind::Job, migration, &probe_name(migration, inventory), "probe", body).owned_by(migration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_hands_the_arguments_over_as_they_are() {
        let migration = serde_saphyr::from_str(include_str!("../../examples/clustermigration.yaml")).unwrap();
        let body = build_probe(&migration, &Inventory::default()).body.to_string();
        // In arguments, Kubernetes makes one dollar of two.
        assert!(!body.contains("$$"), "{body}");
    }
}
