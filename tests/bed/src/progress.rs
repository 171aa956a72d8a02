//! Progress lines for the person who waits.

use std::fmt::Display;
use std::time::Instant;

/// Writes a line per step to the standard error stream, with the whole seconds since the start.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    start: Instant,
}

impl Progress {
    /// Starts counting now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Reports that something of `area` has happened or begins.
    pub fn step(&self, area: &str, what: impl Display) {
        eprintln!("[{:>4} s] {area}: {what}", self.start.elapsed().as_secs());
    }
}
