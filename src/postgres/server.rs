//! What a server says of itself.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

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
/// The part that changes while clients are held; small, since they wait for it.
const SERVER_SWITCHING: &str = include_str!("server_switching.sql");

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
    #[serde(default)]
    pub sender_host: Option<String>,
    /// Port that the WAL receiver is connected to.
    #[serde(default)]
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
    /// On a primary, by whose order it is there: its first line.
    pub armed_by: Option<String>,
    /// Position where the last checkpoint record begins, from the control file.
    pub checkpoint: Lsn,
    /// Position where redo of the last checkpoint begins. Equal to `checkpoint` for a shutdown checkpoint.
    pub redo: Lsn,
    /// The 120 bytes of WAL before the last replayed position, in hexadecimal; read while a switchover runs.
    #[serde(default)]
    pub last_record: Option<String>,
    /// Whether the login is a superuser.
    #[serde(default)]
    pub superuser: bool,
    /// Whether the login has REPLICATION.
    #[serde(default)]
    pub replication: bool,
    /// Replication slots: name and whether a walsender uses it.
    #[serde(default)]
    pub slots: Vec<Slot>,
    /// Free replication slots.
    #[serde(default)]
    pub free_slots: i64,
    /// Free walsenders.
    #[serde(default)]
    pub free_walsenders: i64,
    /// Connected standbys, by `application_name`.
    #[serde(default)]
    pub standbys: Vec<Standby>,
    /// Prepared transactions.
    #[serde(default)]
    pub prepared_transactions: i64,
    /// Age in seconds of the oldest transaction that may write, other than ours.
    #[serde(default)]
    pub oldest_transaction: f64,
    /// Seconds for which the session that idles longest in a transaction has done so, other than ours.
    #[serde(default)]
    pub oldest_idle_transaction: f64,
    /// Where our own session comes from, as the server sees it; behind a gateway that translates addresses it is the gateway's.
    #[serde(default)]
    pub our_address: Option<IpAddr>,
    /// Client sessions other than ours, alike ones together; the 500 most frequent kinds.
    #[serde(default)]
    pub clients: Vec<Clients>,
    /// Last position received or replayed (standby), whichever is higher.
    #[serde(default)]
    pub received: Option<Lsn>,
    /// Whether the canary's schema exists in the maintenance database.
    #[serde(default)]
    pub canary_schema: bool,
    /// A manager of high availability that watches the server.
    #[serde(default)]
    pub manager: Option<Manager>,
    /// Parameters that would end recovery at a point, left from a restore: they do nothing on a primary and everything on a standby.
    #[serde(default)]
    pub recovery_target: Option<String>,
    /// The server's clock, in seconds since 1970.
    #[serde(default)]
    pub clock: Option<f64>,
    /// When the server was started, in microseconds since 1970 by its own clock.
    #[serde(default)]
    pub started: i64,
    /// The systemd unit that the server runs in, such as `postgresql@15-main.service`; a restart from inside would be ended with it.
    #[serde(default)]
    pub supervisor: Option<String>,
    /// Base backups that are being sent.
    #[serde(default)]
    pub backups: Vec<Backup>,
    /// Size of all databases in bytes.
    #[serde(default)]
    pub database_bytes: u64,
    /// Tablespaces outside the data directory.
    #[serde(default)]
    pub tablespaces: Vec<String>,
    /// Parameters by name.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Data directory.
    pub data_directory: String,
    /// Folder of the server's programs; read while a switchover runs.
    #[serde(default)]
    pub programs: String,
    /// Process id of the server; read while a switchover runs.
    #[serde(default)]
    pub postmaster: u32,
}

/// A manager of high availability, which acts when a primary stops.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Manager {
    /// Patroni, by the `application_name` of its sessions.
    Patroni,
    /// repmgrd, by its shared library or its sessions.
    Repmgr,
    /// pg_auto_failover, by its shared library or its sessions.
    PgAutoFailover,
}

impl Manager {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Patroni => "Patroni",
            Self::Repmgr => "repmgrd",
            Self::PgAutoFailover => "pg_auto_failover",
        }
    }

    /// The command that keeps it from acting.
    #[must_use]
    pub const fn pause_command(self) -> &'static str {
        match self {
            Self::Patroni => "patronictl pause --wait",
            Self::Repmgr => "repmgr service pause",
            Self::PgAutoFailover => "pg_autoctl enable maintenance",
        }
    }
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
    /// Whether it is one of logical replication.
    #[serde(default)]
    pub logical: bool,
    /// Bytes of WAL that are kept for it.
    #[serde(default)]
    pub retained: Option<i64>,
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

