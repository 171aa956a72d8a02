//! The file that HAProxy reads.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::fs;

/// Writes the file unless it holds this text already; says whether it did.
///
/// A reader finds the former text or the new one, never a part. It need not outlive the node: the init container writes
/// it again there.
pub(super) async fn write(path: &Path, text: &str) -> io::Result<bool> {
    if fs::read(path).await.is_ok_and(|former| former == text.as_bytes()) {
        return Ok(false);
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    fs::write(&new, text).await?;
    fs::rename(&new, path).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_different_text_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("haproxy.cfg");
        assert!(write(&path, "a").await.unwrap());
        assert!(!write(&path, "a").await.unwrap());
        assert!(write(&path, "b").await.unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "b");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
