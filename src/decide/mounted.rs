//! HAProxy pods without an agent: what brings the routing to them.

use jiff::SignedDuration;

use super::{Action, Placement, routing::Drift};
use crate::{
    agent::Desired,
    api::{Haproxy, OwnConfigMap, Part},
    haproxy::{Configuration, MARK, replace_block},
    observe::{Placed, ProxyPod, Snapshot},
};

/// When the kubelet is asked again during a switchover. Asked in the moment of the write, it may have looked just before.
const REFRESH_AT_ONCE: SignedDuration = SignedDuration::from_secs(1);
/// The same while nobody waits: about as often as the kubelet looks by itself.
const REFRESH_AT_LEISURE: SignedDuration = SignedDuration::from_mins(1);

/// What brings a routing to pods without an agent while nobody waits for it, besides its being written: nothing where they run it. The kubelet is
/// asked at once where the routing is only being written.
///
/// # Errors
/// The ConfigMap of the user's has no place for it, as a sentence.
pub fn plan_mounted(seen: &Snapshot, routing: &Desired) -> Result<Vec<Action>, String> {
    let is_written = seen.traffic.routing.as_ref() == Some(routing);
    plan(
        seen,
        routing,
        if is_written {
            REFRESH_AT_LEISURE
        } else {
            REFRESH_AT_ONCE
        },
    )
}

/// The same during a switchover.
///
/// # Errors
/// As before.
pub fn plan_mounted_at_once(seen: &Snapshot, routing: &Desired) -> Result<Vec<Action>, String> {
    plan(seen, routing, REFRESH_AT_ONCE)
}

fn plan(seen: &Snapshot, routing: &Desired, again: SignedDuration) -> Result<Vec<Action>, String> {
    let haproxy = seen.migration.spec.traffic.as_ref().map(|traffic| &traffic.haproxy);
    if haproxy.and_then(Haproxy::mounted).is_none() {
        return Ok(Vec::new());
    }
    let mut actions = Vec::new();
    if let Some(own) = find_own_config_map(seen) {
        actions.extend(plan_placement(seen, own, routing)?.map(|placement| Action::Place(Box::new(placement))));
    }
    let is_due = |pod: &&ProxyPod| {
        let runs = pod
            .report
            .as_ref()
            .is_some_and(|report| report.is_running(routing.generation));
        !runs && pod.refreshed.is_none_or(|at| seen.now.duration_since(at) >= again)
    };
    let pods: Vec<String> = seen
        .traffic
        .pods
        .iter()
        .filter(is_due)
        .map(|pod| pod.name.clone())
        .collect();
    if !pods.is_empty() {
        actions.push(Action::Refresh { pods });
    }
    Ok(actions)
}

/// Whether there is more than blanks and comments in a file of HAProxy.
fn has_lines(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    lines.any(|line| !line.is_empty() && !line.starts_with('#'))
}

/// What is to be written into the ConfigMap of the user's; nothing where it says so already.
fn plan_placement(seen: &Snapshot, own: &OwnConfigMap, routing: &Desired) -> Result<Option<Placement>, String> {
    let name = &own.name;
    let (resource_version, present, generation) = match &seen.traffic.placed {
        Placed::Unknown => return Ok(None),
        Placed::Missing => return Err(format!("ConfigMap {name}, for the routes, is not there: create it")),
        Placed::Seen {
            resource_version,
            text,
            generation,
            ..
        } => (resource_version, text, generation),
    };
    let text = match (own.part, present) {
        (Part::Key, Some(present)) if generation.is_none() && !present.starts_with(MARK) && has_lines(present) => {
            return Err(format!(
                "ConfigMap {name}, key {}, has something of yours in it: name a key that is empty or not there, or use part: Block",
                own.key
            ));
        }
        (Part::Key, _) => routing.configuration.clone(),
        (Part::Block, None) => {
            return Err(format!(
                "ConfigMap {name}, for the routes, has no key {}: add it",
                own.key
            ));
        }
        (Part::Block, Some(present)) => {
            let migration = seen.migration.metadata.name.as_deref().unwrap_or_default();
            let configuration = Configuration::parse(&routing.configuration)?;
            replace_block(present, migration, &configuration)
                .map_err(|because| format!("ConfigMap {name}, key {}: {because}", own.key))?
        }
    };
    Ok((present.as_ref() != Some(&text)).then(|| Placement {
        config_map: name.clone(),
        key: own.key.clone(),
        text,
        generation: routing.generation,
        resource_version: resource_version.clone(),
    }))
}

/// Whether there is a place for the routing in the ConfigMap of the user's, as far as it was looked at.
///
/// # Errors
/// There is none, as a sentence.
pub fn ensure_place(seen: &Snapshot, routing: &Configuration) -> Result<(), String> {
    match find_own_config_map(seen) {
        Some(own) => plan_placement(seen, own, &Desired::from(routing)).map(|_| ()),
        None => Ok(()),
    }
}

/// Who changed the routing in the user's ConfigMap after the operator had written the present one there.
pub fn find_drift_in_place(seen: &Snapshot) -> Option<Drift<'_>> {
    let routing = seen.traffic.routing.as_ref()?;
    match &seen.traffic.placed {
        Placed::Seen { generation, editor, .. } if *generation == Some(routing.generation) => {
            let own = find_own_config_map(seen)?;
            plan_placement(seen, own, routing).ok()??;
            Some(Drift {
                by: editor.as_deref().unwrap_or("somebody"),
                config_map: Some(&own.name),
            })
        }
        _ => None,
    }
}

fn find_own_config_map(seen: &Snapshot) -> Option<&OwnConfigMap> {
    seen.migration
        .spec
        .traffic
        .as_ref()?
        .haproxy
        .mounted()?
        .config_map
        .as_ref()
}
