//! The state folder: what is kept between calls and across killed runs.

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::command::wait_until;
use crate::member::Member;
use crate::process::Process;
use crate::small_disk::SmallDisk;

const LOCK_DEADLINE: Duration = Duration::from_mins(3);
const LOCK_POLL: Duration = Duration::from_millis(50);
/// Says which state folder the site on this host belongs to; gone after a reboot, as the namespaces are.
const OWNER: &str = "/run/mitosis-site";

/// The state folder of the test bed: `$MITOSIS_BED_STATE`, else `/var/lib/mitosis-bed`.
#[must_use]
pub fn default_state() -> PathBuf {
    std::env::var_os("MITOSIS_BED_STATE").map_or_else(|| PathBuf::from("/var/lib/mitosis-bed"), PathBuf::from)
}

/// The passwords of the site's roles, made once per state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Of the superuser `mitosis`.
    pub mitosis: String,
    /// Of `app`, the owner of the database `app`.
    pub app: String,
    /// Of `replica`, which the standbys of the site replicate as.
    pub replica: String,
}

/// What the running site was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) major: u16,
    pub(crate) rootfs: PathBuf,
    pub(crate) toxiproxy: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    folder: PathBuf,
}

impl State {
    /// Makes the folder if need be.
    pub(crate) fn open(bed: &Path) -> Result<Self> {
        let folder = bed.join("site");
        fs::create_dir_all(folder.join("run"))
            .with_context(|| format!("cannot make the state folder {}: run as root", folder.display()))?;
        Ok(Self {
            folder: folder.canonicalize()?,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder with the disks of the running machines.
    pub(crate) fn disks(&self) -> PathBuf {
        self.path("disks")
    }

    pub(crate) fn disk(&self, member: Member) -> PathBuf {
        self.disks().join(member.name())
    }

    /// Removes the disks of machines that are off.
    pub(crate) fn remove_disks(&self) -> Result<()> {
        for member in Member::ALL {
            // A killed run may have left it on a small one.
            SmallDisk::remove(&self.disk(member))?;
        }
        remove_folder(&self.disks())
    }

    /// Where a machine or a program of the site records its process.
    pub(crate) fn process_record(&self, name: &str) -> PathBuf {
        self.path("run").join(name)
    }

    /// Held while the site is changed; another caller waits.
    pub(crate) fn lock(&self) -> Result<File> {
        let file = File::create(self.path("lock"))?;
        wait_until(
            "the lock of the site, held by another command",
            LOCK_DEADLINE,
            LOCK_POLL,
            || match file.try_lock() {
                Ok(()) => Ok(true),
                Err(TryLockError::WouldBlock) => Ok(false),
                Err(TryLockError::Error(error)) => Err(error.into()),
            },
        )?;
        Ok(file)
    }

    pub(crate) fn credentials(&self) -> Result<Credentials> {
        let file = self.path("credentials.json");
        if let Ok(text) = fs::read_to_string(&file) {
            return serde_json::from_str(&text).with_context(|| format!("{} is damaged: remove it", file.display()));
        }
        let made = Credentials {
            mitosis: password()?,
            app: password()?,
            replica: password()?,
        };
        fs::write(&file, serde_json::to_string_pretty(&made)?)?;
        Ok(made)
    }

    pub(crate) fn running(&self) -> Result<Running> {
        let text = fs::read_to_string(self.path("running.json")).context("the site is not up: call up first")?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(crate) fn set_running(&self, running: &Running) -> Result<()> {
        Ok(fs::write(self.path("running.json"), serde_json::to_string(running)?)?)
    }

    pub(crate) fn clear_running(&self) -> Result<()> {
        remove_file(&self.path("running.json"))?;
        remove_file(Path::new(OWNER))
    }

    /// Takes the site's names on this host for this folder.
    pub(crate) fn own(&self) -> Result<()> {
        Ok(fs::write(OWNER, self.folder.as_os_str().as_encoded_bytes())?)
    }

    /// The state folder of another site that is up on this host.
    pub(crate) fn foreign_site(&self) -> Option<PathBuf> {
        let folder = PathBuf::from(fs::read_to_string(OWNER).ok()?);
        let other = Self { folder };
        let alive = Member::ALL
            .iter()
            .any(|member| Process::recorded(&other.process_record(member.name())).is_some_and(Process::is_alive));
        (alive && other.folder != self.folder).then_some(other.folder)
    }
}

/// Removes a file that may be absent.
pub(crate) fn remove_file(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a folder that may be absent.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn password() -> Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
}
