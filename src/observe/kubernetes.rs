//! Objects of a migration in Kubernetes.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        batch::v1::Job,
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
};
use kube::{Api, Client, Resource, ResourceExt, api::ListParams};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Error, JobState, Objects, Placed,
    layout::{Misfit, find_misfits},
    within,
};
use crate::{
    agent::Desired,
    api::{
        ANNOTATION_GENERATION, ANNOTATION_HASH, ANNOTATION_REFRESHED, ClusterMigration, FIELD_MANAGER, LABEL_MEMBER,
        LABEL_MIGRATION, LABEL_ROLE,
    },
    resources::{Kind, haproxy_name, haproxy_selector, routing_name},
};

/// A ready or once ready HAProxy pod.
#[derive(Clone, Debug)]
pub struct ProxyPodPlace {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// That of its node.
    pub node_ip: String,
    /// What keeps it from leading clients as it should, where the pod is the user's own.
    pub misfits: Vec<Misfit>,
    /// When the kubelet was last made to look for what the pod mounts.
    pub refreshed: Option<Timestamp>,
}

/// What is written of the routing.
#[derive(Clone, Default)]
pub struct Routing {
    /// The operator's own ConfigMap.
    pub written: Option<Desired>,
    /// Who last wrote data of it besides the operator.
    pub editor: Option<String>,
    /// The user's ConfigMap that it is written into as well.
    pub placed: Placed,
}

/// Reads every object of a migration.
///
/// # Errors
/// The API server does not answer in time or refuses.
pub async fn fetch_objects(client: &Client, migration: &ClusterMigration) -> Result<Objects, Error> {
    let lister = Lister {
        client,
        namespace: migration.metadata.namespace.as_deref().unwrap_or_default(),
        selector: format!(
            "{LABEL_MIGRATION}={}",
            migration.metadata.name.as_deref().unwrap_or_default()
        ),
    };
    let mut objects = Objects::default();
    let (configs, services, claims, sets, jobs, deployments, pods) = tokio::try_join!(
        lister.list::<ConfigMap>(),
        lister.list::<Service>(),
        lister.list::<PersistentVolumeClaim>(),
        lister.list::<StatefulSet>(),
        lister.list::<Job>(),
        lister.list::<Deployment>(),
        lister.list_pods(migration),
    )?;
    note(&mut objects, Kind::ConfigMap, &configs);
    note(&mut objects, Kind::Service, &services);
    note(&mut objects, Kind::PersistentVolumeClaim, &claims);
    note(&mut objects, Kind::StatefulSet, &sets);
    note(&mut objects, Kind::Job, &jobs);
    note(&mut objects, Kind::Deployment, &deployments);
    if migration.spec.traffic.is_some() {
        let name = haproxy_name(migration);
        note(
            &mut objects,
            Kind::ServiceAccount,
            &lister.get::<ServiceAccount>(&name).await?,
        );
        note(&mut objects, Kind::Role, &lister.get::<Role>(&name).await?);
        note(
            &mut objects,
            Kind::RoleBinding,
            &lister.get::<RoleBinding>(&name).await?,
        );
        note(
            &mut objects,
            Kind::PodDisruptionBudget,
            &lister.get::<PodDisruptionBudget>(&name).await?,
        );
    }
    for service in &services {
        note_service(&mut objects, service);
    }
    for pod in &pods {
        note_pod(&mut objects, pod);
    }
    for job in &jobs {
        objects.jobs.insert(job.name_any(), job_state(job, &pods));
    }
    Ok(objects)
}

/// Reads what is written of the routing.
///
/// # Errors
/// The API server does not answer in time or refuses.
pub async fn fetch_routing(client: &Client, migration: &ClusterMigration) -> Result<Routing, Error> {
    let namespace = migration.metadata.namespace.as_deref().unwrap_or_default();
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let placed = async {
        let mounted = migration
            .spec
            .traffic
            .as_ref()
            .and_then(|traffic| traffic.haproxy.mounted());
        match mounted.and_then(|mounted| mounted.config_map.as_ref()) {
            None => Ok(Placed::Unknown),
            Some(own) => Ok(match within(configs.get_opt(&own.name)).await? {
                None => Placed::Missing,
                Some(config) => read_placed(&config, &own.key),
            }),
        }
    };
    let name = routing_name(migration);
    let (config, placed) = tokio::try_join!(within(configs.get_opt(&name)), placed)?;
    Ok(Routing {
        written: config.as_ref().and_then(read_routing),
        editor: config.as_ref().and_then(|config| read_editor(config, |_| true)),
        placed,
    })
}

