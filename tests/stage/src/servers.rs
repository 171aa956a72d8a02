//! Every server asked by SQL from outside, never by the operator's word.

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use mitosis_ledger::{Encryption, Endpoint};

use crate::{Stage, until};

/// Not `psql`: Debian's wrapper of that name takes longer than the question.
const PSQL: &str = "/usr/lib/postgresql/15/bin/psql";

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Timeline of its WAL (primary) or of its WAL receiver (standby).
    pub timeline: u32,
    /// Whether its WAL receiver streams.
    pub streams: bool,
    /// Host that it streams from.
    pub upstream: String,
    /// Names of its replication slots.
    pub slots: Vec<String>,
}

/// Servers of both sides by name.
pub struct Servers {
    hosts: BTreeMap<String, String>,
    superuser: String,
    app: String,
}

impl Servers {
    pub(crate) fn new(stage: &Stage) -> Result<Self> {
        let credentials = stage.site.credentials()?;
        let mut hosts: BTreeMap<String, String> = [("a1", "10.20.0.11"), ("a2", "10.20.0.12"), ("a3", "10.20.0.13")]
            .map(|(name, host)| (name.to_owned(), host.to_owned()))
            .into();
        for number in 1..=3 {
            let name = format!("shop-{number}");
            let ip = stage.kubectl(&[
                "get",
                "service",
                &name,
                "--ignore-not-found",
                "-o",
                "jsonpath={.spec.clusterIP}",
            ])?;
            if !ip.is_empty() {
                hosts.insert(name, ip);
            }
        }
        Ok(Self {
            hosts,
            superuser: credentials.mitosis,
            app: credentials.app,
        })
    }

    /// Names of all servers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }

    /// Runs SQL on a server as superuser and gives its output, columns parted by `|`.
    ///
    /// # Errors
    /// The server does not answer or refuses.
    pub fn sql(&self, server: &str, database: &str, sql: &str) -> Result<String> {
        let host = self.hosts.get(server).with_context(|| format!("no server {server}"))?;
        self.sql_at(host, 5432, database, sql)
            .with_context(|| server.to_owned())
    }

    /// Runs SQL on whatever answers at an address, for example HAProxy, as superuser.
    ///
    /// # Errors
    /// Nothing answers there, or it refuses.
    pub fn sql_at(&self, host: &str, port: u16, database: &str, sql: &str) -> Result<String> {
        let output = self
            .psql_at(host, port, database)
            .args(["-c", sql])
            .output()
            .context("psql is not installed: run `make tools`")?;
        ensure!(
            output.status.success(),
            "{host}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A session of psql on a server as superuser, to be given its input.
    ///
    /// # Errors
    /// There is no such server.
    pub fn psql(&self, server: &str) -> Result<Command> {
        let host = self.hosts.get(server).with_context(|| format!("no server {server}"))?;
        Ok(self.psql_at(host, 5432, "postgres"))
    }

    fn psql_at(&self, host: &str, port: u16, database: &str) -> Command {
        let mut command = Command::new(PSQL);
        command
            .args([
                "-XAtqw",
                "-h",
                host,
                "-p",
                &port.to_string(),
                "-U",
                "mitosis",
                "-d",
                database,
            ])
            .env("PGPASSWORD", &self.superuser)
            .env("PGCONNECT_TIMEOUT", "5")
            .env("PGSSLMODE", "require");
        command
    }

    /// What a server says of itself.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn state(&self, server: &str) -> Result<ServerState> {
        let sql = "SELECT pg_is_in_recovery(), \
            CASE WHEN pg_is_in_recovery() THEN coalesce(w.received_tli, 0) ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END, \
            coalesce(w.status, '') = 'streaming', coalesce(w.sender_host, ''), \
            coalesce((SELECT string_agg(slot_name::text, ',' ORDER BY slot_name) FROM pg_replication_slots), '') \
            FROM (SELECT 1) one LEFT JOIN pg_stat_wal_receiver w ON true";
        let row = self.sql(server, "postgres", sql)?;
        let fields: Vec<&str> = row.split('|').collect();
        let [in_recovery, timeline, streams, upstream, slots] = fields.as_slice() else {
            anyhow::bail!("{server} answered {row}");
        };
        Ok(ServerState {
            in_recovery: *in_recovery == "t",
            timeline: timeline.parse()?,
            streams: *streams == "t",
            upstream: (*upstream).to_owned(),
            slots: slots
                .split(',')
                .filter(|slot| !slot.is_empty())
                .map(ToOwned::to_owned)
                .collect(),
        })
    }

    /// Waits until every standby replayed what the primary has written.
    ///
    /// # Errors
    /// There is no primary, or a standby does not get there within 20 s.
    pub fn wait_until_level(&self) -> Result<()> {
        let mut written = None;
        for name in self.names() {
            if !self.state(name)?.in_recovery {
                written = Some(self.sql(name, "postgres", "SELECT pg_current_wal_flush_lsn()")?);
            }
        }
        let written = written.context("no server is primary")?;
        for name in self.names() {
            let replayed = format!("SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= '{written}'");
            until(&format!("{name} replayed {written}"), Duration::from_secs(20), || {
                Ok(self.sql(name, "postgres", &replayed)? == "t")
            })?;
        }
        Ok(())
    }

    /// The ledger's endpoint on a server.
    ///
    /// # Errors
    /// There is no such server.
    pub fn ledger(&self, server: &str) -> Result<Endpoint> {
        let host = self.hosts.get(server).with_context(|| format!("no server {server}"))?;
        Endpoint::new(
            &format!("host={host} port=5432 user=app dbname=app password={}", self.app),
            &Encryption::Require,
        )
    }
}
