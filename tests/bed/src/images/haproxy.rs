//! HAProxy as in its official image: user 99, ended softly by `SIGUSR1`.

use anyhow::{Result, bail};

use super::Built;
use super::debian::Debian;
use super::layout::Layout;
use crate::cache::Cache;
use crate::progress::Progress;

const REVISION: &[u8] = b"1";

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
    let name = format!("haproxy:{version}");
    let entry = cache.entry(
        &format!("image-haproxy-{version}"),
        &[REVISION, debian.source().as_bytes()],
        |folder| {
            progress.step("images", format!("making {name} from Debian {suite}"));
            let root = folder.join("root.tar");
            debian.write(&root)?;
            let settings = [
                "user=99:99",
                "env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "stopsignal=SIGUSR1",
                "cmd=haproxy",
                "cmd=-f",
                "cmd=/usr/local/etc/haproxy/haproxy.cfg",
            ];
            Layout::new(folder, &name)?
                .layer(&root)?
                .configure(&settings)?
                .finish()?;
            Ok(std::fs::remove_file(root)?)
        },
    )?;
    Built::in_entry(&name, &entry)
}
