//! Act: carries out what was decided. Each action is idempotent and has a deadline; what it changed is observed, never assumed.

mod kubernetes;
mod pgbouncer;
mod postgres;

pub use kubernetes::add_finalizer;

use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use tokio::time::Instant;

use crate::{
    api::{ClusterMigration, Marker, Rehearsal, RewindStatus},
    decide::Action,
    lease::Lease,
    observe::{Credentials, Refreshes, Sessions, Snapshot},
    postgres::Lsn,
};

/// How long what the API server said of the resource counts as current.
const CURRENT: Duration = Duration::from_millis(200);
/// How long the API server may take for one call.
const API_DEADLINE: Duration = Duration::from_secs(10);

/// Why an action was not done, or its outcome is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refuses.
    #[error("applying {what} failed: {because}")]
    Api {
        /// The object.
        what: String,
        /// What the API server said.
        because: kube::Error,
    },
    /// The API server does not answer.
    #[error("applying {what} gave no answer within {} s; its outcome is unknown", API_DEADLINE.as_secs())]
    Deadline {
        /// The object.
        what: String,
    },
    /// A server refuses or does not answer.
    #[error("on {member}, {because}")]
    Postgres {
        /// The member.
        member: String,
        /// What went wrong.
        because: crate::postgres::Error,
    },
    /// What was decided on is not so any more.
    #[error("{0}")]
    Outdated(String),
}

/// How an old primary is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopBy {
    /// It restarts itself: by the user's command line for a supervised server, else by the server's own `pg_ctl`.
    Restart(Option<String>),
    /// It shuts down, and what supervises it starts it again.
    ShutDown,
    /// Its pod is deleted, and what owns the pod makes it anew.
    Pod(String),
    /// A Job from a CronJob's template restarts it.
    Job {
        /// The CronJob.
        cron_job: String,
        /// Name of the Job, the same each time it is asked for.
        name: String,
    },
}

/// What actions did that status must remember.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// A marker that was written.
    pub marker: Option<Marker>,
    /// System identifier and clone source, frozen from now on.
    pub identity: Option<(String, String)>,
    /// How far a rehearsal is.
    pub rehearsal: Option<Rehearsal>,
    /// How far a rewind is.
    pub rewind: Option<RewindStatus>,
    /// When a row written on the new primary was acknowledged.
    pub first_write: Option<Timestamp>,
    /// The new primary's statistics were renewed.
    pub analyzed: bool,
    /// The resource was let go and may be gone.
    pub let_go: bool,
}

/// Hands of the operator.
pub struct Actor<'a> {
    /// Client of the API server.
    pub client: &'a Client,
    /// The right to act.
    pub lease: &'a Lease,
    /// Sessions to the servers.
    pub sessions: &'a Sessions,
    /// When the kubelet was asked for what pods mount.
    pub refreshes: &'a Refreshes,
    /// Logins; none while the Secrets are unusable.
    pub credentials: Option<&'a Credentials>,
    /// What the decision was made from.
    pub seen: &'a Snapshot,
    /// When the resource was last known to be what the API server holds.
    pub read: Instant,
}

impl Actor<'_> {
    /// Carries out actions in order and stops at the first that fails.
    ///
    /// # Errors
    /// The first action that failed or whose outcome is unknown.
    pub async fn act(&self, actions: &[Action]) -> Result<Effects, Error> {
        let mut effects = Effects::default();
        for action in actions {
            tracing::debug!(?action, "acting");
            self.act_once(action, &mut effects).await?;
        }
        Ok(effects)
    }

    async fn act_once(&self, action: &Action, effects: &mut Effects) -> Result<(), Error> {
        if action.is_dangerous_late() && self.read.elapsed() > CURRENT {
            kubernetes::ensure_current(self.client, self.migration()).await?;
        }
        match action {
            Action::Apply(object) => kubernetes::apply(self.client, self.migration(), object).await,
            Action::Place(placement) => kubernetes::place(self.client, self.migration(), placement).await,
            Action::Refresh { pods } => {
                kubernetes::refresh(self.client, self.migration(), self.refreshes, pods, self.seen.now).await;
                Ok(())
            }
            Action::BeginSeeding {
                system_identifier,
                clone_source,
            } => {
                effects.identity = Some((system_identifier.clone(), clone_source.to_string()));
                Ok(())
            }
            Action::LabelRole { member, role } => {
                kubernetes::label_role(self.client, self.migration(), member, role).await
            }
            Action::RecordRehearsal(rehearsal) => {
                effects.rehearsal = Some((**rehearsal).clone());
                Ok(())
            }
            Action::RecordRewind(rewind) => {
                effects.rewind = Some((**rewind).clone());
                Ok(())
            }
            Action::LetGo => {
                kubernetes::remove_finalizer(self.client, self.migration()).await?;
                effects.let_go = true;
                Ok(())
            }
            Action::WriteMarker { on } => {
                effects.marker = Some(marker(self.write_marker(on).await?));
                Ok(())
            }
            Action::EndTransactions { on, older_than } => self.end_transactions(on, *older_than).await,
            Action::Prepare {
                primary,
                standby,
                canary,
            } => {
                effects.marker = Some(marker(self.prepare(primary, standby, canary.as_deref()).await?));
                Ok(())
            }
            Action::EnsureSlot { on, slot } => self.ensure_slot(on, slot).await,
            Action::DropSlot { on, slot } => self.drop_slot(on, slot).await,
            Action::Follow { member, upstream, slot } => self.follow(member, upstream, slot).await,
            Action::Arm {
                member,
                upstream,
                slot,
                token,
            } => self.arm(member, upstream, slot, token).await,
            Action::Disarm { member, armed_by } => self.disarm(member, armed_by.as_deref()).await,
            Action::Stop { member, armed_by, by } => self.stop(member, armed_by, by).await,
            Action::Rehearse { member, by } => self.rehearse(member, by).await,
            Action::Rewind {
                begun,
                primary,
                upstream,
            } => {
                effects.rewind = self.rewind(begun, primary, upstream).await?;
                Ok(())
            }
            Action::Detach { member } => self.detach(member).await,
            Action::DropCanary { on } => self.drop_canary(on).await,
            Action::Checkpoint { member } => self.checkpoint(member).await,
            Action::PausePoolers(orders) => self.pause_poolers(orders).await,
            Action::ResumePoolers(orders) => self.resume_poolers(orders).await,
            Action::Promote { member, end, proof } => self.promote(member, *end, *proof).await,
            Action::ConfirmWrites { on, token } => {
                self.confirm_writes(on, token).await?;
                effects.first_write = Some(Timestamp::now());
                Ok(())
            }
            Action::Reinstate { member, timeline } => self.reinstate(member, *timeline).await,
            Action::Analyze { member } => {
                self.analyze(member).await?;
                effects.analyzed = true;
                Ok(())
            }
        }
    }

    /// Last before what does harm when it comes late: what was asked before may have been answered to a process that was frozen meanwhile.
    fn ensure_lease(&self) -> Result<(), Error> {
        if self.lease.is_held() {
            return Ok(());
        }
        Err(Error::Outdated("the Lease is not held any more".to_owned()))
    }

    const fn migration(&self) -> &ClusterMigration {
        &self.seen.migration
    }
}

fn marker(lsn: Lsn) -> Marker {
    Marker {
        lsn: lsn.to_string(),
        time: Timestamp::now(),
        replayed_time: None,
    }
}
