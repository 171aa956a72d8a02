//! A recording: all clients together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::try_join;

use crate::client::Recorder;
use crate::connect::Endpoint;
use crate::log::{Entry, Log, now};
use crate::table;

/// How to record.
#[derive(Clone)]
pub struct Options {
    /// Through which endpoint rows are written.
    pub endpoint: Endpoint,
    /// The file acknowledgements are appended to; one recording at a time writes to it.
    pub log: PathBuf,
    /// Clients that keep their session.
    pub clients: u32,
    /// Further clients that open a session for each row; they have the numbers after the others.
    pub short: u32,
    /// How often each client writes a row.
    pub pace: Duration,
}

/// What a recording did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Number of the run, as in the log and the table.
    pub run: i64,
    /// Rows the server acknowledged.
    pub acknowledged: u64,
    /// Errors by kind: `refused` (a connection was refused), `timeout`, `closed`, `tls`, an SQLSTATE, ...
    pub errors: BTreeMap<String, u64>,
}

/// Makes the table if need be and records until `stop` is done.
///
/// # Errors
/// If the table cannot be made or the log cannot be written. Errors of the clients are what is recorded.
pub async fn record(options: &Options, stop: impl Future<Output = ()>) -> Result<Summary> {
    table::create(&options.endpoint).await?;
    let log = Arc::new(Log::append(&options.log)?);
    let (run, clients) = (now(), options.clients + options.short);
    log.write(&Entry::Begin { run, clients })?;
    let (stopping, stopped) = watch::channel(false);
    // A task each, so that the handshakes of one client do not hold the others up.
    let mut recorders = JoinSet::new();
    for client in 0..clients {
        let (pace, start) = (options.pace, Instant::now() + options.pace * client / clients);
        let (endpoint, log, session_per_row) = (options.endpoint.clone(), Arc::clone(&log), client >= options.clients);
        let recorder = Recorder {
            endpoint,
            log,
            run,
            client,
            session_per_row,
            pace,
            start,
        };
        recorders.spawn(recorder.work(stopped.clone()));
    }
    let mut summary = Summary {
        run,
        acknowledged: 0,
        errors: BTreeMap::new(),
    };
    let ending = async {
        stop.await;
        stopping.send_replace(true);
        Ok(())
    };
    let collecting = async {
        while let Some(counts) = recorders.join_next().await {
            let counts = counts.context("a client panicked")??;
            summary.acknowledged += counts.acknowledged;
            for (kind, count) in counts.errors {
                *summary.errors.entry(kind).or_default() += count;
            }
        }
        anyhow::Ok(())
    };
    try_join!(collecting, ending)?;
    log.write(&Entry::End { at: now() })?;
    Ok(summary)
}
