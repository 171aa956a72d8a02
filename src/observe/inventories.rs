//! What the source uses of its machine: asked seldom and beside everything else, since it means a session in every database.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{Credentials, Listed, Member};
use crate::{
    address::Address,
    api::{ClusterMigration, Side},
    postgres::{Login, Server, fetch_listing},
};

/// How long an answer counts.
const KEPT: Duration = Duration::from_mins(5);
/// The same before anything is made: what a person cures is to be seen to be cured.
const KEPT_BEFORE: Duration = Duration::from_secs(10);
/// How long the first failure counts; each further one counts twice as long as the one before, up to half a minute.
const DOUBTED: Duration = Duration::from_secs(5);
const DOUBTED_AT_MOST: Duration = Duration::from_secs(30);
/// How long all databases may take.
const ANSWER: Duration = Duration::from_mins(1);

/// What a source said last.
#[derive(Clone)]
struct Answer {
    at: Instant,
    listed: Listed,
    counts_for: Duration,
    /// When it was asked anew, for as long as no answer came.
    asked: Option<Instant>,
}

/// By who asks, and whom.
type Answers = HashMap<(Login, Address), Answer>;

/// What sources said lately.
#[derive(Clone, Default)]
pub struct Inventories {
    known: Arc<Mutex<Answers>>,
}

impl Inventories {
    /// What the source's primary said last, by whose libraries indexes are sorted, or a standby where there is none to be seen. It is asked anew
    /// now and then, which nobody waits for; never while a switchover runs.
    pub(super) fn look(&self, migration: &ClusterMigration, members: &[Member], credentials: &Credentials) -> Listed {
        let seen = |in_recovery: bool| {
            let mut sources = members.iter().filter(|member| member.side == Side::Source);
            let has = move |server: &Server| server.in_recovery == in_recovery;
            sources.find(|member| member.server().is_some_and(has))
        };
        let Some(member) = seen(false).or_else(|| seen(true)) else {
            return Listed::NotYet;
        };
        let record = migration.status.as_ref().and_then(|status| status.switchover.as_ref());
        let is_switching = record.is_some_and(|record| !record.step.is_terminal());
        let key = (credentials.of(member.side).clone(), member.address.clone());
        let mut known = self.lock();
        let answer = known.entry(key.clone()).or_insert_with(|| Answer {
            at: Instant::now(),
            listed: Listed::NotYet,
            counts_for: Duration::ZERO,
            asked: None,
        });
        // One that is asked for so long will not answer any more.
        let is_asked = answer.asked.is_some_and(|asked| asked.elapsed() < ANSWER * 2);
        let began = migration
            .status
            .as_ref()
            .is_some_and(|status| status.system_identifier.is_some());
        let counts_for = if began {
            answer.counts_for
        } else {
            answer.counts_for.min(KEPT_BEFORE)
        };
        if !is_asked && !is_switching && answer.at.elapsed() >= counts_for {
            answer.asked = Some(Instant::now());
            let (this, name) = (self.clone(), member.name.clone());
            tokio::spawn(async move {
                let listed = match timeout(ANSWER, fetch_listing(&key.0, &key.1)).await {
                    Ok(Ok(listing)) => Listed::Seen(Box::new(listing)),
                    Ok(Err(error)) => Listed::Failed(format!("on {name}, {error}")),
                    Err(_) => Listed::Failed(format!(
                        "the databases of {name} did not all answer within {} s",
                        ANSWER.as_secs()
                    )),
                };
                this.take(key, listed);
            });
        }
        answer.listed.clone()
    }

    /// Keeps an answer. Where one fails, what was said before counts on.
    fn take(&self, key: (Login, Address), listed: Listed) {
        let mut known = self.lock();
        let former = known.get(&key).map(|answer| (answer.listed.clone(), answer.counts_for));
        let (listed, counts_for) = match (listed, former) {
            (Listed::Failed(_), Some((former @ Listed::Seen(_), _))) => (former, DOUBTED_AT_MOST),
            (failed @ Listed::Failed(_), Some((Listed::Failed(_), counted))) => {
                (failed, (counted * 2).min(DOUBTED_AT_MOST))
            }
            (failed @ Listed::Failed(_), _) => (failed, DOUBTED),
            (seen, _) => (seen, KEPT),
        };
        let answer = Answer {
            at: Instant::now(),
            listed,
            counts_for,
            asked: None,
        };
        known.insert(key, answer);
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        // A panic while the map was locked leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
