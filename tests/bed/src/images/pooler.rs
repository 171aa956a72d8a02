//! Poolers, user 70: PgBouncer, which reads `/etc/pgbouncer/pgbouncer.ini`, and PgPool2, which reads `/etc/pgpool2/`.

use anyhow::{Result, bail};

use super::Built;
use super::debian::Debian;
use super::packaged::Packaged;
use crate::cache::Cache;
use crate::progress::Progress;

pub(super) fn build_pgbouncer(version: &str, cache: &Cache, progress: &Progress) -> Result<Built> {
    let suite = match version {
        "1.18" => "bookworm",
        "1.24" => "trixie",
        _ => bail!("no Debian release for PgBouncer {version}: use 1.18 or 1.24"),
    };
    let command = [
        "user=70:70",
        "stopsignal=SIGINT",
        "cmd=pgbouncer",
        "cmd=/etc/pgbouncer/pgbouncer.ini",
    ];
    build("pgbouncer", version, suite, &command, cache, progress)
}

pub(super) fn build_pgpool(version: &str, cache: &Cache, progress: &Progress) -> Result<Built> {
    let suite = match version {
        "4.3" => "bookworm",
        "4.6" => "trixie",
        _ => bail!("no Debian release for PgPool2 {version}: use 4.3 or 4.6"),
    };
    let command = ["user=70:70", "stopsignal=SIGINT", "cmd=pgpool", "cmd=-n"];
    build("pgpool2", version, suite, &command, cache, progress)
}

fn build(
    package: &str,
    version: &str,
    suite: &str,
    settings: &[&str],
    cache: &Cache,
    progress: &Progress,
) -> Result<Built> {
    Packaged {
        name: package,
        version,
        debian: Debian {
            suite: suite.to_owned(),
            packages: vec![package.to_owned()],
            ..Debian::default()
        },
        settings,
    }
    .build(cache, progress)
}
