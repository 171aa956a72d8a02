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
    postgres::{Server, fetch_listing},
};

/// How long an answer counts.
const KEPT: Duration = Duration::from_mins(5);
/// How long the first failure counts; each further one counts twice as long as the one before, up to [`KEPT`].
const DOUBTED: Duration = Duration::from_secs(5);
/// How long all databases may take.
const ANSWER: Duration = Duration::from_mins(1);

/// What a source said last.
#[derive(Clone)]
struct Answer {
    at: Instant,
    listed: Listed,
    counts_for: Duration,
    is_asked_again: bool,
}

type Answers = HashMap<Address, Answer>;

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
        let mut known = self.lock();
        let answer = known.entry(member.address.clone()).or_insert_with(|| Answer {
            at: Instant::now(),
            listed: Listed::NotYet,
            counts_for: Duration::ZERO,
            is_asked_again: false,
        });
        let is_due = answer.at.elapsed() >= answer.counts_for && !answer.is_asked_again;
        if is_due && !is_switching {
            answer.is_asked_again = true;
            let (this, member) = (self.clone(), member.clone());
            let login = credentials.of(member.side).clone();
            tokio::spawn(async move {
                let listing = timeout(ANSWER, fetch_listing(&login, &member.address)).await;
                this.take(
                    &member.address,
                    match listing {
                        Ok(Ok(listing)) => Listed::Seen(Box::new(listing)),
                        Ok(Err(error)) => Listed::Failed(format!("on {}, {error}", member.name)),
                        Err(_) => Listed::Failed(format!(
                            "the databases of {} did not all answer within {} s",
                            member.name,
                            ANSWER.as_secs()
                        )),
                    },
                );
            });
        }
        answer.listed.clone()
    }

    fn take(&self, address: &Address, listed: Listed) {
        let mut known = self.lock();
        let failed_for = match known.get(address) {
            Some(Answer {
                listed: Listed::Failed(_),
                counts_for,
                ..
            }) => (*counts_for * 2).min(KEPT),
            _ => DOUBTED,
        };
        let counts_for = if matches!(listed, Listed::Failed(_)) {
            failed_for
        } else {
            KEPT
        };
        let answer = Answer {
            at: Instant::now(),
            listed,
            counts_for,
            is_asked_again: false,
        };
        known.insert(address.clone(), answer);
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        // A panic while the map was locked leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
