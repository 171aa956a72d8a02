//! Images of the Open Container Initiative's layout, from layers and settings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::command::{bounded, run};

/// File of an entry in the cache: the image's archive.
pub(super) const ARCHIVE: &str = "image.tar";
/// File of an entry in the cache: the digest of the image's manifest.
pub(super) const DIGEST: &str = "digest";

const LAYOUT: &str = "layout";
const LIMIT: Duration = Duration::from_mins(10);

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

/// An image that is being made in a folder.
pub(super) struct Layout {
    folder: PathBuf,
    image: String,
}

impl Layout {
    /// Begins an image; the part of its name after the colon stays with the archive.
    pub(super) fn new(folder: &Path, name: &str) -> Result<Self> {
        let layout = folder.join(LAYOUT);
        let begun = Self::at(&layout, folder, name)?;
        run(umoci(&["init", "--layout"]).arg(&layout))?;
        run(&mut umoci(&["new", "--image", &begun.image]))?;
        Ok(begun)
    }

    /// Begins an image with the layers of another, which was left unfinished in `base` and has the same name.
    pub(super) fn on(base: &Path, folder: &Path, name: &str) -> Result<Self> {
        let layout = folder.join(LAYOUT);
        run(bounded("cp", LIMIT)
            .arg("--recursive")
            .arg(base.join(LAYOUT))
            .arg(&layout))?;
        Self::at(&layout, folder, name)
    }

    fn at(layout: &Path, folder: &Path, name: &str) -> Result<Self> {
        let (_, tag) = name.rsplit_once(':').context("an image name has a tag")?;
        Ok(Self {
            folder: folder.to_owned(),
            image: format!("{}:{tag}", layout.display()),
        })
    }

    /// Adds the files of an archive.
    pub(super) fn layer(self, archive: &Path) -> Result<Self> {
        run(umoci(&["raw", "add-layer", "--image", &self.image]).arg(archive))?;
        Ok(self)
    }

    /// Sets what containers of the image start as: `--config.` options of umoci.
    pub(super) fn configure(self, settings: &[&str]) -> Result<Self> {
        let settings = settings.iter().map(|setting| format!("--config.{setting}"));
        run(umoci(&["config", "--image", &self.image]).args(settings))?;
        Ok(self)
    }

    /// Writes the archive and the digest into the folder.
    pub(super) fn finish(self) -> Result<()> {
        let layout = self.folder.join(LAYOUT);
        run(umoci(&["gc", "--layout"]).arg(&layout))?;
        let index: Index = serde_json::from_str(&fs::read_to_string(layout.join("index.json"))?)?;
        let manifest = index.manifests.first().context("the image has no manifest")?;
        fs::write(self.folder.join(DIGEST), &manifest.digest)?;
        pack(&layout, &self.folder.join(ARCHIVE))?;
        Ok(fs::remove_dir_all(layout)?)
    }
}

/// Packs a folder into an archive in which everything belongs to root.
pub(super) fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let mut command = bounded("tar", LIMIT);
    command
        .args(["--create", "--owner=0", "--group=0", "--numeric-owner", "--file"])
        .arg(archive);
    run(command.arg("--directory").arg(folder).arg(".")).map(drop)
}

/// Unpacks an archive with its owners and modes.
pub(super) fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let mut command = bounded("tar", LIMIT);
    command
        .args(["--extract", "--preserve-permissions", "--numeric-owner", "--file"])
        .arg(archive);
    run(command.arg("--directory").arg(folder)).map(drop)
}

fn umoci(arguments: &[&str]) -> Command {
    let mut command = bounded("umoci", LIMIT);
    command.args(arguments);
    command
}
