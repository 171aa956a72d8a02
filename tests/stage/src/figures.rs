//! Where a benchmark leaves its figures.

use std::{fs, path::PathBuf};

use anyhow::Result;

/// Prints the figures of a benchmark as one line of JSON and leaves them in `target/bench/NAME.json`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn record(result: &serde_json::Value) -> Result<()> {
    println!("{result}");
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench"));
    fs::create_dir_all(&folder)?;
    let name = format!("{}.json", result["bench"].as_str().unwrap_or("bench"));
    fs::write(folder.join(name), format!("{result}\n"))?;
    Ok(())
}
