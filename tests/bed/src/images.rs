//! Container images made from Debian packages, without a container engine.

mod busybox;
mod debian;
mod haproxy;
mod layout;
mod mitosis;
mod packaged;
mod pooler;
mod postgres;

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Error, Result, bail};

use crate::cache::Cache;
use crate::progress::Progress;

pub use postgres::postgres_rootfs;

/// An image that the bed can make.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Image {
    /// `postgres:<major>`: PostgreSQL 15, 17 or 18, user 999.
    Postgres(u8),
    /// `haproxy:<version>`: HAProxy 2.6 or 3.0, user 99.
    Haproxy(&'static str),
    /// `pgbouncer:<version>`: PgBouncer 1.18 or 1.24, user 70.
    Pgbouncer(&'static str),
    /// `pgpool2:<version>`: PgPool2 4.3 or 4.6, user 70.
    Pgpool(&'static str),
    /// `busybox:1`: a shell and small tools.
    Busybox,
    /// `pause:1`: holds the namespaces of a pod.
    Pause,
    /// `mitosis:dev`: the operator.
    Mitosis {
        /// The program, dynamically linked to the host's C library; nothing means that cargo builds it from the checkout of the current folder.
        binary: Option<PathBuf>,
    },
}

/// An image in the cache.
#[derive(Clone, Debug)]
pub struct Built {
    /// Name as in a pod, such as `postgres:15`.
    pub name: String,
    /// The image as an archive of the OCI layout.
    pub archive: PathBuf,
    /// Digest of the manifest, such as `sha256:…`.
    pub digest: String,
}

impl Image {
    /// The HAProxy that Debian has beside this PostgreSQL major version: 2.6 beside 15, 3.0 beside later ones.
    #[must_use]
    pub fn haproxy_beside(postgres: u8) -> Self {
        Self::Haproxy(if postgres == 15 { "2.6" } else { "3.0" })
    }

    /// Makes the image unless it is in the cache.
    ///
    /// Errors: the version is none of those that Debian has, or a package cannot be had.
    pub fn build(&self, cache: &Cache, progress: &Progress) -> Result<Built> {
        match self {
            Self::Postgres(major) => postgres::build(*major, cache, progress),
            Self::Haproxy(version) => haproxy::build(version, cache, progress),
            Self::Pgbouncer(version) => pooler::build_pgbouncer(version, cache, progress),
            Self::Pgpool(version) => pooler::build_pgpool(version, cache, progress),
            Self::Busybox => busybox::busybox(cache, progress),
            Self::Pause => busybox::pause(cache, progress),
            Self::Mitosis { binary } => mitosis::build(binary.as_deref(), cache, progress),
        }
    }
}

impl FromStr for Image {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "mitosis" => Self::Mitosis { binary: None },
            "postgres:15" => Self::Postgres(15),
            "postgres:17" => Self::Postgres(17),
            "postgres:18" => Self::Postgres(18),
            "haproxy:2.6" => Self::Haproxy("2.6"),
            "haproxy:3.0" => Self::Haproxy("3.0"),
            "pgbouncer:1.18" => Self::Pgbouncer("1.18"),
            "pgbouncer:1.24" => Self::Pgbouncer("1.24"),
            "pgpool2:4.3" => Self::Pgpool("4.3"),
            "pgpool2:4.6" => Self::Pgpool("4.6"),
            "busybox" => Self::Busybox,
            "pause" => Self::Pause,
            _ => bail!(
                "no image {text}: use mitosis, postgres:15, 17 or 18, haproxy:2.6 or 3.0, pgbouncer:1.18 or 1.24, \
                 pgpool2:4.3 or 4.6, busybox or pause"
            ),
        })
    }
}

impl Built {
    fn in_entry(name: &str, entry: &Path) -> Result<Self> {
        let digest = fs::read_to_string(entry.join(layout::DIGEST))
            .with_context(|| format!("{} is not whole: remove it", entry.display()))?;
        Ok(Self {
            name: name.to_owned(),
            archive: entry.join(layout::ARCHIVE),
            digest,
        })
    }
}

/// The full name that an unqualified image name of a pod stands for.
pub(crate) fn reference(name: &str) -> String {
    format!("docker.io/library/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood() {
        assert_eq!("postgres:17".parse::<Image>().unwrap(), Image::Postgres(17));
        assert!("postgres:9".parse::<Image>().is_err());
    }
}
