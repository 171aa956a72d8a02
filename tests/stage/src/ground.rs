//! Where the crash and the fault tests take place: a migration under load that replicates, and no operator but those that a test starts.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::{IDENTITY, Load, Migration, Servers, Stage, Way, pgbouncer, through_haproxy, until};

/// Scale of pgbench's data: 2 is 200,000 accounts, about 30 MB.
const SCALE: u32 = 2;
const SEEDED: Duration = Duration::from_secs(240);

/// A migration that replicates, and its servers.
pub struct Ground<'a> {
    /// The stage.
    pub stage: &'a Stage,
    /// Every server.
    pub servers: Servers,
    /// The migration.
    pub migration: Migration<'a>,
    attempt: u32,
}

impl<'a> Ground<'a> {
    /// Puts the stage back to its beginning, seeds the target under load and takes the operator's pod away.
    ///
    /// # Errors
    /// It does not come to replicate.
    pub fn new(stage: &'a Stage) -> Result<Self> {
        stage.reset()?;
        // An earlier ground took it away.
        stage.kubectl(&["scale", "deployment", "mitosis", "--replicas=1"])?;
        stage.start_pgbouncer()?;
        let migration = Migration::new(stage, "shop");
        stage.cluster.apply(&stage.example()?)?;
        migration.patch(&json!({"spec": {"traffic": {"pgbouncer": pgbouncer()}}}).to_string())?;
        // pgbench, whose transactions have several statements, comes through PgBouncer; the ledger tells what HAProxy's own clients see.
        stage.start_load(Load {
            pgbench: Way::Pgbouncer,
            ..Load::mixed(SCALE)
        })?;
        migration.wait_ready("Replicating", SEEDED)?;
        stage.kubectl(&["scale", "deployment", "mitosis", "--replicas=0"])?;
        until("the operator's pod is gone", Duration::from_secs(60), || {
            let pods = stage.kubectl(&["get", "pods", "-l", "app.kubernetes.io/name=mitosis", "-o", "name"])?;
            Ok(pods.trim().is_empty())
        })?;
        Ok(Self {
            stage,
            servers: stage.servers()?,
            migration,
            attempt: 1,
        })
    }

    /// Asks for a phase by a new attempt; `switchover` is what else its `spec.switchover` says.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn ask_for(&mut self, phase: &str, mut switchover: Value) -> Result<()> {
        self.attempt += 1;
        switchover["attempt"] = json!(self.attempt);
        let patch = json!({"spec": {"phase": phase, "switchover": switchover}});
        self.migration.patch(&patch.to_string()).map(drop)
    }

    /// Whether the attempt has ended.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn has_ended(&self) -> Result<bool> {
        let record = self.migration.get()?["status"]["switchover"].clone();
        let step = record["step"].as_str().unwrap_or_default();
        Ok(record["attempt"] == self.attempt && matches!(step, "Done" | "Aborted"))
    }

    /// Waits until the attempt has ended.
    ///
    /// # Errors
    /// It has not in time; the message has what the status says.
    pub fn wait_for_the_end(&self, limit: Duration) -> Result<()> {
        let ended = until("the attempt has ended", limit, || self.has_ended());
        ended.or_else(|error| bail!("{error}: {}", self.migration.status("/message")?))
    }

    /// Waits until everybody streams from the one primary and every HAProxy pod leads to it, and says which it is. A server that starts anew does not answer for a moment.
    ///
    /// # Errors
    /// It is not so in time; the message has what is missing.
    pub fn settle(&self, limit: Duration) -> Result<String> {
        let began = Instant::now();
        loop {
            match self.primary_of_all() {
                Ok(primary) => return Ok(primary),
                Err(error) if began.elapsed() > limit => {
                    bail!("not settled within {} s: {error:#}", limit.as_secs())
                }
                Err(_) => std::thread::sleep(Duration::from_millis(300)),
            }
        }
    }

    fn primary_of_all(&self) -> Result<String> {
        let mut states = Vec::new();
        for name in self.servers.names() {
            states.push((name.to_owned(), self.servers.state(name)?));
        }
        let primaries: Vec<_> = states.iter().filter(|(_, state)| !state.in_recovery).collect();
        let [(primary, state)] = primaries.as_slice() else {
            bail!("primaries: {primaries:?}");
        };
        for (name, standby) in states.iter().filter(|(name, _)| name != primary) {
            ensure!(
                standby.streams && standby.timeline == state.timeline,
                "{name}: {standby:?}"
            );
        }
        let leads = through_haproxy(self.stage, &self.servers)?;
        let identity = self.servers.sql(primary, "postgres", IDENTITY)?;
        ensure!(leads == identity, "HAProxy leads to {leads}, {primary} is {identity}");
        Ok(primary.clone())
    }
}
