//! One bed per host: who works on it holds a lock.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::State;

/// Who holds the lock.
#[derive(Debug, Deserialize, Serialize)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// What it does.
    pub command: String,
    /// Since when.
    pub since: Timestamp,
}

/// Held while it lives; the kernel releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    record: PathBuf,
    // Dropping the file releases the lock.
    _file: File,
}

impl Lock {
    /// Takes the lock for `command`, waiting for another holder at most `limit`.
    ///
    /// Errors: another process still holds it; the error names it.
    pub fn take(state: &State, command: &str, limit: Duration) -> Result<Self> {
        let file = File::create(state.path("lock"))?;
        let deadline = Instant::now() + limit;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(200)),
                Err(TryLockError::WouldBlock) => bail!("{}", held(state)),
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        let record = state.path("owner.json");
        let owner = Owner {
            pid: process::id(),
            command: command.to_owned(),
            since: Timestamp::now(),
        };
        fs::write(&record, serde_json::to_string(&owner)?)?;
        Ok(Self { record, _file: file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A record that stays is harmless: it is read only while the lock is held, and rewritten by the next holder.
        fs::remove_file(&self.record).ok();
    }
}

/// The present holder of the lock, if any.
pub fn owner(state: &State) -> Result<Option<Owner>> {
    let Ok(file) = File::open(state.path("lock")) else {
        return Ok(None);
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(serde_json::from_str(&fs::read_to_string(state.path("owner.json"))?).ok()),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn held(state: &State) -> String {
    let holder = owner(state).ok().flatten().map_or_else(
        || "another process".to_owned(),
        |owner| format!("process {} ({}) since {:.0}", owner.pid, owner.command, owner.since),
    );
    format!(
        "{holder} uses the test bed in {}; wait for it or end it",
        state.root().display()
    )
}

/// The command line of this process, for the record.
#[must_use]
pub fn own_command() -> String {
    env::args().collect::<Vec<_>>().join(" ")
}
