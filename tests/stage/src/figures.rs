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

/// The value below or at which so many percent of the sorted values lie.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}
