//! The running cluster.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::binaries::Binaries;
use crate::command::{bounded, run, run_with_input};
use crate::components;
use crate::configuration;
use crate::images::{self, Built};
use crate::network::{self, NODE};
use crate::pki;
use crate::process;
use crate::progress::Progress;
use crate::state::State;
use crate::teardown;
use crate::wait;

const START_LIMIT: Duration = Duration::from_mins(1);
const KUBECTL_LIMIT: Duration = Duration::from_mins(5);
const HELM_LIMIT: Duration = Duration::from_mins(10);
const CONTAINERD_LIMIT: Duration = Duration::from_mins(5);

/// A one-node Kubernetes that runs on this host.
#[derive(Clone, Debug)]
pub struct Cluster {
    state: State,
    progress: Progress,
}

impl Cluster {
    /// Starts the components that do not run yet, and waits until pods can run. Containers need the images `pause` and `busybox`.
    pub(crate) fn start(state: &State, binaries: &Binaries, needed: &[Built], progress: Progress) -> Result<Self> {
        teardown::clear_what_cannot_be_continued(state, &progress)?;
        configuration::write(state)?;
        components::link_programs(state, binaries)?;
        pki::make(state)?;
        network::make()?;
        process::forget_ended(state, &components::NAMES)?;
        let cluster = Self {
            state: state.clone(),
            progress,
        };
        for component in components::base(state, binaries) {
            cluster.start_component(&component)?;
        }
        thread::scope(|scope| {
            let import = scope.spawn(|| needed.iter().try_for_each(|image| cluster.load_image(image)));
            cluster.wait_for("the API server", || {
                Ok(cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok())
            })?;
            import
                .join()
                .map_err(|_| anyhow::anyhow!("the import of images broke off"))?
        })?;
        progress.step("kubernetes", "API ready");
        for component in components::rest(state, binaries) {
            cluster.start_component(&component)?;
        }
        cluster.apply(&configuration::first_objects())?;
        cluster.wait_until_usable()?;
        progress.step("kubernetes", format!("{NODE} ready"));
        Ok(cluster)
    }

    /// The cluster that runs already.
    ///
    /// Errors: one of its components does not run.
    pub fn attach() -> Result<Self> {
        let state = State::open()?;
        ensure!(
            state.kubeconfig().exists(),
            "no test bed in {}: run `bed up` first",
            state.root().display()
        );
        for name in components::NAMES {
            process::ensure_running(&state, name)?;
        }
        Ok(Self {
            state,
            progress: Progress::start(),
        })
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.kubeconfig()
    }

