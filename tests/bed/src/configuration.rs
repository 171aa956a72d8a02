//! Configuration files of the components, written into the state folder.

use std::fs;

use anyhow::Result;
use serde_json::json;

use crate::images;
use crate::network::{BRIDGE, GATEWAY, POD_NETWORK, PODS};
use crate::state::State;

/// The volume provisioner's helper image.
pub(crate) const HELPER_IMAGE: &str = "busybox:1";

/// Users that have a kubeconfig, each named as its certificate.
const USERS: [&str; 5] = ["admin", "controllers", "scheduler", "proxy", "kubelet"];

/// Writes all configuration files.
pub(crate) fn write(state: &State) -> Result<()> {
    for folder in [
        "conf",
        "cni",
        "logs",
        "run",
        "volumes",
        "pod-logs",
        "volume-plugins",
        "bin",
    ] {
        fs::create_dir_all(state.path(folder))?;
    }
    for user in USERS {
        fs::write(state.path(&format!("conf/{user}.kubeconfig")), kubeconfig(state, user))?;
    }
    fs::write(state.path("cni/10-pods.conflist"), pod_network(state))?;
    fs::write(state.path("conf/containerd.toml"), containerd(state))?;
    fs::write(state.path("conf/audit.json"), audit_policy())?;
    fs::write(state.path("conf/kubelet.yaml"), kubelet(state))?;
    fs::write(state.path("conf/resolv.conf"), "nameserver 127.0.0.1\n")?;
    fs::write(state.path("conf/Corefile"), corefile(state))?;
    fs::write(state.path("conf/volumes.json"), volumes(state))?;
    Ok(fs::write(state.path("conf/helper-pod.yaml"), helper_pod().to_string())?)
}

fn kubeconfig(state: &State, user: &str) -> String {
    let pki = state.text("pki");
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bed", "cluster": {"server": "https://127.0.0.1:6443", "certificate-authority": format!("{pki}/ca.crt")}}],
        "users": [{"name": user, "user": {
            "client-certificate": format!("{pki}/{user}.crt"),
            "client-key": format!("{pki}/{user}.key"),
        }}],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": user}}],
        "current-context": "bed",
    })
    .to_string()
}

/// What service accounts of the namespace under test ask of the API server is on record, so that a test can hold it against their rights.
pub(crate) fn audit_policy() -> String {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts:shop"]}, {"level": "None"}],
    })
    .to_string()
}

fn pod_network(state: &State) -> String {
    json!({"cniVersion": "0.4.0", "name": POD_NETWORK, "plugins": [
        {"type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {
            "type": "host-local",
            // Inside the state folder, so that addresses are free again when the bed is gone.
            "dataDir": state.text("pod-addresses"),
            "ranges": [[{"subnet": PODS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
    .to_string()
}

pub(crate) fn containerd(state: &State) -> String {
    let root = state.root().display();
    let pause = images::reference("pause:1");
    // Without CAP_SYS_RESOURCE every pod sandbox fails ("can't get final child's PID from pipe: EOF"), unless the adjustment is restricted.
    format!(
        r#"version = 2
root = "{root}/containerd"
state = "{root}/containerd-state"
[grpc]
  address = "{root}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{root}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "{root}/runc"
"#
    )
}

pub(crate) fn kubelet(state: &State) -> String {
    let pki = state.text("pki");
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{pki}/ca.crt")},
        },
        "tlsCertFile": format!("{pki}/kubelet.crt"),
        "tlsPrivateKeyFile": format!("{pki}/kubelet.key"),
        // Hosts with control groups of version 1 need both.
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDomain": "cluster.local",
        "clusterDNS": [GATEWAY],
        "containerRuntimeEndpoint": format!("unix://{}", state.text("containerd.sock")),
        "resolvConf": state.text("conf/resolv.conf"),
        "podLogsDir": state.text("pod-logs"),
        "volumePluginDir": state.text("volume-plugins"),
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        // Images cannot be pulled again, so none is ever collected.
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": false,
        "maxPods": 200,
    })
    .to_string()
}

pub(crate) fn corefile(state: &State) -> String {
    let pki = state.text("pki");
    format!(
        ".:53 {{
  bind {GATEWAY}
  kubernetes cluster.local {{
    endpoint https://127.0.0.1:6443
    tls {pki}/admin.crt {pki}/admin.key {pki}/ca.crt
  }}
  ready 127.0.0.1:8181
  cache 2
}}
"
    )
}

pub(crate) fn volumes(state: &State) -> String {
    json!({"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [state.text("volumes")]}]})
        .to_string()
}

fn helper_pod() -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "helper-pod"},
        "spec": {"containers": [{"name": "helper-pod", "image": HELPER_IMAGE, "imagePullPolicy": "IfNotPresent"}]},
    })
}

/// What the cluster holds from the start: the default storage class and what the provisioner's helper pods run.
pub(crate) fn first_objects() -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "standard", "annotations": {
                "storageclass.kubernetes.io/is-default-class": "true",
                // Unlike hostPath volumes, local ones honour fsGroup.
                "defaultVolumeType": "local",
            }},
            "provisioner": "rancher.io/local-path",
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "local-path-config", "namespace": "kube-system"},
            "data": {
                "setup": "#!/bin/sh\nset -eu\nmkdir -m 0777 -p \"$VOL_DIR\"\n",
                "teardown": "#!/bin/sh\nset -eu\nrm -rf \"$VOL_DIR\"\n",
                "helperPod.yaml": helper_pod().to_string(),
            },
        },
    ]})
    .to_string()
}