fn read_placed(config: &ConfigMap, key: &str) -> Placed {
    let field = format!("f:{key}");
    Placed::Seen {
        resource_version: config.resource_version().unwrap_or_default(),
        text: config.data.as_ref().and_then(|data| data.get(key).cloned()),
        generation: config
            .annotations()
            .get(ANNOTATION_GENERATION)
            .and_then(|text| text.strip_prefix(key)?.strip_prefix('@')?.parse().ok()),
        editor: read_editor(config, |data| data.get(&field).is_some()),
    }
}

/// Reads the routing and the HAProxy pods only, for the time in which clients are held.
///
/// # Errors
/// The API server does not answer in time or refuses.
pub async fn fetch_traffic(
    client: &Client,
    migration: &ClusterMigration,
) -> Result<(Routing, Vec<ProxyPodPlace>), Error> {
    tokio::try_join!(fetch_routing(client, migration), list_proxies(client, migration))
}

/// Lists the HAProxy pods.
///
/// # Errors
/// The API server does not answer in time or refuses.
pub async fn list_proxies(client: &Client, migration: &ClusterMigration) -> Result<Vec<ProxyPodPlace>, Error> {
    let Some(traffic) = &migration.spec.traffic else {
        return Ok(Vec::new());
    };
    let namespace = migration.metadata.namespace.as_deref().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    // What cannot be a label is refused when it is decided on.
    let Ok(selector) = haproxy_selector(migration, &traffic.haproxy) else {
        return Ok(Vec::new());
    };
    let found = within(pods.list(&ListParams::default().labels(&selector))).await?;
    let mut places = Vec::new();
    for pod in &found.items {
        let Some(mut place) = proxy_place(pod) else { continue };
        if traffic.haproxy.own.is_some()
            && let Some(spec) = &pod.spec
        {
            place.misfits = find_misfits(spec, migration);
        }
        places.push(place);
    }
    Ok(places)
}

struct Lister<'a> {
    client: &'a Client,
    namespace: &'a str,
    selector: String,
}

impl Lister<'_> {
    async fn list<K>(&self) -> Result<Vec<K>, Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        let labels = ListParams::default().labels(&self.selector);
        Ok(within(api.list(&labels)).await?.items)
    }

    /// Pods of the migration. Those of Jobs carry the Job's labels only, so they are found by the Jobs' names.
    async fn list_pods(&self, migration: &ClusterMigration) -> Result<Vec<Pod>, Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
        let mut pods = self.list::<Pod>().await?;
        let of_jobs = ListParams::default().labels("batch.kubernetes.io/job-name");
        let prefix = format!("{}-", migration.metadata.name.as_deref().unwrap_or_default());
        pods.extend(
            within(api.list(&of_jobs))
                .await?
                .items
                .into_iter()
                .filter(|pod| pod.name_any().starts_with(&prefix)),
        );
        Ok(pods)
    }

    async fn get<K>(&self, name: &str) -> Result<Vec<K>, Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        Ok(within(api.get_opt(name)).await?.into_iter().collect())
    }
}

fn note<K: ResourceExt>(objects: &mut Objects, kind: Kind, found: &[K]) {
    for object in found {
        let hash = object.annotations().get(ANNOTATION_HASH).cloned().unwrap_or_default();
        objects.applied.insert((kind, object.name_any()), hash);
    }
}

fn note_service(objects: &mut Objects, service: &Service) {
    let name = service.name_any();
    let spec = service.spec.as_ref();
    if let Some(ip) = spec
        .and_then(|spec| spec.cluster_ip.clone())
        .filter(|ip| ip != "None" && !ip.is_empty())
    {
        objects.cluster_ips.insert(name.clone(), ip);
    }
    let port = spec
        .and_then(|spec| spec.ports.as_ref()?.first()?.node_port)
        .and_then(|port| u16::try_from(port).ok());
    if let Some(port) = port {
        objects.node_ports.insert(name.clone(), port);
    }
    let ingress = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref()?.first().cloned());
    if let Some(address) = ingress.and_then(|ingress| ingress.ip.or(ingress.hostname)) {
        objects.load_balancers.insert(name, address);
    }
}

