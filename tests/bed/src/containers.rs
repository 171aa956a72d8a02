//! Ending pods and their containers: in order while that is possible, and in any case.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use procfs::process::{Process, all_processes};

use crate::cluster::{containerd_client, socket};
use crate::command::{bounded, run};
use crate::components;
use crate::process;
use crate::progress::Progress;
use crate::state::State;
use crate::teardown::GRACE;
use crate::wait;

/// Ends all pods and removes their containers from containerd's records, after which its images can be used again.
///
/// The kubelet stops them, as long as it and the API server run; else they are killed. A containerd that has ended is started for it.
pub(crate) fn stop_pods(state: &State, progress: &Progress) -> Result<()> {
    // These would make new pods for the deleted ones.
    for name in ["provisioner", "scheduler", "controllers"] {
        process::stop(state, name, GRACE)?;
    }
    if !state.path("conf/containerd.toml").exists() {
        return Ok(());
    }
    components::containerd(state).start(state)?;
    wait::until(
        "containerd",
        Duration::from_secs(20),
        "see its log in the state folder",
        || {
            process::ensure_running(state, "containerd")?;
            Ok(run(containerd_client(state).arg("version")).is_ok())
        },
    )?;
    if ["apiserver", "kubelet"]
        .iter()
        .all(|name| process::is_running(state, name))
        && !tasks(state)?.is_empty()
    {
        match delete_pods(state) {
            Ok(()) => progress.step("kubernetes", "pods stopped"),
            Err(error) => progress.step(
                "kubernetes",
                format!("pods are killed, since they do not stop: {error:#}"),
            ),
        }
    }
    // Or it would start containers again.
    process::stop(state, "kubelet", GRACE)?;
    for task in tasks(state)?.lines() {
        run(containerd_client(state).args(["tasks", "kill", "--all", "--signal", "SIGKILL", task])).ok();
    }
    let containers = || run(containerd_client(state).args(["containers", "list", "--quiet"]));
    wait::until("the end of the containers", GRACE, "they are killed now", || {
        for container in containers()?.lines() {
            run(containerd_client(state).args(["tasks", "delete", "--force", container])).ok();
            run(containerd_client(state).args(["containers", "delete", container])).ok();
        }
        Ok(containers()?.is_empty())
    })
}

fn delete_pods(state: &State) -> Result<()> {
    let mut kubectl = bounded(state.programs().join("kubectl"), Duration::from_mins(1));
    let arguments = [
        "delete",
        "pods",
        "--all",
        "--all-namespaces",
        "--wait=false",
        "--grace-period=1",
    ];
    run(kubectl.env("KUBECONFIG", state.kubeconfig()).args(arguments))?;
    let advice = "see the log of the kubelet in the state folder";
    wait::until("the end of the pods", Duration::from_secs(30), advice, || {
        Ok(tasks(state)?.is_empty())
    })
}

fn tasks(state: &State) -> Result<String> {
    run(containerd_client(state).args(["tasks", "list", "--quiet"]))
}

/// Ends the processes of pods, and the shims that containerd has started for them.
pub(crate) fn end_containers(state: &State, groups: &[PathBuf]) -> Result<()> {
    let socket = socket(state).into_os_string();
    let is_shim = |process: &Process| {
        let command = process.cmdline().unwrap_or_default();
        command
            .first()
            .is_some_and(|program| program.contains("containerd-shim"))
            && command.iter().any(|word| socket == word.as_str())
    };
    // Shims last: they take note of the end of their containers' processes, without which those stay as zombies.
    for group in groups {
        for pid in members(group)? {
            end_now(pid)?;
        }
    }
    for process in all_processes()?.flatten() {
        if is_shim(&process) {
            end_now(process.pid)?;
        }
    }
    Ok(())
}

fn end_now(pid: i32) -> Result<()> {
    process::start_time(pid).map_or(Ok(()), |start| process::end(pid, start, Duration::ZERO))
}

/// The control groups of all pods: one, or one per controller in version 1.
pub(crate) fn pod_groups() -> Result<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    let mut groups = vec![root.join("kubepods")];
    for entry in fs::read_dir(root)? {
        groups.push(entry?.path().join("kubepods"));
    }
    groups.retain(|group| group.is_dir());
    Ok(groups)
}

fn members(group: &Path) -> Result<Vec<i32>> {
    let mut pids: Vec<i32> = fs::read_to_string(group.join("cgroup.procs"))?
        .lines()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    for child in subgroups(group)? {
        pids.extend(members(&child)?);
    }
    Ok(pids)
}

pub(crate) fn remove_group(group: &Path) -> Result<()> {
    for child in subgroups(group)? {
        remove_group(&child)?;
    }
    Ok(fs::remove_dir(group)?)
}

fn subgroups(group: &Path) -> Result<Vec<PathBuf>> {
    let mut groups = Vec::new();
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            groups.push(entry.path());
        }
    }
    Ok(groups)
}
