//! Images of a single static program: `busybox` and `pause`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Built;
use super::layout::{Layout, pack};
use crate::cache::Cache;
use crate::command::{bounded, run};
use crate::progress::Progress;

const REVISION: &[u8] = b"1";
/// Of the Debian package busybox-static.
const PROGRAM: &str = "/bin/busybox";

pub(super) fn busybox(cache: &Cache, progress: &Progress) -> Result<Built> {
    build("busybox", &["cmd=sh"], cache, progress)
}

pub(super) fn pause(cache: &Cache, progress: &Progress) -> Result<Built> {
    let settings = [
        "user=65535:65535",
        "entrypoint=/bin/busybox",
        "entrypoint=sleep",
        "entrypoint=2147483647",
    ];
    build("pause", &settings, cache, progress)
}

fn build(name: &str, settings: &[&str], cache: &Cache, progress: &Progress) -> Result<Built> {
    let image = format!("{name}:1");
    let program = fs::read(PROGRAM)
        .with_context(|| format!("cannot read {PROGRAM}: install the Debian package busybox-static"))?;
    let entry = cache.entry(
        &format!("image-{name}"),
        &[REVISION, settings.join(" ").as_bytes(), &program],
        |folder| {
            progress.step("images", format!("making {image}"));
            let root = folder.join("root");
            write_root(&root)?;
            let archive = folder.join("root.tar");
            pack(&root, &archive)?;
            Layout::new(folder, &image)?
                .layer(&archive)?
                .configure(settings)?
                .finish()?;
            fs::remove_file(archive)?;
            Ok(fs::remove_dir_all(root)?)
        },
    )?;
    Built::in_entry(&image, &entry)
}

fn write_root(root: &Path) -> Result<()> {
    let programs = root.join("bin");
    fs::create_dir_all(&programs)?;
    fs::copy(PROGRAM, programs.join("busybox"))?;
    for applet in run(bounded(PROGRAM, Duration::from_secs(10)).arg("--list"))?
        .lines()
        .filter(|name| *name != "busybox")
    {
        symlink("busybox", programs.join(applet))?;
    }
    fs::create_dir(root.join("etc"))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::create_dir(root.join("tmp"))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    for folder in [root, &programs, &root.join("etc")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
