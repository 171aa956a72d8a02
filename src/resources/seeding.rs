//! The Job that fills a member's volume with a base backup.

use serde_json::json;

use super::{
    Kind, Plan, Wanted,
    member::{VOLUME, member_mounts, pod},
    wanted::restricted,
};
use crate::{
    api::{Compression, LABEL_MEMBER},
    postgres::{Conninfo, MemberName, SlotName},
};

/// Run by the shell of the image; every value comes as an argument or a file, never as part of the text.
const SCRIPT: &str = include_str!("seed.sh");

/// Name of the Job that seeds a member.
#[must_use]
pub fn seeding_name(member: &MemberName) -> String {
    format!("{member}-seed")
}

/// Where a base backup comes from.
pub struct SeedingPlan<'a> {
    /// Connection to the upstream, without the password.
    pub upstream: &'a Conninfo,
    /// Slot on the upstream.
    pub slot: &'a SlotName,
}

/// The Job that seeds a member.
///
/// It clones under a temporary name and renames at the end, so that a Job that runs again finds the whole clone or starts clean.
#[must_use]
pub fn build_seeding(plan: &Plan<'_>, from: &SeedingPlan<'_>) -> Wanted {
    let target = &plan.migration.spec.target;
    let mut arguments = vec![
        "seed".to_owned(),
        format!("{VOLUME}/data"),
        from.upstream.render(),
        from.slot.to_string(),
    ];
    if let Some(rate) = plan.migration.spec.seeding.max_rate {
        arguments.push(format!("--max-rate={}k", rate.bytes() / 1024));
    }
    match plan.migration.spec.seeding.compression {
        Compression::None => {}
        Compression::Lz4 => arguments.push("--compress=server-lz4".to_owned()),
        Compression::Zstd => arguments.push("--compress=server-zstd:level=1".to_owned()),
    }
    let mut container = json!({
        "name": "pg-basebackup",
        "image": target.image,
        "command": ["sh", "-c", SCRIPT],
        "args": arguments,
        "securityContext": restricted(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": member_mounts(),
    });
    if let Some(resources) = &target.pod_template.resources {
        container["resources"] = json!(resources);
    }
    let mut template = pod(plan, &container, 5);
    template["restartPolicy"] = json!("Never");
    let body = json!({
        "metadata": {"labels": {LABEL_MEMBER: plan.member.as_str()}},
        "spec": {
            "backoffLimit": 3,
            "ttlSecondsAfterFinished": 86400,
            "template": {"spec": template},
        },
    });
    Wanted::new(Kind::Job, plan.migration, &seeding_name(plan.member), "seeding", body).owned_by(plan.migration)
}
