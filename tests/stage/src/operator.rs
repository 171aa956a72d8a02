//! An operator as a process of the host, which a test ends or freezes where it likes. It sees the cluster as a pod does.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use mitosis::crash::Moment;

use crate::{NAMESPACE, Stage, until};

/// Seconds after which another one takes over.
pub const LEASE_SECONDS: u64 = 6;
/// Lease of these operators: that of the pod must not be in their way.
const LEASE: &str = "mitosis-test";
/// Where the cluster's names are resolved.
const RESOLVER: &str =
    "nameserver 10.244.0.1\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";

/// What happens to an operator at a point of its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Before or after.
    pub moment: Moment,
    /// Which effect, or `record-` and a step.
    pub what: String,
    /// Whether it is frozen (to be resumed) instead of ended.
    pub freeze: bool,
}

impl Trap {
    /// It ends there.
    #[must_use]
    pub fn abort(moment: Moment, what: &str) -> Self {
        Self {
            moment,
            what: what.to_owned(),
            freeze: false,
        }
    }

    /// It is frozen there.
    #[must_use]
    pub fn freeze(moment: Moment, what: &str) -> Self {
        Self {
            freeze: true,
            ..Self::abort(moment, what)
        }
    }

    fn render(&self) -> String {
        // Once only: a frozen one that goes on is not frozen again.
        let order = if self.freeze {
            "1*return(freeze)"
        } else {
            "return(abort)"
        };
        format!("{}={order}", self.moment.of(&self.what))
    }
}

/// A running operator. It is ended when this goes.
pub struct Operator {
    child: Child,
    name: String,
    /// What it wrote.
    pub log: PathBuf,
}

impl Operator {
    /// Starts an operator under a name, the same name of which takes the Lease back at once.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(stage: &Stage, name: &str, traps: &[Trap]) -> Result<Self> {
        let state = stage.cluster.state();
        let resolver = state.path("resolv-of-cluster.conf");
        fs::write(&resolver, RESOLVER)?;
        let log = state.path(&format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let traps: Vec<String> = traps.iter().map(Trap::render).collect();
        let program = program()?;
        let child = Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-c",
                "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"",
                "sh",
            ])
            .arg(&resolver)
            .arg(&program)
            .args(["operator", "--image=mitosis:dev", "--listen=127.0.0.1:0"])
            .args([
                format!("--namespace={NAMESPACE}"),
                format!("--watch-namespaces={NAMESPACE}"),
                format!("--pod={name}"),
                format!("--lease={LEASE}"),
                format!("--lease-seconds={LEASE_SECONDS}"),
            ])
            .env("KUBECONFIG", stage.cluster.kubeconfig())
            .env("FAILPOINTS", traps.join(";"))
            .env("MITOSIS_LOG", "info")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("the operator does not start")?;
        Ok(Self {
            child,
            name: name.to_owned(),
            log,
        })
    }

    /// Waits until it holds the Lease.
    ///
    /// # Errors
    /// It does not within 20 s.
    pub fn wait_until_leading(&self, stage: &Stage) -> Result<()> {
        until(&format!("{} leads", self.name), Duration::from_secs(20), || {
            let holder = stage.kubectl(&[
                "get",
                "lease",
                LEASE,
                "--ignore-not-found",
                "-o",
                "jsonpath={.spec.holderIdentity}",
            ])?;
            Ok(holder == self.name)
        })
    }

    /// Whether its process has ended.
    ///
    /// # Errors
    /// The system does not say.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Whether it is frozen.
    ///
    /// # Errors
    /// Its process is gone.
    pub fn is_frozen(&self) -> Result<bool> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        Ok(stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
    }

    /// Lets a frozen one go on.
    ///
    /// # Errors
    /// Its process is gone.
    pub fn resume(&self) -> Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill")
            .args([format!("-{signal}"), self.child.id().to_string()])
            .status()?;
        ensure!(status.success(), "{} is gone", self.name);
        Ok(())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program that can be trapped, as the bed's image holds it.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own
        .ancestors()
        .map(|folder| folder.join("mitosis"))
        .find(|program| program.is_file());
    found.with_context(|| {
        format!(
            "no program `mitosis` beside {}: run `cargo build -p pg-mitosis --features crash-points`",
            own.display()
        )
    })
}
