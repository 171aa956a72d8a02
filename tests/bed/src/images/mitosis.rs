//! The operator's image: the program as cargo builds it on this host, on top of the libraries of the same Debian release.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Built;
use super::debian::Debian;
use super::layout::{Layout, pack};
use crate::cache::Cache;
use crate::command::{bounded, run};
use crate::progress::Progress;

const REVISION: &[u8] = b"2";
const NAME: &str = "mitosis:dev";
const ENTRY: &str = "image-mitosis-dev";

#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

pub(super) fn build(binary: Option<&Path>, cache: &Cache, progress: &Progress) -> Result<Built> {
    let binary = match binary {
        Some(binary) => binary.to_owned(),
        None => compile(progress)?,
    };
    let program = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let debian = Debian {
        suite: host_suite()?,
        packages: ["libc6", "libgcc-s1", "ca-certificates"].map(str::to_owned).into(),
        ..Debian::default()
    };
    // Apart, so that a new program does not have the packages fetched again.
    let base = cache.entry("base-mitosis", &[REVISION, debian.source().as_bytes()], |folder| {
        progress.step(
            "images",
            format!("making the base of {NAME} from Debian {}", debian.suite),
        );
        let root = folder.join("root.tar");
        debian.write(&root)?;
        Layout::new(folder, NAME)?.layer(&root)?;
        Ok(fs::remove_file(root)?)
    })?;
    let entry = cache.entry(ENTRY, &[REVISION, debian.source().as_bytes(), &program], |folder| {
        progress.step("images", format!("making {NAME}"));
        let (root, archive) = (folder.join("root"), folder.join("program.tar"));
        let programs = root.join("usr/local/bin");
        fs::create_dir_all(&programs)?;
        fs::write(programs.join("mitosis"), &program)?;
        for path in [
            &root,
            &root.join("usr"),
            &root.join("usr/local"),
            &programs,
            &programs.join("mitosis"),
        ] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        pack(&root, &archive)?;
        let settings = ["user=65532:65532", "entrypoint=/usr/local/bin/mitosis"];
        Layout::on(&base, folder, NAME)?
            .layer(&archive)?
            .configure(&settings)?
            .finish()?;
        fs::remove_file(archive)?;
        Ok(fs::remove_dir_all(root)?)
    })?;
    cache.keep_only(ENTRY, &entry)?;
    Built::in_entry(NAME, &entry)
}

/// Has cargo build the program in the checkout of the current folder: the same artifact that the tests need, built once.
fn compile(progress: &Progress) -> Result<PathBuf> {
    progress.step("images", "cargo builds mitosis");
    let cargo = || {
        bounded(
            env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            Duration::from_mins(30),
        )
    };
    let release = env::var("MITOSIS_PROFILE").is_ok_and(|profile| profile == "release");
    // The tests end the operator where they like; a release cannot be told to.
    let (profile, folder) = if release {
        ("--release", "release/mitosis")
    } else {
        ("--features=crash-points", "debug/mitosis")
    };
    run(cargo().args(["build", "-p", "pg-mitosis", "--bin", "mitosis", profile]))
        .context("cannot build the operator: run it inside the checkout, and see that `cargo build` works")?;
    let metadata = run(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Metadata = serde_json::from_str(&metadata)?;
    Ok(metadata.target_directory.join(folder))
}

/// Code name of the host's Debian release, whose C library the program is linked to.
fn host_suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release")?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(suite
        .context("no VERSION_CODENAME in /etc/os-release: use a Debian host")?
        .trim_matches('"')
        .to_owned())
}
