//! Taking the cluster down so that nothing of it stays on the host.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::components;
use crate::containers;
use crate::iptables;
use crate::mounts;
use crate::network::{self, POD_NETWORK};
use crate::process;
use crate::progress::Progress;
use crate::state::State;
use crate::wait;

/// How long a process that is asked to end may take before it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// Names the format and the start of the host; there while the bed is made or up.
const MADE: &str = "made";
/// The same while the bed is taken down.
const UNMADE: &str = "unmade";
/// Changes when this program can no longer continue with a state folder of its predecessor.
const FORMAT: &str = "1";
/// Kept when the rest of the state folder goes: the lock is held meanwhile.
const LOCK_FILES: [&str; 2] = ["lock", "owner.json"];

/// Clears a state folder that was made before the host was started, by another format of this program, or half taken down.
///
/// What a killed `up` has left is continued instead: every step of it is done whole or not at all.
pub(crate) fn clear_what_cannot_be_continued(state: &State, progress: &Progress) -> Result<()> {
    let present = format!(
        "{FORMAT} {}",
        fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim()
    );
    let holds = |file: &str| fs::read_to_string(state.path(file)).is_ok_and(|found| found == present);
    if holds(MADE) {
        return Ok(());
    }
    let kept = |name: &OsStr| name == "containerd" || LOCK_FILES.iter().any(|file| name == *file);
    let is_down = fs::read_dir(state.root())?.all(|entry| entry.is_ok_and(|entry| kept(&entry.file_name())));
    if !is_down {
        progress.step("kubernetes", "clearing what an earlier run has left");
        if holds(UNMADE) {
            down(state, progress)?;
        } else {
            remove_everything(state, false)?;
        }
    }
    let fresh = state.path("made.new");
    fs::write(&fresh, present)?;
    Ok(fs::rename(fresh, state.path(MADE))?)
}

/// Stops the cluster and removes all of it, except the images that containerd holds.
pub(crate) fn down(state: &State, progress: &Progress) -> Result<()> {
    if state.path(MADE).exists() {
        fs::rename(state.path(MADE), state.path(UNMADE))?;
    }
    let clean = containers::stop_pods(state, progress);
    if let Err(error) = &clean {
        progress.step(
            "kubernetes",
            format!("the images go too, since containers stay: {error:#}"),
        );
    }
    remove_everything(state, clean.is_ok())
}

/// Ends processes by their records, then removes what they have made. Works on any remainder of a bed, after a crash too.
fn remove_everything(state: &State, keep_images: bool) -> Result<()> {
    for name in components::NAMES.iter().rev() {
        process::stop(state, name, GRACE)?;
    }
    let groups = containers::pod_groups()?;
    containers::end_containers(state, &groups)?;
    mounts::unmount_under(state.root())?;
    network::remove()?;
    iptables::remove()?;
    for group in groups {
        let what = format!("the end of {}", group.display());
        // The kernel takes a moment to forget ended processes.
        wait::until(&what, GRACE, "see which processes it lists", || {
            Ok(containers::remove_group(&group).is_ok())
        })?;
    }
    remove_traces(state)?;
    // First, since the rest says whether its records are in order.
    let images = state.path("containerd");
    if !keep_images && images.exists() {
        fs::remove_dir_all(images)?;
    }
    for entry in fs::read_dir(state.root())? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "containerd" || LOCK_FILES.iter().any(|file| name == *file) {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        }
        .with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Removes the files that components keep at fixed places outside the state folder.
fn remove_traces(state: &State) -> Result<()> {
    for link in files("/var/log/containers")? {
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(state.root())) {
            fs::remove_file(link)?;
        }
    }
    // What the network plugins have answered, for each pod about our network and about its loopback interface.
    for result in files("/var/lib/cni/results")? {
        let name = result.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ours = name
            .strip_prefix(POD_NETWORK)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.split_once('-'));
        if let Some((sandbox, _)) = ours {
            fs::remove_file(&result)?;
            let loopback = result.with_file_name(format!("cni-loopback-{sandbox}-lo"));
            if loopback.exists() {
                fs::remove_file(loopback)?;
            }
        }
    }
    // Sockets of shims: those of living ones, which may be of another containerd, can be connected to.
    for shim in files("/run/containerd/s")? {
        if UnixStream::connect(&shim).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            fs::remove_file(shim)?;
        }
    }
    Ok(())
}

fn files(folder: &str) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    Ok(entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?)
}