    /// The state folder.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Runs `kubectl` as administrator and returns its output.
    ///
    /// Errors: it fails, or takes longer than five minutes.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.program("kubectl", KUBECTL_LIMIT).args(arguments))
    }

    /// Applies manifests (YAML or JSON) on behalf of the bed, and returns what `kubectl` says.
    ///
    /// Errors: a manifest is refused.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        let arguments = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=mitosis-bed",
            "-f",
            "-",
        ];
        run_with_input(self.program("kubectl", KUBECTL_LIMIT).args(arguments), manifests)
    }

    /// Runs `helm` as administrator and returns its output.
    ///
    /// Errors: it fails, or takes longer than ten minutes.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        run(self.program("helm", HELM_LIMIT).args(arguments))
    }

    /// Makes the namespace, and waits until pods can be made in it.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"
        ))?;
        let what = format!("the default service account of {name}");
        self.wait_for(&what, || {
            Ok(self
                .kubectl(&["get", "serviceaccount", "default", "--namespace", name])
                .is_ok())
        })
    }

    /// Gives the image to the node, unless it has this very image under this name.
    ///
    /// Errors: the import fails.
    pub fn load_image(&self, image: &Built) -> Result<()> {
        let reference = images::reference(&image.name);
        if self.has_image(&reference, &image.digest)? {
            return Ok(());
        }
        let (base, _) = reference.rsplit_once(':').unwrap_or((&reference, ""));
        run(self
            .containerd(&["images", "import", "--base-name", base])
            .arg(&image.archive))?;
        // The node's image list follows containerd's; a pod made before would try to pull the image.
        let advice = "see the log of containerd in the state folder";
        wait::until(&reference, Duration::from_secs(30), advice, || {
            self.has_image(&reference, &image.digest)
        })?;
        self.progress.step("images", format!("{} imported", image.name));
        Ok(())
    }

    fn has_image(&self, reference: &str, digest: &str) -> Result<bool> {
        let list = run(&mut self.containerd(&["images", "list"]))?;
        Ok(list.lines().any(|line| {
            line.split_whitespace().next() == Some(reference)
                && line.contains(digest)
                && line.contains("io.cri-containerd.image=managed")
        }))
    }

    /// The client of containerd, for the containers of Kubernetes.
    fn containerd(&self, arguments: &[&str]) -> Command {
        let mut command = containerd_client(&self.state);
        command.args(arguments);
        command
    }

    fn program(&self, name: &str, limit: Duration) -> Command {
        let mut command = bounded(self.state.programs().join(name), limit);
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    fn start_component(&self, component: &process::Component) -> Result<()> {
        if component.start(&self.state)? {
            self.progress.step("kubernetes", format!("{} started", component.name));
        }
        if component.name == "containerd" {
            // Images are imported next.
            self.wait_for("containerd", || Ok(run(&mut self.containerd(&["version"])).is_ok()))?;
        }
        Ok(())
    }

    fn wait_until_usable(&self) -> Result<()> {
        let ready = [
            "get",
            "node",
            NODE,
            "-o",
            "jsonpath={.status.conditions[?(@.type=='Ready')].status}",
        ];
        self.wait_for("the node", || {
            Ok(self.kubectl(&ready).is_ok_and(|status| status == "True"))
        })?;
        let dns = SocketAddr::from(([127, 0, 0, 1], 8181));
        self.wait_for("the DNS server", || Ok(wait::http_ok(dns, "/ready")))?;
        let proxy = SocketAddr::from(([127, 0, 0, 1], 10256));
        self.wait_for("the service proxy", || Ok(wait::http_ok(proxy, "/healthz")))?;
        for name in components::NAMES {
            process::ensure_running(&self.state, name)?;
        }
        Ok(())
    }

    /// Waits for a condition of the cluster, and no longer when a component that was started has ended.
    fn wait_for(&self, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
        let advice = format!("see the logs in {}", self.state.path("logs").display());
        wait::until(what, START_LIMIT, &advice, || {
            if condition()? {
                return Ok(true);
            }
            for record in fs::read_dir(self.state.path("run"))? {
                let name = record?.file_name().to_string_lossy().into_owned();
                if components::NAMES.contains(&name.as_str()) {
                    process::ensure_running(&self.state, &name)?;
                }
            }
            Ok(false)
        })
    }
}

/// The client of the bed's containerd, for the containers of Kubernetes.
pub(crate) fn containerd_client(state: &State) -> Command {
    let mut command = bounded("ctr", CONTAINERD_LIMIT);
    command
        .arg("--address")
        .arg(socket(state))
        .args(["--namespace", "k8s.io"]);
    command
}

/// The socket of the bed's containerd.
pub(crate) fn socket(state: &State) -> PathBuf {
    state.path("containerd.sock")
}

/// Each component and whether it runs.
#[must_use]
pub fn status(state: &State) -> Vec<(&'static str, bool)> {
    components::NAMES
        .map(|name| (name, process::is_running(state, name)))
        .into()
}

/// What a shell evaluates to use the cluster.
#[must_use]
pub fn environment(state: &State) -> String {
    let quote = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    format!(
        "export KUBECONFIG={}\nexport PATH={}:\"$PATH\"",
        quote(&state.kubeconfig()),
        quote(&state.programs())
    )
}
