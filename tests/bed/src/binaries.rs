//! The programs of the cluster, built from Go modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cache::Cache;
use crate::command::{bounded, run};
use crate::progress::Progress;

const KUBERNETES: &str = "1.34.4";
/// The Go module of the Kubernetes components, as committed.
const MODULE: [(&str, &str); 3] = [
    ("go.mod", include_str!("../../kubernetes/go.mod")),
    ("go.sum", include_str!("../../kubernetes/go.sum")),
    ("main.go", include_str!("../../kubernetes/main.go")),
];
/// A cold build of Kubernetes takes seven minutes on two idle cores.
const LIMIT: Duration = Duration::from_hours(1);

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Every Kubernetes component in one program: which one it is depends on the name it is called by.
    pub kubernetes: PathBuf,
    /// The DNS server.
    pub coredns: PathBuf,
    /// The package manager.
    pub helm: PathBuf,
    /// Makes volumes for claims.
    pub local_path_provisioner: PathBuf,
    /// Slows, cuts and drops connections between sites.
    pub toxiproxy: PathBuf,
}

impl Binaries {
    /// Builds what is not in the cache yet.
    ///
    /// Errors: there is no Go toolchain, or a build fails.
    pub fn build(cache: &Cache, progress: &Progress) -> Result<Self> {
        Ok(Self {
            kubernetes: kubernetes(cache, progress)?,
            coredns: install(cache, progress, "coredns", "github.com/coredns/coredns", "v1.15.0")?,
            helm: install(cache, progress, "helm", "helm.sh/helm/v3/cmd/helm", "v3.22.0")?,
            local_path_provisioner: install(
                cache,
                progress,
                "local-path-provisioner",
                "github.com/rancher/local-path-provisioner",
                "v0.0.30",
            )?,
            toxiproxy: toxiproxy(cache, progress)?,
        })
    }
}

/// Builds `toxiproxy-server` unless it is in the cache, and returns its path.
///
/// Errors: there is no Go toolchain, or the build fails.
pub fn toxiproxy(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    install(
        cache,
        progress,
        "toxiproxy-server",
        "github.com/Shopify/toxiproxy/v2/cmd/server",
        "v2.5.0",
    )
}

fn kubernetes(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let sources: Vec<&[u8]> = MODULE
        .iter()
        .map(|(_, text)| text.as_bytes())
        .chain([KUBERNETES.as_bytes()])
        .collect();
    let entry = cache.entry("kubernetes", &sources, |folder| {
        progress.step(
            "kubernetes",
            format!("building {KUBERNETES} (about ten minutes when nothing of it was built before)"),
        );
        let module = folder.join("module");
        fs::create_dir(&module)?;
        for (name, text) in MODULE {
            fs::write(module.join(name), text)?;
        }
        let (major, minor) = (1, KUBERNETES.split('.').nth(1).context("a version has a minor part")?);
        let version = "k8s.io/component-base/version";
        let flags = format!(
            "-s -w -X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
        );
        build(
            go()?
                .current_dir(&module)
                .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
                .arg(folder.join("kubernetes"))
                .arg("."),
        )
    })?;
    Ok(entry.join("kubernetes"))
}

/// Builds the program `package` of a Go module that is published, under the file name `name`.
fn install(cache: &Cache, progress: &Progress, name: &str, package: &str, version: &str) -> Result<PathBuf> {
    let target = format!("{package}@{version}");
    let entry = cache.entry(name, &[target.as_bytes()], |folder| {
        progress.step(name, format!("building {version}"));
        build(
            go()?
                .env("GOBIN", folder)
                .args(["install", "-trimpath", "-ldflags", "-s -w", &target]),
        )?;
        let built = folder.join(Path::new(package).file_name().context("a package has a name")?);
        Ok(fs::rename(built, folder.join(name))?)
    })?;
    Ok(entry.join(name))
}

fn go() -> Result<Command> {
    run(bounded("go", Duration::from_mins(1)).arg("version"))
        .context("the Go toolchain is missing: install Go 1.24 or later and put it on PATH")?;
    let mut command = bounded("go", LIMIT);
    // Neither flags nor a workspace of the surroundings may change what is built.
    command.env("CGO_ENABLED", "0").env("GOFLAGS", "").env("GOWORK", "off");
    Ok(command)
}

fn build(command: &mut Command) -> Result<()> {
    run(command).map(drop)
}
