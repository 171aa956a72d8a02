//! Actions on the API server.

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::CronJob,
    core::v1::{ConfigMap, EnvVar, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::DynamicObject,
};
use serde_json::json;
use tokio::time::timeout;

use super::{API_DEADLINE, Error};
use crate::{
    api::{ANNOTATION_GENERATION, ANNOTATION_REFRESHED, ClusterMigration, FIELD_MANAGER, FINALIZER, LABEL_ROLE},
    decide::Placement,
    observe::{Member, Refreshes},
    postgres::MemberName,
    resources::{Kind, Wanted},
};

async fn within<T>(what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match timeout(API_DEADLINE, call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(because)) => Err(Error::Api {
            what: what.to_owned(),
            because,
        }),
        Err(_) => Err(Error::Deadline { what: what.to_owned() }),
    }
}

fn namespace(migration: &ClusterMigration) -> &str {
    migration.metadata.namespace.as_deref().unwrap_or_default()
}

/// Applies an object; the fields that it names are the operator's.
pub(super) async fn apply(client: &Client, migration: &ClusterMigration, object: &Wanted) -> Result<(), Error> {
    let resource = object.kind.api_resource();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace(migration), &resource);
    let parameters = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
    let what = format!("{} {}", resource.kind, object.name);
    within(&what, api.patch(&object.name, &parameters, &Patch::Apply(&object.body))).await?;
    Ok(())
}

/// Writes the routing into a ConfigMap of the user's own, unless somebody changed that meanwhile.
pub(super) async fn place(client: &Client, migration: &ClusterMigration, placement: &Placement) -> Result<(), Error> {
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace(migration));
    let name = &placement.config_map;
    let patch = Patch::Merge(json!({
        "metadata": {
            "resourceVersion": placement.resource_version,
            "annotations": {ANNOTATION_GENERATION: format!("{}@{}", placement.key, placement.generation)},
        },
        "data": {&placement.key: placement.text},
    }));
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    within(
        &format!("the routing in ConfigMap {name}"),
        configs.patch(name, &parameters, &patch),
    )
    .await?;
    Ok(())
}

/// Makes the kubelet look for what these pods mount. It looks by itself as well, only later: where it cannot be asked, that is remembered like an
/// answer, and nothing waits for it.
pub(super) async fn refresh(
    client: &Client,
    migration: &ClusterMigration,
    refreshes: &Refreshes,
    names: &[String],
    now: Timestamp,
) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace(migration));
    let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION_REFRESHED: now.to_string()}}}));
    let parameters = PatchParams::default();
    let patched = names.iter().map(async |name| {
        refreshes.note(namespace(migration), name, now);
        let what = format!("the annotation of pod {name}");
        if let Err(error) = within(&what, pods.patch(name, &parameters, &patch)).await {
            tracing::warn!(%error, "the kubelet was not asked for what the pod mounts");
        }
    });
    join_all(patched).await;
}

/// Labels the pod of a member with its observed role, by which the Services find it.
pub(super) async fn label_role(
    client: &Client,
    migration: &ClusterMigration,
    member: &MemberName,
    role: &str,
) -> Result<(), Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace(migration));
    let name = format!("{member}-0");
    let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL_ROLE: role}}}));
    within(
        &format!("the role of pod {name}"),
        pods.patch(&name, &PatchParams::default(), &patch),
    )
    .await?;
    Ok(())
}

/// The uid of the pod that has this name now.
pub(super) async fn find_pod(client: &Client, migration: &ClusterMigration, name: &str) -> Result<String, Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace(migration));
    let found = within(&format!("a look at pod {name}"), pods.get(name)).await?;
    found
        .metadata
        .uid
        .ok_or_else(|| Error::Outdated(format!("pod {name} has no uid")))
}

/// Deletes a pod, exactly this one, so that what owns it makes it anew.
pub(super) async fn delete_pod(
    client: &Client,
    migration: &ClusterMigration,
    name: &str,
    uid: String,
) -> Result<(), Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace(migration));
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    within(&format!("the deletion of pod {name}"), pods.delete(name, &parameters)).await?;
    Ok(())
}

/// A Job from a CronJob's template, with what it must know of the member. The same name makes it once.
pub(super) async fn plan_job(
    client: &Client,
    migration: &ClusterMigration,
    cron_job: &str,
    name: &str,
    member: &Member,
) -> Result<Wanted, Error> {
    let templates: Api<CronJob> = Api::namespaced(client.clone(), namespace(migration));
    let template = within(&format!("a look at CronJob {cron_job}"), templates.get(cron_job)).await?;
    let mut spec = template
        .spec
        .and_then(|spec| spec.job_template.spec)
        .ok_or_else(|| Error::Outdated(format!("CronJob {cron_job} has no template")))?;
    let told = [
        ("MITOSIS_MEMBER", member.name.to_string()),
        ("MITOSIS_HOST", member.address.host.to_string()),
        ("MITOSIS_PORT", member.address.port.to_string()),
    ];
    for container in spec.template.spec.iter_mut().flat_map(|pod| &mut pod.containers) {
        container
            .env
            .get_or_insert_default()
            .extend(told.iter().map(|(name, value)| EnvVar {
                name: (*name).to_owned(),
                value: Some(value.clone()),
                value_from: None,
            }));
    }
    Ok(Wanted::new(Kind::Job, migration, name, "stop", json!({"spec": spec})))
}

/// Fails unless the API server still holds exactly the version that the decision was made from: somebody else may act by now.
pub(super) async fn ensure_current(client: &Client, migration: &ClusterMigration) -> Result<(), Error> {
    let api: Api<ClusterMigration> = Api::namespaced(client.clone(), namespace(migration));
    let held = within("a look at the ClusterMigration", api.get(&migration.name_any())).await?;
    if held.metadata.resource_version == migration.metadata.resource_version {
        return Ok(());
    }
    Err(Error::Outdated(
        "the ClusterMigration changed since the decision was made".to_owned(),
    ))
}

/// Adds the finalizer, so that a deletion is seen before the resource is gone.
///
/// # Errors
/// The API server refuses or does not answer.
pub async fn add_finalizer(client: &Client, migration: &ClusterMigration) -> Result<ClusterMigration, Error> {
    let mut finalizers = migration.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    patch_finalizers(client, migration, &finalizers).await
}

/// Removes the finalizer.
pub(super) async fn remove_finalizer(client: &Client, migration: &ClusterMigration) -> Result<(), Error> {
    let finalizers: Vec<String> = migration
        .finalizers()
        .iter()
        .filter(|name| *name != FINALIZER)
        .cloned()
        .collect();
    patch_finalizers(client, migration, &finalizers).await.map(|_| ())
}

/// The resource version in the patch makes it fail where somebody else changed the list meanwhile.
async fn patch_finalizers(
    client: &Client,
    migration: &ClusterMigration,
    finalizers: &[String],
) -> Result<ClusterMigration, Error> {
    let api: Api<ClusterMigration> = Api::namespaced(client.clone(), namespace(migration));
    let patch = Patch::Merge(json!({"metadata": {
        "finalizers": finalizers,
        "resourceVersion": migration.metadata.resource_version,
    }}));
    within(
        "the finalizer",
        api.patch(&migration.name_any(), &PatchParams::default(), &patch),
    )
    .await
}
