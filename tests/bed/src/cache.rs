//! What is costly to make and does not change with the checkout: built programs, container images, root file systems.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::mounts;

/// A folder of finished things, each under its name and the digest of what it is made from: a change makes a new one and nothing else does.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens `$MITOSIS_CACHE`, else `mitosis` in `$XDG_CACHE_HOME`, else `.cache/mitosis` in `$HOME`.
    ///
    /// Errors: none of them is set, or the folder cannot be made.
    pub fn open() -> Result<Self> {
        let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = folder("MITOSIS_CACHE")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("mitosis")))
            .or_else(|| folder("HOME").map(|home| home.join(".cache/mitosis")))
            .context("no folder for the cache: set MITOSIS_CACHE to a folder")?;
        Self::at(&root)
    }

    fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| {
            format!(
                "cannot make the cache folder {}: set MITOSIS_CACHE to another",
                root.display()
            )
        })?;
        Ok(Self {
            root: root.canonicalize()?,
        })
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the entry `name` made from `sources`; when there is none yet, `make` fills it.
    ///
    /// The entry appears when it is whole. When several processes want the same entry, one makes it and the others wait for it.
    ///
    /// Errors: those of `make`, and of the file system.
    pub fn entry(&self, name: &str, sources: &[&[u8]], make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let name = format!("{name}-{}", digest(sources));
        let entry = self.root.join(&name);
        if entry.exists() {
            return Ok(entry);
        }
        let lock = File::create(self.root.join(format!(".{name}.lock")))?;
        // The maker is bounded in time by the commands that it runs, and so is this wait.
        lock.lock()?;
        if entry.exists() {
            return Ok(entry);
        }
        let partial = self.root.join(format!(".{name}.partial"));
        if partial.exists() {
            // Left by a killed process, maybe with mounts of a half-made root file system inside.
            mounts::unmount_under(&partial)?;
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir(&partial)?;
        if let Err(error) = make(&partial) {
            // The next attempt clears it anyhow, but there may be none with these sources.
            fs::remove_dir_all(&partial).ok();
            return Err(error);
        }
        fs::rename(&partial, &entry)?;
        Ok(entry)
    }

    /// Removes the entries of `name` other than `keep`: for what changes with every build and would fill the disk.
    pub fn keep_only(&self, name: &str, keep: &Path) -> Result<()> {
        let prefix = format!("{name}-");
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let older = file_name.to_str().and_then(|text| text.strip_prefix(&prefix));
            if older.is_some_and(|digest| digest.len() == DIGEST_LENGTH) && entry.path() != keep {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

const DIGEST_LENGTH: usize = 16;

/// The first 16 hexadecimal digits of the SHA-256 of the parts and their lengths.
#[must_use]
pub fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let mut text = format!("{:x}", hash.finalize());
    text.truncate(DIGEST_LENGTH);
    text
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    fn scratch(name: &str) -> Cache {
        Cache::at(&env::temp_dir().join(format!("mitosis-cache-{name}-{}", process::id()))).unwrap()
    }

    #[test]
    fn an_entry_is_made_once_for_the_same_sources() {
        let cache = scratch("once");
        let first = cache
            .entry("a", &[b"1"], |folder| Ok(fs::write(folder.join("x"), "y")?))
            .unwrap();
        let second = cache.entry("a", &[b"1"], |_| unreachable!()).unwrap();
        assert_eq!(first, second);
        let changed = cache.entry("a", &[b"2"], |_| Ok(())).unwrap();
        assert_ne!(first, changed);
        cache.keep_only("a", &changed).unwrap();
        assert!(!first.exists() && changed.exists());
        fs::remove_dir_all(cache.root()).unwrap();
    }

    #[test]
    fn a_failed_entry_is_not_there_and_can_be_made_again() {
        let cache = scratch("again");
        let make_half = |folder: &Path| {
            fs::write(folder.join("half"), "")?;
            anyhow::bail!("no")
        };
        assert!(cache.entry("a", &[], make_half).is_err());
        let entry = cache.entry("a", &[], |_| Ok(())).unwrap();
        assert!(!entry.join("half").exists());
        fs::remove_dir_all(cache.root()).unwrap();
    }

    #[test]
    fn parts_are_told_apart() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
    }
}
