//! Holding clients and releasing them.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::{Desired, file};
use crate::haproxy::{Admin, Load, Master, Reload, RouteName, RuntimeError};

/// Time for sessions that are about to end by themselves: those of clients that connect for each request.
const GRACE: Duration = Duration::from_millis(20);
/// Time for sessions and former workers to end; a former worker lives for a second.
const END: Duration = Duration::from_secs(3);
/// Time for a reload, which waits for names in the configuration to be resolved.
const RELOAD: Duration = Duration::from_secs(10);
/// How often HAProxy is asked while clients wait for it.
const POLL: Duration = Duration::from_millis(3);

/// Why HAProxy does not do what is wanted.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The file cannot be written.
    #[error("cannot write {}: {reason}: mount its directory writable", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// HAProxy did not do as told.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Sessions outlive the hold.
    #[error("{sessions} sessions and {old_workers} former workers did not end within {} s: restart this HAProxy", END.as_secs())]
    Sessions {
        /// Sessions on the held routes.
        sessions: u64,
        /// Workers of former configurations.
        old_workers: u32,
    },
    /// HAProxy does not take the configuration; the former one still runs.
    #[error("HAProxy refuses generation {generation} and keeps the former one: {words}")]
    Refused {
        /// The generation.
        generation: u64,
        /// HAProxy's words.
        words: String,
    },
    /// HAProxy was told to reload and still answers with something else.
    #[error("HAProxy does not answer with generation {generation} within {} s of its reload: see its log", RELOAD.as_secs())]
    NotRunning {
        /// The generation.
        generation: u64,
    },
}

impl AgentError {
    /// Whether HAProxy is merely not there (yet).
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Runtime(RuntimeError::Unreachable { .. }))
    }
}

/// The HAProxy beside the agent.
#[derive(Clone, Debug)]
pub struct Haproxy {
    config_file: PathBuf,
    /// Its worker.
    pub admin: Admin,
    /// Its master.
    pub master: Master,
}

impl Haproxy {
    /// The HAProxy that reads this file and listens on these sockets.
    #[must_use]
    pub fn new(config_file: &Path, admin_socket: &Path, master_socket: &Path) -> Self {
        Self {
            config_file: config_file.to_owned(),
            admin: Admin::new(admin_socket),
            master: Master::new(master_socket),
        }
    }

    async fn write(&self, desired: &Desired) -> Result<bool, AgentError> {
        let path = self.config_file.clone();
        file::write(&path, &desired.configuration)
            .await
            .map_err(|reason| AgentError::File { path, reason })
    }

    /// Lets new clients wait and ends the sessions of the others, unless that is so already.
    ///
    /// # Errors
    /// See [`AgentError`]. Clients that wait then keep waiting.
    pub async fn hold(&self, desired: &Desired) -> Result<(), AgentError> {
        // First of all: a HAProxy that starts anew from here on leads nowhere.
        self.write(desired).await?;
        if self.is_held(&desired.held).await? {
            return Ok(());
        }
        for route in &desired.held {
            self.admin.stop_accepting(route).await?;
        }
        let start = Instant::now();
        loop {
            let load = self.admin.load().await?;
            let sessions = sessions(&load, &desired.held);
            // What a former worker serves cannot be ended from here.
            let old_workers = self.master.processes().await?.old_workers;
            if sessions == 0 && old_workers == 0 {
                return Ok(());
            }
            if start.elapsed() > END {
                return Err(AgentError::Sessions { sessions, old_workers });
            }
            if sessions > 0 && start.elapsed() > GRACE {
                let backends: Vec<String> = desired.held.iter().map(RouteName::backend).collect();
                for server in self.admin.servers().await? {
                    if backends.contains(&server.backend) {
                        self.admin.end_sessions(&server).await?;
                    }
                }
            }
            sleep(POLL).await;
        }
    }

    async fn is_held(&self, routes: &[RouteName]) -> Result<bool, AgentError> {
        let load = self.admin.load().await?;
        let closed = |route: &RouteName| load.frontends.get(&route.frontend()).is_some_and(|it| it.limit == 0);
        Ok(
            routes.iter().all(closed)
                && sessions(&load, routes) == 0
                && self.master.processes().await?.old_workers == 0,
        )
    }

    /// Lets HAProxy run the configuration, unless it does already.
    ///
    /// # Errors
    /// See [`AgentError`]. The former configuration, or the hold, then stays.
    pub async fn release(&self, desired: &Desired) -> Result<(), AgentError> {
        let changed = self.write(desired).await?;
        let running = self.admin.generation().await?;
        let held = self
            .admin
            .load()
            .await?
            .frontends
            .values()
            .any(|frontend| frontend.limit == 0);
        if running == Some(desired.generation) && !changed && !held {
            return Ok(());
        }
        self.reload(desired.generation).await
    }

    /// Reloads and waits until the new worker answers.
    async fn reload(&self, generation: u64) -> Result<(), AgentError> {
        let before = self.master.processes().await?.reloads;
        let start = Instant::now();
        let answer = self.master.reload().await?;
        if let Reload::Refused(words) = answer {
            return Err(AgentError::Refused { generation, words });
        }
        while start.elapsed() < RELOAD {
            // Nothing answers for a moment while workers change places.
            if self
                .admin
                .generation()
                .await
                .is_ok_and(|running| running == Some(generation))
            {
                info!(
                    generation,
                    milliseconds = start.elapsed().as_millis(),
                    "HAProxy runs the configuration"
                );
                return Ok(());
            }
            if answer == Reload::Unknown
                && let Ok(processes) = self.master.processes().await
                && processes.reloads > before
                && processes.failed > 0
            {
                let words = "see the log of its container".to_owned();
                return Err(AgentError::Refused { generation, words });
            }
            sleep(POLL).await;
        }
        Err(AgentError::NotRunning { generation })
    }
}

/// Sessions on these routes.
fn sessions(load: &Load, routes: &[RouteName]) -> u64 {
    let backends = routes
        .iter()
        .filter_map(|route| load.backends.get(&route.backend()).copied());
    let frontends = routes
        .iter()
        .filter_map(|route| Some(load.frontends.get(&route.frontend())?.sessions));
    backends.sum::<u64>().max(frontends.sum())
}
