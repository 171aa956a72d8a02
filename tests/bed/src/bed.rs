//! The whole test bed: what happens in which order when it goes up and down.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::binaries::Binaries;
use crate::cache::Cache;
use crate::cluster::Cluster;
use crate::host;
use crate::images::Image;
use crate::lock::Lock;
use crate::progress::Progress;
use crate::state::State;
use crate::teardown;

/// Namespace of the application that is moved.
pub const NAMESPACE: &str = "shop";

/// The test bed of this host, held by this process until dropped. The cluster stays up when the hold ends.
#[derive(Debug)]
pub struct Bed {
    state: State,
    cache: Cache,
    progress: Progress,
    _lock: Lock,
}

impl Bed {
    /// Takes hold of the bed for `command` (a few words for others who want it), waiting for another holder at most `limit`.
    ///
    /// Errors: another process still holds it, or a folder of the bed cannot be made.
    pub fn lock(command: &str, limit: Duration) -> Result<Self> {
        let state = State::open()?;
        let path = state.root().to_string_lossy();
        ensure!(
            !path.contains([' ', '"', '\\']),
            "{path} has blanks, quotes or backslashes: set MITOSIS_BED_STATE to a plain folder"
        );
        let lock = Lock::take(&state, command, limit)?;
        Ok(Self {
            cache: Cache::open()?,
            progress: Progress::start(),
            _lock: lock,
            state,
        })
    }

    /// The cache of built things.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The progress lines of this bed.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Starts the cluster, or what is missing of it, with these images and the namespace [`NAMESPACE`].
    ///
    /// Errors: the host cannot run it, something cannot be built, or a component does not become ready.
    pub fn up(&self, images: &[Image]) -> Result<Cluster> {
        host::prepare(&self.state, &self.cache, &self.progress)?;
        let binaries = Binaries::build(&self.cache, &self.progress)?;
        let needed = [
            Image::Pause.build(&self.cache, &self.progress)?,
            Image::Busybox.build(&self.cache, &self.progress)?,
        ];
        let images = images
            .iter()
            .map(|image| image.build(&self.cache, &self.progress))
            .collect::<Result<Vec<_>>>()?;
        let cluster = Cluster::start(&self.state, &binaries, &needed, self.progress)?;
        for image in &images {
            cluster.load_image(image)?;
        }
        cluster.namespace(NAMESPACE)?;
        self.progress.step("bed", "up");
        Ok(cluster)
    }

    /// Builds the image and gives it to the running cluster.
    ///
    /// Errors: the cluster does not run, or the image cannot be built.
    pub fn image(&self, image: &Image) -> Result<()> {
        let cluster = Cluster::attach()?;
        cluster.load_image(&image.build(&self.cache, &self.progress)?)
    }

    /// Stops everything and removes what it has made on the host. The cache stays, and so do the node's images for the next start.
    ///
    /// Errors: something cannot be removed; calling it again continues.
    pub fn down(&self) -> Result<()> {
        teardown::down(&self.state, &self.progress)?;
        self.progress.step("bed", "down");
        Ok(())
    }
}
