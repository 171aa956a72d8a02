//! HAProxy as in its official image: user 99, ended softly by `SIGUSR1`.

use anyhow::{Result, bail};

use super::Built;
use super::debian::Debian;
use super::packaged::Packaged;
use crate::cache::Cache;
use crate::progress::Progress;

pub(super) fn build(version: &str, cache: &Cache, progress: &Progress) -> Result<Built> {
    let suite = match version {
        "2.6" => "bookworm",
        "3.0" => "trixie",
        _ => bail!("no Debian release for HAProxy {version}: use 2.6 or 3.0"),
    };
    let debian = Debian {
        suite: suite.to_owned(),
        packages: vec!["haproxy".to_owned()],
        // The package makes the user itself, with a number that happens to be free.
        after: vec![
            "chroot \"$1\" groupmod --gid 99 haproxy && chroot \"$1\" usermod --uid 99 --gid 99 haproxy \
             && chroot \"$1\" chown --recursive 99:99 /var/lib/haproxy"
                .to_owned(),
        ],
        ..Debian::default()
    };
    Packaged {
        name: "haproxy",
        version,
        debian,
        settings: &[
            "user=99:99",
            "stopsignal=SIGUSR1",
            "cmd=haproxy",
            "cmd=-f",
            "cmd=/usr/local/etc/haproxy/haproxy.cfg",
        ],
    }
    .build(cache, progress)
}
