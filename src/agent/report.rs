//! What the agent tells the operator.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How far HAProxy is with the generation that is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportState {
    /// HAProxy does not answer, or nothing is wanted yet.
    #[default]
    Waiting,
    /// The running HAProxy answers with the wanted generation.
    Running,
    /// New clients wait, and no session of the held routes has a server, in no worker.
    Held,
    /// What is wanted was tried and did not work; what ran before still runs.
    Failed,
}

/// What one HAProxy does, as its agent saw it last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Generation that the running HAProxy answers with. A hold does not change it.
    pub generation: Option<u64>,
    /// How far HAProxy is with `wanted`.
    pub state: ReportState,
    /// Generation that the agent follows; 0 before the ConfigMap was read.
    pub wanted: u64,
    /// Whether the ConfigMap holds that generation with something else in it, which is not followed: only a later one is.
    #[serde(default)]
    pub conflict: bool,
    /// Version of HAProxy.
    pub haproxy_version: Option<String>,
    /// Workers of former configurations, which live for a second after a reload.
    pub old_workers: u32,
    /// Sessions by backend, such as `be_write`.
    pub sessions: BTreeMap<String, u64>,
    /// Milliseconds from seeing the wanted generation until it was held or running.
    pub took_milliseconds: Option<u64>,
    /// What is wrong, and what to do.
    pub error: Option<String>,
}

impl Report {
    /// Whether every client of the held routes waits, as generation `wanted` asks.
    #[must_use]
    pub fn is_holding(&self, wanted: u64) -> bool {
        self.wanted == wanted && self.state == ReportState::Held
    }

    /// Whether the running HAProxy answers with generation `wanted`.
    #[must_use]
    pub fn is_running(&self, wanted: u64) -> bool {
        self.wanted == wanted && self.state == ReportState::Running && self.generation == Some(wanted)
    }

    /// Whether what is wanted is done.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, ReportState::Running | ReportState::Held)
    }

    /// Whether waiting longer for this generation is of no use: it is done, has failed, or is past.
    #[must_use]
    pub fn has_settled(&self, wanted: u64) -> bool {
        self.wanted >= wanted && self.state != ReportState::Waiting
    }
}
