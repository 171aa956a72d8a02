//! A throw-away Job that shows which PostgreSQL the target's image holds.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
};

use serde_json::json;

use super::{
    Kind, Wanted,
    wanted::{pod_security, restricted},
};
use crate::api::ClusterMigration;

/// Name of the probe, which depends on what it probes: another image is another probe.
#[must_use]
pub fn probe_name(migration: &ClusterMigration) -> String {
    let mut hasher = DefaultHasher::new();
    let target = &migration.spec.target;
    (&target.image, target.pod_template.run_as_user).hash(&mut hasher);
    let name = migration.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-probe-{:08x}", hasher.finish() & 0xFFFF_FFFF)
}

/// The probe: its pod's termination message is the version of PostgreSQL in the target's image.
#[must_use]
pub fn build_probe(migration: &ClusterMigration) -> Wanted {
    let target = &migration.spec.target;
    let programs = "for program in postgres pg_basebackup pg_ctl pg_isready flock; do command -v $program >/dev/null || missing=\"$missing $program\"; done";
    let script = format!(
        "missing=; {programs}; if [ -n \"$missing\" ]; then echo \"not on PATH:$missing\" >/dev/termination-log; exit 1; fi; postgres --version >/dev/termination-log"
    );
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
                "command": ["sh", "-c", script],
                "securityContext": restricted(),
            }],
        }},
    }});
    Wanted::new(Kind::Job, migration, &probe_name(migration), "probe", body).owned_by(migration)
}