fn note_pod(objects: &mut Objects, pod: &Pod) {
    let member = pod.labels().get(LABEL_MEMBER);
    let job = pod.labels().get("batch.kubernetes.io/job-name");
    if let (Some(member), None) = (member, job) {
        objects
            .pod_roles
            .insert(member.clone(), pod.labels().get(LABEL_ROLE).cloned());
    }
    if let (Some(owner), Some(problem)) = (job.or(member), find_problem(pod)) {
        objects.pod_problems.insert(owner.clone(), problem);
    }
}

/// What keeps a pod from starting, as a sentence.
fn find_problem(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .and_then(|condition| condition.message.clone());
    if unscheduled.is_some() {
        return unscheduled;
    }
    let container = status.container_statuses.as_ref()?.first()?;
    let state = container.state.as_ref()?;
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    matches!(
        reason,
        "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "CreateContainerConfigError"
            | "CreateContainerError"
            | "CrashLoopBackOff"
            | "RunContainerError"
    )
    .then(|| {
        let ended = container
            .last_state
            .as_ref()
            .and_then(|last| last.terminated.as_ref()?.message.clone());
        let message = ended.or_else(|| waiting.message.clone()).unwrap_or_default();
        format!("{reason}: {}", shorten(&message))
    })
}

fn job_state(job: &Job, pods: &[Pod]) -> JobState {
    let name = job.name_any();
    // What the last of its pods said that has ended.
    let said = || {
        let its = pods
            .iter()
            .filter(|pod| pod.labels().get("batch.kubernetes.io/job-name") == Some(&name));
        let ended = its.filter_map(|pod| {
            let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
            let ended = container.state.as_ref()?.terminated.as_ref()?;
            Some((pod.metadata.creation_timestamp.as_ref().map(|time| time.0), ended))
        });
        let (_, last) = ended.max_by_key(|(created, _)| *created)?;
        last.message.clone()
    };
    let is = |kind: &str| {
        job.status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    if is("Complete") {
        JobState::Succeeded(said().unwrap_or_default())
    } else if is("Failed") {
        JobState::Failed(shorten(&said().unwrap_or_default()))
    } else {
        let failed = job.status.as_ref().and_then(|status| status.failed).unwrap_or(0) > 0;
        JobState::Running(failed.then(|| shorten(&said().unwrap_or_default())))
    }
}

/// The last words of a text, on one line.
fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = line.chars().count().saturating_sub(400);
    line.chars().skip(skip).collect()
}

/// Who last wrote such data of a ConfigMap besides the operator.
fn read_editor(config: &ConfigMap, such: impl Fn(&Value) -> bool) -> Option<String> {
    let writes_data = |entry: &&ManagedFieldsEntry| {
        let data = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:data"));
        entry.manager.as_deref() != Some(FIELD_MANAGER) && data.is_some_and(&such)
    };
    let entries = config.managed_fields().iter().filter(writes_data);
    let last = entries.max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
    last.manager.clone()
}

/// A routing that cannot be read is as good as none: it is written anew, with a higher generation than any agent has seen of it.
fn read_routing(config: &ConfigMap) -> Option<Desired> {
    Desired::from_data(config.data.as_ref()?).ok()
}

/// Pods that may serve clients: those with an address that are not ending. One that never became ready serves nobody yet.
fn proxy_place(pod: &Pod) -> Option<ProxyPodPlace> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    has_started(pod).then(|| {
        Some(ProxyPodPlace {
            name: pod.name_any(),
            ip: status.pod_ip.clone()?,
            node_ip: status.host_ip.clone().unwrap_or_default(),
            misfits: Vec::new(),
            refreshed: pod
                .annotations()
                .get(ANNOTATION_REFRESHED)
                .and_then(|text| text.parse().ok()),
        })
    })?
}

/// Whether a container of a pod runs. One that has ended may have given its address to another pod.
pub fn has_started(pod: &Pod) -> bool {
    let containers = pod
        .status
        .iter()
        .filter_map(|status| status.container_statuses.as_ref());
    containers.flatten().any(|container| container.started == Some(true))
}
