//! Root file systems of Debian packages.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::command::{bounded, run};

const LIMIT: Duration = Duration::from_mins(20);

/// What a root file system is made of.
#[derive(Debug, Default)]
pub(super) struct Debian {
    /// Code name of the Debian release.
    pub(super) suite: String,
    /// Packages beside the essential ones.
    pub(super) packages: Vec<String>,
    /// Files that packages do not unpack, beside documentation and translations.
    pub(super) exclude: Vec<&'static str>,
    /// Shell commands before the packages are installed; `$1` is the root.
    pub(super) before: Vec<String>,
    /// Shell commands at the end; `$1` is the root.
    pub(super) after: Vec<String>,
}

impl Debian {
    /// Everything that the result depends on.
    pub(super) fn source(&self) -> String {
        format!("{self:?}")
    }

    /// Adds a user and its group, with the same number, before a package would make them with another.
    pub(super) fn user(mut self, name: &str, id: u32, home: &str) -> Self {
        self.before.push(format!(
            "echo '{name}:x:{id}:{id}::{home}:/bin/sh' >> \"$1/etc/passwd\" && echo '{name}:x:{id}:' >> \"$1/etc/group\" \
             && echo '{name}:!:19000::::::' >> \"$1/etc/shadow\""
        ));
        self
    }

    /// Writes the root file system as an archive.
    pub(super) fn write(&self, archive: &Path) -> Result<()> {
        let folder = archive.with_extension("tmp");
        fs::create_dir(&folder)?;
        // The builder drops its privileges for downloads and must get through to its folder.
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let mut command = bounded("mmdebstrap", LIMIT);
        command
            .arg("--variant=essential")
            .env("TMPDIR", &folder)
            .env("SOURCE_DATE_EPOCH", "0");
        if !self.packages.is_empty() {
            command.arg(format!("--include={}", self.packages.join(",")));
        }
        // The lists of testing are valid for a week only; a host with another date may still use them.
        command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
        let unneeded = [
            "/usr/share/doc/*",
            "/usr/share/man/*",
            "/usr/share/locale/*",
            "/usr/share/info/*",
        ];
        for path in unneeded.iter().chain(&self.exclude) {
            command.arg(format!("--dpkgopt=path-exclude={path}"));
        }
        command.args(self.before.iter().map(|hook| format!("--essential-hook={hook}")));
        command.args(self.after.iter().map(|hook| format!("--customize-hook={hook}")));
        run(command.arg(&self.suite).arg(archive))?;
        Ok(fs::remove_dir_all(folder)?)
    }
}
