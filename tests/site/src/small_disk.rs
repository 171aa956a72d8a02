//! A disk that can be full without filling the host's.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::run;
use crate::state::remove_file;

const DEADLINE: Duration = Duration::from_secs(30);
/// What takes the space.
const FILLER: &str = "filler";

/// A file system of its own size over a folder, kept in memory. What the folder held before is hidden until this is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts an empty one of this many bytes.
    pub fn mount(folder: &Path, bytes: u64) -> Result<Self> {
        Self::remove(folder)?;
        let options = format!("size={bytes},mode=755");
        let arguments = ["-t", "tmpfs", "-o", &options, "mitosis-small-disk"].map(AsRef::as_ref);
        run(DEADLINE, "mount", arguments.into_iter().chain([folder.as_os_str()]))?;
        Ok(Self(folder.to_owned()))
    }

    /// Takes away what a killed run has left over a folder; nothing to do where there is none.
    pub fn remove(folder: &Path) -> Result<()> {
        while is_mounted(folder) {
            // Whoever still works on it keeps it until the end of that work.
            run(DEADLINE, "umount", ["--lazy".as_ref(), folder.as_os_str()])?;
        }
        Ok(())
    }

    /// Takes every free byte, once more what became free since.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.0.join(FILLER))?;
        // The last bytes with the least block of a file system.
        for block in [vec![0; 1 << 20], vec![0; 4096]] {
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).with_context(|| format!("cannot fill {}", self.0.display())),
                }
            }
        }
        Ok(())
    }

    /// Gives the space free again.
    pub fn empty(&self) -> Result<()> {
        remove_file(&self.0.join(FILLER))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = Self::remove(&self.0) {
            eprintln!("{error:#}");
        }
    }
}

fn is_mounted(folder: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    device(folder).is_some() && device(folder) != folder.parent().and_then(device)
}
