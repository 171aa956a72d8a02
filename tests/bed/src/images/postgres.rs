//! PostgreSQL as in its official image: user 999, the major version's programs on the search path.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::Built;
use super::debian::Debian;
use super::layout::{self, Layout};
use crate::cache::Cache;
use crate::progress::Progress;

/// Changes when the way in which the image is put together does.
const REVISION: &[u8] = b"1";
const ROOT: &str = "root.tar";

/// The root file system of `postgres:<major>` as a folder in the cache. It is shared: copy or overlay it, and never write to it.
///
/// Errors: Debian has no such version, or a package cannot be had.
pub fn postgres_rootfs(major: u8, cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let entry = entry(major, cache, progress)?;
    let name = format!("rootfs-postgres-{major}");
    cache.entry(&name, &[debian(major)?.source().as_bytes()], |folder| {
        progress.step("images", format!("unpacking postgres:{major}"));
        layout::unpack(&entry.join(ROOT), folder)
    })
}

pub(super) fn build(major: u8, cache: &Cache, progress: &Progress) -> Result<Built> {
    Built::in_entry(&format!("postgres:{major}"), &entry(major, cache, progress)?)
}

fn entry(major: u8, cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let debian = debian(major)?;
    let name = format!("postgres:{major}");
    cache.entry(
        &format!("image-postgres-{major}"),
        &[REVISION, debian.source().as_bytes()],
        |folder| {
            progress.step("images", format!("making {name} from Debian {}", debian.suite));
            let root = folder.join(ROOT);
            debian.write(&root)?;
            let path = format!(
                "env=PATH=/usr/lib/postgresql/{major}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            );
            let settings = [
                "user=999:999",
                &path,
                "env=LANG=en_US.utf8",
                "stopsignal=SIGINT",
                "cmd=postgres",
            ];
            Layout::new(folder, &name)?
                .layer(&root)?
                .configure(&settings)?
                .finish()?;
            // Readable by all, for those who use the root file system without being root.
            Ok(fs::set_permissions(
                folder,
                std::os::unix::fs::PermissionsExt::from_mode(0o755),
            )?)
        },
    )
}

fn debian(major: u8) -> Result<Debian> {
    let suite = match major {
        15 => "bookworm",
        17 => "trixie",
        18 => "forky",
        _ => bail!("no Debian release has PostgreSQL {major}: use 15, 17 or 18"),
    };
    let debian = Debian {
        suite: suite.to_owned(),
        packages: vec![format!("postgresql-{major}"), "locales".to_owned()],
        // Just-in-time compilation is most of the size; PostgreSQL does without when its library is missing.
        exclude: vec![
            "/usr/lib/*/libLLVM*",
            "/usr/lib/llvm-*",
            "/usr/lib/*/libz3.so*",
            "/usr/lib/postgresql/*/lib/bitcode/*",
            "/usr/lib/postgresql/*/lib/llvmjit*",
        ],
        before: vec![
            "mkdir --parents \"$1/etc/postgresql-common\" && echo 'create_main_cluster = false' \
             > \"$1/etc/postgresql-common/createcluster.conf\""
                .to_owned(),
        ],
        after: vec![
            "chroot \"$1\" localedef --inputfile=en_US --charmap=UTF-8 en_US.UTF-8 && rm --recursive \"$1/usr/share/i18n\"".to_owned(),
            "install --directory --owner=999 --group=999 --mode=3777 \"$1/var/run/postgresql\"".to_owned(),
        ],
    };
    Ok(debian.user("postgres", 999, "/var/lib/postgresql"))
}
