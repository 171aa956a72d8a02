//! PgPool2, user 70, which reads its configuration from `/etc/pgpool2/`.

use anyhow::{Result, bail};

use super::Built;
use super::debian::Debian;
use super::layout::Layout;
use crate::cache::Cache;
use crate::progress::Progress;

const REVISION: &[u8] = b"1";

pub(super) fn build(version: &str, cache: &Cache, progress: &Progress) -> Result<Built> {
    let suite = match version {
        "4.3" => "bookworm",
        "4.6" => "trixie",
        _ => bail!("no Debian release for PgPool2 {version}: use 4.3 or 4.6"),
    };
    let debian = Debian {
        suite: suite.to_owned(),
        packages: vec!["pgpool2".to_owned()],
        ..Debian::default()
    };
    let name = format!("pgpool2:{version}");
    let entry = cache.entry(
        &format!("image-pgpool2-{version}"),
        &[REVISION, debian.source().as_bytes()],
        |folder| {
            progress.step("images", format!("making {name} from Debian {suite}"));
            let root = folder.join("root.tar");
            debian.write(&root)?;
            let settings = [
                "user=70:70",
                "env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "stopsignal=SIGINT",
                "cmd=pgpool",
                "cmd=-n",
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
