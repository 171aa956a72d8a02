//! Where the running bed keeps its files.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The state folder: `$MITOSIS_BED_STATE`, else `/var/lib/mitosis-bed`.
#[derive(Clone, Debug)]
pub struct State {
    root: PathBuf,
}

impl State {
    /// Opens the state folder.
    ///
    /// Errors: it cannot be made.
    pub fn open() -> Result<Self> {
        let root = env::var_os("MITOSIS_BED_STATE")
            .filter(|value| !value.is_empty())
            .map_or_else(|| PathBuf::from("/var/lib/mitosis-bed"), PathBuf::from);
        fs::create_dir_all(&root).with_context(|| {
            format!(
                "cannot make the state folder {}: become root, or set MITOSIS_BED_STATE to another",
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

    /// A file or folder inside.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The same as text, for configuration files and command lines.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("conf/admin.kubeconfig")
    }

    /// The folder with `kubectl` and `helm`.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.path("bin")
    }
}
