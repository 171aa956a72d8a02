//! Unmounting what is mounted below a folder.

use std::path::Path;

use anyhow::{Context as _, Result};
use procfs::process::Process;
use rustix::mount::{UnmountFlags, unmount};

/// Unmounts everything that is mounted on or below `folder`, the innermost first.
///
/// The mounts are detached at once, and gone when their last user is.
pub(crate) fn unmount_under(folder: &Path) -> Result<()> {
    let folder = folder.canonicalize()?;
    let mounts = Process::myself()?.mountinfo()?.0;
    let below = mounts
        .into_iter()
        .map(|mount| mount.mount_point)
        .filter(|point| point.starts_with(&folder));
    for point in below.collect::<Vec<_>>().iter().rev() {
        unmount(point, UnmountFlags::DETACH).with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}
