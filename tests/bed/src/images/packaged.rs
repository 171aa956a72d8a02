//! An image of one program as Debian packages it.

use anyhow::Result;

use super::Built;
use super::debian::Debian;
use super::layout::Layout;
use crate::cache::Cache;
use crate::progress::Progress;

const REVISION: &[u8] = b"1";
const PATH: &str = "env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the image is made of.
pub(super) struct Packaged<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Its tag: the version that the Debian release has.
    pub(super) version: &'a str,
    /// Its packages.
    pub(super) debian: Debian,
    /// Settings of the image beside the search path, as umoci names them.
    pub(super) settings: &'a [&'a str],
}

impl Packaged<'_> {
    /// Makes the image unless it is in the cache.
    pub(super) fn build(self, cache: &Cache, progress: &Progress) -> Result<Built> {
        let Self {
            name,
            version,
            debian,
            settings,
        } = self;
        let tagged = format!("{name}:{version}");
        let source = format!("{} {settings:?}", debian.source());
        let entry = cache.entry(
            &format!("image-{name}-{version}"),
            &[REVISION, source.as_bytes()],
            |folder| {
                progress.step("images", format!("making {tagged} from Debian {}", debian.suite));
                let root = folder.join("root.tar");
                debian.write(&root)?;
                let settings: Vec<&str> = [PATH].iter().chain(settings).copied().collect();
                Layout::new(folder, &tagged)?
                    .layer(&root)?
                    .configure(&settings)?
                    .finish()?;
                Ok(std::fs::remove_file(root)?)
            },
        )?;
        Built::in_entry(&tagged, &entry)
    }
}
