//! The programs that make up the cluster, in the order of their start, with their arguments.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::binaries::Binaries;
use crate::configuration::{self, HELPER_IMAGE};
use crate::network::{GATEWAY, NODE, PODS, SERVICES};
use crate::process::Component;
use crate::state::State;

/// Names of all components in the order of their start.
pub(crate) const NAMES: [&str; 9] = [
    "etcd",
    "containerd",
    "apiserver",
    "controllers",
    "scheduler",
    "kubelet",
    "proxy",
    "dns",
    "provisioner",
];

/// Puts the programs into the state folder under the names by which they are called.
pub(crate) fn link_programs(state: &State, binaries: &Binaries) -> Result<()> {
    let kubernetes = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
        "kubelet",
        "kubectl",
    ];
    for name in kubernetes {
        link(state, name, &binaries.kubernetes)?;
    }
    link(state, "coredns", &binaries.coredns)?;
    link(state, "helm", &binaries.helm)?;
    link(state, "local-path-provisioner", &binaries.local_path_provisioner)?;
    link(state, "toxiproxy-server", &binaries.toxiproxy)
}

fn link(state: &State, name: &str, target: &Path) -> Result<()> {
    let link = state.programs().join(name);
    if fs::read_link(&link).is_ok_and(|present| present == target) {
        return Ok(());
    }
    let fresh = link.with_extension("new");
    if fresh.is_symlink() {
        fs::remove_file(&fresh)?;
    }
    symlink(target, &fresh)?;
    Ok(fs::rename(fresh, link)?)
}

/// etcd and containerd: what the others stand on, and the API server.
pub(crate) fn base(state: &State, binaries: &Binaries) -> [Component; 3] {
    let etcd = component(
        "etcd",
        PathBuf::from("etcd"),
        &format!(
            // Ports of its own, since the Debian package may run another etcd on the usual ones. Nothing here outlives a crash of the host.
            "--data-dir={} --unsafe-no-fsync --listen-client-urls=http://127.0.0.1:12379 --advertise-client-urls=http://127.0.0.1:12379 \
             --listen-peer-urls=http://127.0.0.1:12380 --initial-advertise-peer-urls=http://127.0.0.1:12380 \
             --initial-cluster=default=http://127.0.0.1:12380",
            state.text("etcd")
        ),
        String::new(),
    );
    let pki = state.text("pki");
    let apiserver = kubernetes(
        state,
        binaries,
        "apiserver",
        "kube-apiserver",
        &format!(
            "--etcd-servers=http://127.0.0.1:12379 --advertise-address={GATEWAY} --client-ca-file={pki}/ca.crt \
             --tls-cert-file={pki}/apiserver.crt --tls-private-key-file={pki}/apiserver.key \
             --service-account-issuer=https://kubernetes.default.svc --service-account-key-file={pki}/sa.pub \
             --service-account-signing-key-file={pki}/sa.key --service-cluster-ip-range={SERVICES} --authorization-mode=Node,RBAC \
             --enable-admission-plugins=NodeRestriction --allow-privileged=true --kubelet-client-certificate={pki}/admin.crt \
             --kubelet-client-key={pki}/admin.key --kubelet-preferred-address-types=InternalIP \
             --audit-policy-file={policy} --audit-log-path={log} --audit-log-maxsize=200",
            policy = state.text("conf/audit.json"),
            log = state.text("logs/audit.log"),
        ),
        configuration::audit_policy(),
    );
    [etcd, containerd(state), apiserver]
}

/// The runtime of containers.
pub(crate) fn containerd(state: &State) -> Component {
    component(
        "containerd",
        PathBuf::from("containerd"),
        &format!("--config={}", state.text("conf/containerd.toml")),
        configuration::containerd(state),
    )
}

/// What needs the API server to be ready.
pub(crate) fn rest(state: &State, binaries: &Binaries) -> [Component; 6] {
    let pki = state.text("pki");
    let conf = state.text("conf");
    let kubernetes = |name, component, arguments, configuration| {
        kubernetes(state, binaries, name, component, arguments, configuration)
    };
    [
        kubernetes(
            "controllers",
            "kube-controller-manager",
            &format!(
                "--kubeconfig={conf}/controllers.kubeconfig --service-account-private-key-file={pki}/sa.key --root-ca-file={pki}/ca.crt \
                 --use-service-account-credentials=true --leader-elect=false --flex-volume-plugin-dir={}",
                state.text("volume-plugins")
            ),
            String::new(),
        ),
        kubernetes(
            "scheduler",
            "kube-scheduler",
            &format!("--kubeconfig={conf}/scheduler.kubeconfig --leader-elect=false"),
            String::new(),
        ),
        kubernetes(
            "kubelet",
            "kubelet",
            &format!(
                "--config={conf}/kubelet.yaml --kubeconfig={conf}/kubelet.kubeconfig --hostname-override={NODE} --node-ip={GATEWAY} \
                 --root-dir={} --cert-dir={pki}",
                state.text("kubelet")
            ),
            configuration::kubelet(state),
        ),
        kubernetes(
            "proxy",
            "kube-proxy",
            &format!(
                "--kubeconfig={conf}/proxy.kubeconfig --proxy-mode=iptables --cluster-cidr={PODS} --hostname-override={NODE} \
                 --conntrack-max-per-core=0"
            ),
            String::new(),
        ),
        component(
            "dns",
            binaries.coredns.clone(),
            &format!("-conf={conf}/Corefile"),
            configuration::corefile(state),
        ),
        component(
            "provisioner",
            binaries.local_path_provisioner.clone(),
            &format!(
                "start --config={conf}/volumes.json --kubeconfig={conf}/admin.kubeconfig --namespace=kube-system \
                 --helper-image={HELPER_IMAGE} --helper-pod-file={conf}/helper-pod.yaml --service-account-name=default"
            ),
            configuration::volumes(state),
        ),
    ]
}

fn kubernetes(
    state: &State,
    binaries: &Binaries,
    name: &'static str,
    program: &str,
    arguments: &str,
    configuration: String,
) -> Component {
    // The link stays the same when the program changes, so the program is part of what a restart depends on.
    let configuration = configuration + &binaries.kubernetes.to_string_lossy();
    component(name, state.programs().join(program), arguments, configuration)
}

/// Arguments are separated by blanks, so the state folder's name must have none (see [`crate::bed`]).
fn component(name: &'static str, program: PathBuf, arguments: &str, configuration: String) -> Component {
    let arguments = arguments.split(' ').map(str::to_owned).collect();
    Component {
        name,
        program,
        arguments,
        configuration,
    }
}
