//! What the source uses of its machine: asked seldom, since it means a session in every database.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
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
/// The same for one that failed.
const DOUBTED: Duration = Duration::from_secs(5);
/// How long all databases may take.
const ANSWER: Duration = Duration::from_secs(20);

/// What sources said lately.
#[derive(Clone, Default)]
pub struct Inventories {
    known: Arc<Mutex<HashMap<Address, (Instant, Listed)>>>,
}

impl Inventories {
    /// Asks a standby of the source, or its primary where there is none, unless it was asked lately. While a switchover runs nobody is asked.
    pub(super) async fn look(
        &self,
        migration: &ClusterMigration,
        members: &[Member],
        credentials: &Credentials,
    ) -> Listed {
        let sources = || members.iter().filter(|member| member.side == Side::Source);
        let seen = |in_recovery: bool| {
            let has = move |server: &Server| server.in_recovery == in_recovery;
            sources().find(move |member| member.server().is_some_and(has))
        };
        let Some(member) = seen(true).or_else(|| seen(false)) else {
            return Listed::NotYet;
        };
        let record = migration.status.as_ref().and_then(|status| status.switchover.as_ref());
        let is_switching = record.is_some_and(|record| !record.step.is_terminal());
        let known = self.lock().get(&member.address).cloned();
        if let Some((at, listed)) = known {
            let patience = if matches!(listed, Listed::Failed(_)) {
                DOUBTED
            } else {
                KEPT
            };
            if is_switching || at.elapsed() < patience {
                return listed;
            }
        } else if is_switching {
            return Listed::NotYet;
        }
        let listing = fetch_listing(credentials.of(member.side), &member.address);
        let listed = match timeout(ANSWER, listing).await {
            Ok(Ok(listing)) => Listed::Seen(Box::new(listing)),
            Ok(Err(error)) => Listed::Failed(format!("on {}, {error}", member.name)),
            Err(_) => Listed::Failed(format!(
                "the databases of {} did not all answer within {} s",
                member.name,
                ANSWER.as_secs()
            )),
        };
        self.lock()
            .insert(member.address.clone(), (Instant::now(), listed.clone()));
        listed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Address, (Instant, Listed)>> {
        // A panic while the map was locked leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
