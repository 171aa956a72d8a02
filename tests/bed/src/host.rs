//! What the bed needs of the host, checked before anything is made, so that a host which cannot run it says so at once.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use procfs::{Current as _, Meminfo};

use crate::cache::Cache;
use crate::command::{bounded, run, run_with_input};
use crate::progress::Progress;
use crate::state::State;

/// Debian packages of the node and of the image builder.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "etcd-server",
    "iproute2",
    "iptables",
    "mmdebstrap",
    "runc",
    "umoci",
];
const MINIMUM_DISK: u64 = 6 << 30;
/// Less than 4 GiB, since the kernel keeps some of a 4 GiB machine for itself.
const MINIMUM_MEMORY: u64 = 3_700 << 20;
const KERNEL_LIMIT: Duration = Duration::from_secs(20);

/// Checks the host, and installs the Debian packages that are missing.
///
/// Errors: one for the first thing that is missing, saying what to change.
pub fn prepare(state: &State, cache: &Cache, progress: &Progress) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "not root: run it as root, it starts containers and sets up networks"
    );
    let memory = Meminfo::current()?.mem_total;
    ensure!(
        memory >= MINIMUM_MEMORY,
        "the host has {} MiB of memory: give it 4 GiB",
        memory >> 20
    );
    enough_disk(state.root())?;
    enough_disk(cache.root())?;
    install_packages(progress)?;
    check_cgroups()?;
    check_overlay()?;
    check_links()?;
    check_iptables()
}

fn enough_disk(folder: &Path) -> Result<()> {
    let disk = rustix::fs::statvfs(folder)?;
    let free = disk.f_bavail * disk.f_frsize;
    ensure!(
        free >= MINIMUM_DISK,
        "{} has {} MiB free: make room for {} MiB, or choose another place with MITOSIS_BED_STATE and MITOSIS_CACHE",
        folder.display(),
        free >> 20,
        MINIMUM_DISK >> 20
    );
    Ok(())
}

fn install_packages(progress: &Progress) -> Result<()> {
    let known = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(PACKAGES)
        .output()
        .context("no dpkg-query: use a Debian host, the bed is made from Debian packages")?;
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    let installed = |package: &str| known.lines().any(|line| line == format!("{package} installed"));
    let missing: Vec<&str> = PACKAGES.iter().copied().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    progress.step("host", format!("installing {}", missing.join(" ")));
    let apt = |limit| {
        let mut command = bounded("apt-get", limit);
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-o", "DPkg::Lock::Timeout=300"]);
        command
    };
    run(apt(Duration::from_mins(10)).arg("update"))?;
    run(apt(Duration::from_mins(20))
        .args(["install", "--yes", "--no-install-recommends"])
        .args(missing))?;
    Ok(())
}

fn check_cgroups() -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let unified = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    for controller in ["cpu", "memory", "pids"] {
        let there = root.join(controller).is_dir() || unified.split_whitespace().any(|name| name == controller);
        ensure!(
            there,
            "the control group controller {controller} is missing in {}: mount it, or enable it in the kernel",
            root.display()
        );
    }
    Ok(())
}

fn check_overlay() -> Result<()> {
    let supported = || {
        fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.lines().any(|line| line.ends_with("\toverlay")))
    };
    if !supported() {
        // Loading fails where modules are not allowed; what counts is what is there afterwards.
        Command::new("modprobe").arg("overlay").output().ok();
    }
    ensure!(
        supported(),
        "the kernel has no overlay file system: load the module overlay"
    );
    Ok(())
}

fn check_links() -> Result<()> {
    let filter = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if !filter.exists() {
        Command::new("modprobe").arg("br_netfilter").output().ok();
    }
    for kind in ["bridge", "veth"] {
        let name = "mitosis-check";
        run(bounded("ip", KERNEL_LIMIT).args(["link", "add", name, "type", kind]))
            .with_context(|| format!("the kernel makes no {kind} interface: load the module {kind}"))?;
        run(bounded("ip", KERNEL_LIMIT).args(["link", "delete", name]))?;
    }
    ensure!(
        filter.exists(),
        "{} is missing: load the kernel module br_netfilter",
        filter.display()
    );
    Ok(())
}

fn check_iptables() -> Result<()> {
    // Never put into effect: --test has every match and target resolved, and the kernel asked for the table.
    let rules = "*nat\n:MITOSIS-CHECK - [0:0]\n-A MITOSIS-CHECK -m comment --comment x -m statistic --mode random --probability 0.5 \
        -j MARK --or-mark 0x4000\n-A MITOSIS-CHECK -p tcp -m conntrack --ctstate NEW -j DNAT --to-destination 10.244.0.2:80\n\
        -A POSTROUTING -j MASQUERADE\nCOMMIT\n";
    if let Err(error) = run_with_input(
        bounded("iptables-restore", KERNEL_LIMIT).args(["--noflush", "--test"]),
        rules,
    ) {
        bail!(
            "iptables cannot translate addresses here: load the modules of netfilter (nat, comment, statistic, conntrack): {error}"
        );
    }
    Ok(())
}