/// Sessions of clients that differ in nothing that is known of them.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Clients {
    /// IP address that they come from; none for the server's own socket.
    pub address: Option<IpAddr>,
    /// User that they logged in as.
    pub user: String,
    /// Their `application_name`.
    pub application: String,
    /// How many there are.
    pub sessions: u64,
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
    /// The record itself says so, or the control file: the restartpoint there lies at the last checkpoint that was replayed; for a
    /// shutdown checkpoint redo begins at the record itself, and when replay ended exactly where that record ends, nothing came after
    /// it and nothing is missing.
    #[must_use]
    pub fn replayed_shutdown_checkpoint(&self) -> Option<Lsn> {
        if !self.in_recovery {
            return None;
        }
        let replayed = self.lsn?;
        let by_record = self
            .last_record
            .as_deref()
            .is_some_and(|record| is_shutdown_checkpoint(record, replayed));
        let end = self.checkpoint.end_of_shutdown_checkpoint(self.segment_bytes);
        let by_control_file = self.checkpoint == self.redo && replayed == end;
        (by_record || by_control_file).then_some(replayed)
    }
}

/// Whether 120 bytes of WAL are a shutdown checkpoint that ends at a position, and begins where they do.
///
/// A record of 114 bytes of the resource manager XLOG (0) with info `CHECKPOINT_SHUTDOWN` (0), one short block of data of 88 bytes, which
/// begins with the position of redo: for a shutdown checkpoint that is its own. So in PostgreSQL 14 to 18 on little-endian machines; a
/// record that lies across two pages is not recognised here.
fn is_shutdown_checkpoint(record: &str, end: Lsn) -> bool {
    let bytes: Option<Vec<u8>> = (0..record.len() / 2)
        .map(|index| u8::from_str_radix(record.get(index * 2..index * 2 + 2)?, 16).ok())
        .collect();
    let Some(bytes) = bytes.filter(|bytes| bytes.len() == 120) else {
        return false;
    };
    let begins = end.before_shutdown_checkpoint().to_le_bytes();
    bytes[..4] == 114_u32.to_le_bytes()
        && bytes[16..18] == [0, 0]
        && bytes[24..26] == [255, 88]
        && bytes[26..34] == begins
}

/// Reads everything that a server says of itself, within 2 s.
///
/// # Errors
/// The server does not answer, or not as PostgreSQL 14 to 18 do.
pub async fn fetch_server(session: &Session) -> Result<Server, Error> {
    fetch(session, SERVER).await
}

/// Whether a server is a standby, and of which cluster it is, within 2 s; asked so that a pooler in between asks its primary.
///
/// # Errors
/// The server does not answer or refuses.
pub async fn fetch_identity(session: &Session) -> Result<(bool, String), Error> {
    let what = "asking a server who it is";
    let identity = "/*NO LOAD BALANCE*/ SELECT pg_is_in_recovery()::int, system_identifier FROM pg_control_system()";
    let rows = session.ask(what, Duration::from_secs(2), identity).await?;
    let field = |index: usize| rows.first().and_then(|row| row.try_get(index).ok().flatten());
    match (field(0), field(1)) {
        (Some(standby), Some(identifier)) => Ok((standby == "1", identifier.to_owned())),
        _ => Err(Error::Answer {
            what,
            because: "it has no row".to_owned(),
        }),
    }
}

/// Reads what a running switchover decides from, within 2 s: role, positions, arming. It takes a superuser.
///
/// # Errors
/// The server does not answer, or not as PostgreSQL 14 to 18 do.
pub async fn fetch_server_switching(session: &Session) -> Result<Server, Error> {
    fetch(session, SERVER_SWITCHING).await
}

async fn fetch(session: &Session, sql: &'static str) -> Result<Server, Error> {
    let what = "reading the server's state";
    let row = session.prepared_row(what, Duration::from_secs(2), sql, &[]).await?;
    let answer: serde_json::Value = row.try_get(0).map_err(Error::statement(what))?;
    serde_json::from_value(answer).map_err(|error| Error::Answer {
        what,
        because: error.to_string(),
    })
}
