//! One client of a recording.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_postgres::SimpleQueryMessage;

use crate::connect::{Endpoint, Session, TimedOut};
use crate::errors::{kind, rolled_back};
use crate::log::{Entry, Log, Outcome, now};
use crate::table::insert;

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
const STATEMENT_DEADLINE: Duration = Duration::from_secs(5);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// One client, long-lived or with a session per transaction.
pub(crate) struct Recorder {
    pub(crate) endpoint: Endpoint,
    pub(crate) log: Arc<Log>,
    pub(crate) run: i64,
    pub(crate) client: u32,
    pub(crate) session_per_row: bool,
    pub(crate) pace: Duration,
    /// When the first row is written; the clients take turns instead of writing all at once.
    pub(crate) start: Instant,
}

/// What a client has done.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Recorder {
    /// Writes rows until told to stop, each with a number of its own.
    pub(crate) async fn work(self, stop: watch::Receiver<bool>) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut session = None;
        let mut pace = interval_at(self.start, self.pace);
        // After an outage the missed rows are not made up for in a burst.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for seq in 1.. {
            pace.tick().await;
            if *stop.borrow() {
                break;
            }
            let (outcome, error) = self.write(&mut session, seq).await;
            let name = error.as_ref().map(kind).unwrap_or_default();
            self.log.write(&Entry::Row {
                outcome,
                client: self.client,
                seq,
                at: now(),
                kind: name.clone(),
            })?;
            if error.is_some() {
                *counts.errors.entry(name).or_default() += 1;
                session = None;
                sleep(PAUSE_AFTER_ERROR).await;
                // The wait for an outage to end is that pause, not the pace.
                pace.reset_at(Instant::now());
            } else {
                counts.acknowledged += 1;
            }
            if self.session_per_row {
                session = None;
            }
        }
        Ok(counts)
    }

    async fn write(&self, session: &mut Option<Session>, seq: i64) -> (Outcome, Option<anyhow::Error>) {
        // A session that ended while it was idle is replaced before anything is sent.
        let open = match session.take().filter(|open| !open.client.is_closed()) {
            Some(open) => open,
            None => match self.endpoint.connect(CONNECT_DEADLINE).await {
                Ok(open) => open,
                Err(error) => return (Outcome::Unsent, Some(error)),
            },
        };
        let sent = send(&open, &insert(self.run, self.client, seq)).await;
        *session = Some(open);
        match sent {
            Ok(()) => (Outcome::Acknowledged, None),
            Err(error) if rolled_back(&error) => (Outcome::Rejected, Some(error)),
            Err(error) => (Outcome::InDoubt, Some(error)),
        }
    }
}

async fn send(session: &Session, statement: &str) -> Result<()> {
    let Ok(answer) = timeout(STATEMENT_DEADLINE, session.client.simple_query(statement)).await else {
        bail!(TimedOut)
    };
    // Only the server's word that one row was written counts as an acknowledgement.
    if answer?
        .iter()
        .any(|message| matches!(message, SimpleQueryMessage::CommandComplete(1)))
    {
        Ok(())
    } else {
        Err(anyhow!("the server did not report one row"))
    }
}
