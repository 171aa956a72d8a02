//! Writes tried on every server all the time, past HAProxy, in the background of a test.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use mitosis_ledger::{Probe, Verdict};
use tokio::{runtime::Runtime, sync::watch};

use crate::Servers;

/// Probes that run until they are ended.
pub struct Probing {
    runtime: Runtime,
    probe: Arc<Probe>,
    stop: watch::Sender<bool>,
    worker: tokio::task::JoinHandle<()>,
}

impl Probing {
    /// Begins to try writes on every server.
    ///
    /// # Errors
    /// No server accepts writes.
    pub fn start(servers: &Servers) -> Result<Self> {
        let runtime = Runtime::new()?;
        let endpoints = servers
            .names()
            .map(|name| Ok((name.to_owned(), servers.ledger(name)?)))
            .collect::<Result<Vec<_>>>()?;
        let probe = Arc::new(runtime.block_on(Probe::new(endpoints))?);
        let (stop, stopped) = watch::channel(false);
        let working = Arc::clone(&probe);
        let worker = runtime.spawn(async move { working.work(stopped).await });
        Ok(Self {
            runtime,
            probe,
            stop,
            worker,
        })
    }

    /// Ends them and tells what they found.
    ///
    /// # Errors
    /// A server does not answer.
    pub fn end(self, servers: &Servers) -> Result<Verdict> {
        self.stop.send_replace(true);
        self.runtime.block_on(self.worker).context("the probes failed")?;
        // What was acknowledged last may still be on its way to the standbys.
        servers.wait_until_level()?;
        self.runtime.block_on(self.probe.judge())
    }
}
