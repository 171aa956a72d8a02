//! An object as it shall be.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
};

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::api::{ANNOTATION_HASH, ClusterMigration, GROUP, LABEL_COMPONENT, LABEL_MIGRATION};

/// Kinds of objects that a migration makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are Kubernetes' own.
pub enum Kind {
    ConfigMap,
    Deployment,
    Job,
    PersistentVolumeClaim,
    PodDisruptionBudget,
    Role,
    RoleBinding,
    Service,
    ServiceAccount,
    StatefulSet,
}

impl Kind {
    /// How the API server calls the kind.
    #[must_use]
    pub fn api_resource(self) -> ApiResource {
        let (group, kind, plural) = match self {
            Self::ConfigMap => ("", "ConfigMap", "configmaps"),
            Self::Deployment => ("apps", "Deployment", "deployments"),
            Self::Job => ("batch", "Job", "jobs"),
            Self::PersistentVolumeClaim => ("", "PersistentVolumeClaim", "persistentvolumeclaims"),
            Self::PodDisruptionBudget => ("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::Role => ("rbac.authorization.k8s.io", "Role", "roles"),
            Self::RoleBinding => ("rbac.authorization.k8s.io", "RoleBinding", "rolebindings"),
            Self::Service => ("", "Service", "services"),
            Self::ServiceAccount => ("", "ServiceAccount", "serviceaccounts"),
            Self::StatefulSet => ("apps", "StatefulSet", "statefulsets"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural)
    }
}

/// An object as it shall be, with the hash of itself as an annotation.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Hash of the body, to see whether the cluster has it already.
    pub hash: String,
    /// The whole object for server-side apply.
    pub body: Value,
}

impl Wanted {
    /// An object from its parts; `body` holds everything but apiVersion, kind and metadata.
    #[must_use]
    pub fn new(kind: Kind, migration: &ClusterMigration, name: &str, component: &str, mut body: Value) -> Self {
        let resource = kind.api_resource();
        let owner = migration.metadata.name.clone().unwrap_or_default();
        body["apiVersion"] = json!(resource.api_version);
        body["kind"] = json!(resource.kind);
        body["metadata"]["name"] = json!(name);
        body["metadata"]["namespace"] = json!(migration.metadata.namespace);
        body["metadata"]["labels"][LABEL_MIGRATION] = json!(owner);
        body["metadata"]["labels"][LABEL_COMPONENT] = json!(component);
        body["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("mitosis");
        let mut hasher = DefaultHasher::new();
        body.to_string().hash(&mut hasher);
        let hash = format!("{:016x}", hasher.finish());
        body["metadata"]["annotations"][ANNOTATION_HASH] = json!(hash);
        Self {
            kind,
            name: name.to_owned(),
            hash,
            body,
        }
    }

    /// The same object, collected by Kubernetes when the migration is deleted: for throw-away objects only.
    #[must_use]
    pub fn owned_by(mut self, migration: &ClusterMigration) -> Self {
        self.body["metadata"]["ownerReferences"] = json!([{
            "apiVersion": format!("{GROUP}/v1alpha1"),
            "kind": "ClusterMigration",
            "name": migration.metadata.name,
            "uid": migration.metadata.uid,
        }]);
        self
    }
}

/// Security of every container: restricted, as the Pod Security Standards name it.
pub(super) fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// Security of every pod.
pub(super) fn pod_security(user: i64) -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}
