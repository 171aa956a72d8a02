//! What a server says of itself.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::{Error, Lsn, Session};

/// Settings that a standby needs at least as high as its primary, or that the migration depends on.
pub const PARITY: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// Everything that decisions need of one server, read by one statement.
const SERVER: &str = include_str!("server.sql");

/// One server as it was seen at one moment.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of PostgreSQL's own, independent of the others"
)]
#[derive(Clone, Debug, Deserialize)]
pub struct Server {
    /// Whether it is in recovery: a standby. The only thing that tells the role.
    pub in_recovery: bool,
    /// `server_version_num`, such as 150018.
    pub version: u32,
    /// System identifier of the cluster.
    pub system_identifier: String,
    /// Timeline: of the WAL being written (primary) or received (standby; of the last checkpoint when nothing is received).
    pub timeline: u32,
    /// Last position written (primary) or replayed (standby).
    pub lsn: Option<Lsn>,
    /// Bytes of a WAL segment.
    pub segment_bytes: u64,
    /// State of the WAL receiver, such as `streaming`.
    pub receiver_status: Option<String>,
    /// Host that the WAL receiver is connected to.
    pub sender_host: Option<String>,
    /// Port that the WAL receiver is connected to.
    pub sender_port: Option<u16>,
    /// Seconds since the WAL receiver last heard of its upstream.
    pub receiver_silence: Option<f64>,
    /// Whether replay is paused or pausing.
    pub replay_paused: bool,
    /// `primary_conninfo` has this `application_name`.
    pub follows_as: Option<String>,
    /// `primary_conninfo` names this host.
    pub follows_host: Option<String>,
    /// `primary_conninfo` names this port.
    pub follows_port: Option<u16>,
    /// Whether `standby.signal` exists in the data directory.
    pub standby_signal: bool,
    /// Position where the last checkpoint record begins, from the control file.
    pub checkpoint: Lsn,
    /// Position where redo of the last checkpoint begins. Equal to `checkpoint` for a shutdown checkpoint.
    pub redo: Lsn,
    /// Whether the login is a superuser.
    pub superuser: bool,
    /// Whether the login has REPLICATION.
    pub replication: bool,
    /// Replication slots: name and whether a walsender uses it.
    pub slots: Vec<Slot>,
    /// Free replication slots.
    pub free_slots: i64,
    /// Free walsenders.
    pub free_walsenders: i64,
    /// Connected standbys, by `application_name`.
    pub standbys: Vec<Standby>,
    /// Prepared transactions.
    pub prepared_transactions: i64,
    /// Age in seconds of the oldest transaction that may write, other than ours.
    pub oldest_transaction: f64,
    /// Base backups that are being sent.
    pub backups: Vec<Backup>,
    /// Size of all databases in bytes.
    pub database_bytes: u64,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<String>,
    /// Parameters by name.
    pub settings: BTreeMap<String, String>,
    /// Data directory.
    pub data_directory: String,
}

/// A replication slot.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Slot {
    /// Name.
    pub name: String,
    /// Whether a walsender uses it.
    pub active: bool,
    /// `wal_status`, such as `reserved` or `lost`.
    pub wal_status: Option<String>,
}

/// A connected standby.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Standby {
    /// Its `application_name`.
    pub name: String,
    /// IP address that it connects from.
    pub address: Option<String>,
    /// State, such as `streaming`.
    pub state: Option<String>,
    /// Position that it replayed, by its own word.
    pub replayed: Option<Lsn>,
    /// Seconds since its last word.
    pub silence: Option<f64>,
}

/// A base backup that is being sent.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Backup {
    /// `application_name` of the receiver.
    pub name: String,
    /// Bytes to send, as estimated; absent while unknown.
    pub total: Option<u64>,
    /// Bytes sent.
    pub done: u64,
}

impl Server {
    /// Major version, such as 15.
    #[must_use]
    pub const fn major(&self) -> u32 {
        self.version / 10_000
    }

    /// Whether its WAL receiver streams and heard of its upstream within a time in seconds.
    #[must_use]
    pub fn streams_within(&self, seconds: f64) -> bool {
        self.receiver_status.as_deref() == Some("streaming")
            && self.receiver_silence.is_some_and(|silence| silence <= seconds)
    }

    /// A parameter as a number; 0 when it is none.
    #[must_use]
    pub fn number(&self, parameter: &str) -> i64 {
        self.settings
            .get(parameter)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }

    /// Whether a slot of this name exists.
    #[must_use]
    pub fn has_slot(&self, name: &str) -> bool {
        self.slots.iter().any(|slot| slot.name == name)
    }

    /// Where the last replayed record ends, when that record is the shutdown checkpoint of the upstream primary.
    ///
    /// The restartpoint in the control file lies at the last checkpoint that was replayed; for a shutdown checkpoint redo begins at
    /// the record itself, and when replay ended exactly where that record ends, nothing came after it and nothing is missing.
    #[must_use]
    pub fn replayed_shutdown_checkpoint(&self) -> Option<Lsn> {
        let end = self.checkpoint.end_of_shutdown_checkpoint(self.segment_bytes);
        (self.in_recovery && self.checkpoint == self.redo && self.lsn == Some(end)).then_some(end)
    }
}

/// Reads what a server says of itself, within 2 s.
///
/// # Errors
/// The server does not answer, or not as PostgreSQL 14 to 18 do.
pub async fn fetch_server(session: &Session) -> Result<Server, Error> {
    let what = "reading the server's state";
    let row = session.row(what, Duration::from_secs(2), SERVER, &[]).await?;
    let answer: serde_json::Value = row.try_get(0).map_err(Error::statement(what))?;
    serde_json::from_value(answer).map_err(|error| Error::Answer {
        what,
        because: error.to_string(),
    })
}
