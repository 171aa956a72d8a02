//! Actions on servers.

use std::{sync::Arc, time::Duration};

use super::{Actor, Error, StopBy, kubernetes};
use crate::{
    api::{Proof, RewindOutcome, RewindStatus},
    observe::Member,
    postgres::{self, Conninfo, Login, Lsn, MemberName, Server, Session, SlotName},
};

/// How long the first row on the new primary may take before it is tried anew.
const CONFIRMED: Duration = Duration::from_secs(2);

impl Actor<'_> {
    fn place(&self, name: &MemberName) -> Result<(&Member, &Login), Error> {
        let member = self
            .seen
            .member(name.as_str())
            .ok_or_else(|| Error::Outdated(format!("{name} is not in the specification any more")))?;
        let credentials = self
            .credentials
            .ok_or_else(|| Error::Outdated("the Secrets are not usable any more".to_owned()))?;
        Ok((member, credentials.of(member.side)))
    }

    async fn session(&self, name: &MemberName) -> Result<Arc<Session>, Error> {
        let (member, login) = self.place(name)?;
        self.sessions.get(login, &member.address).await.map_err(on(name))
    }

    /// A connection string with the login that both sides share.
    fn complete(&self, conninfo: &Conninfo) -> Result<Conninfo, Error> {
        let credentials = self
            .credentials
            .ok_or_else(|| Error::Outdated("the Secrets are not usable any more".to_owned()))?;
        Ok(Conninfo {
            user: credentials.source.user.clone(),
            password: Some(credentials.source.password.clone()),
            ..conninfo.clone()
        })
    }

    pub(super) async fn write_marker(&self, member: &MemberName) -> Result<Lsn, Error> {
        let session = self.session(member).await?;
        postgres::write_marker(&session, "marker").await.map_err(on(member))
    }

    /// Both checkpoints and the warm-up before the canary: the shutdown then has little to write, and the canary's position is the newest.
    pub(super) async fn prepare(
        &self,
        primary: &MemberName,
        standby: &MemberName,
        canary: Option<&str>,
    ) -> Result<Lsn, Error> {
        let session = self.session(primary).await?;
        postgres::end_silent_standbys(&session).await.map_err(on(primary))?;
        postgres::checkpoint(&session).await.map_err(on(primary))?;
        postgres::checkpoint(&*self.session(standby).await?)
            .await
            .map_err(on(standby))?;
        let (place, login) = self.place(standby)?;
        if let Err(because) = postgres::warm_up(login, &place.address, &*self.session(standby).await?).await {
            // It only costs the first clients some time.
            tracing::warn!(member = %standby, %because, "not every database could be entered before the switch");
        }
        if let Some(token) = canary {
            postgres::write_canary(&session, token).await.map_err(on(primary))?;
        }
        postgres::write_marker(&session, "gate").await.map_err(on(primary))
    }

    /// Writes a row as a client would; one that hangs keeps nobody from what comes next.
    pub(super) async fn confirm_writes(&self, member: &MemberName, token: &str) -> Result<(), Error> {
        let session = self.session(member).await?;
        let late = || postgres::Error::Deadline {
            what: "writing a row on the new primary",
            seconds: CONFIRMED.as_secs(),
        };
        let written = tokio::time::timeout(CONFIRMED, postgres::write_canary(&session, token)).await;
        written.unwrap_or_else(|_| Err(late())).map(drop).map_err(on(member))
    }

    pub(super) async fn ensure_slot(&self, member: &MemberName, slot: &SlotName) -> Result<(), Error> {
        postgres::ensure_slot(&*self.session(member).await?, slot)
            .await
            .map_err(on(member))
    }

    pub(super) async fn drop_slot(&self, member: &MemberName, slot: &SlotName) -> Result<(), Error> {
        postgres::drop_slot(&*self.session(member).await?, slot)
            .await
            .map_err(on(member))
    }

    pub(super) async fn follow(&self, member: &MemberName, upstream: &Conninfo, slot: &SlotName) -> Result<(), Error> {
        let upstream = self.complete(upstream)?;
        postgres::follow(&*self.session(member).await?, &upstream, slot)
            .await
            .map_err(on(member))
    }

    pub(super) async fn arm(
        &self,
        member: &MemberName,
        upstream: &Conninfo,
        slot: &SlotName,
        token: &str,
    ) -> Result<(), Error> {
        let upstream = self.complete(upstream)?;
        let session = self.session(member).await?;
        postgres::follow(&session, &upstream, slot).await.map_err(on(member))?;
        self.ensure_lease()?;
        postgres::arm(&session, token).await.map_err(on(member))
    }

    pub(super) async fn disarm(&self, member: &MemberName, armed_by: Option<&str>) -> Result<(), Error> {
        let session = self.session(member).await?;
        self.ensure_lease()?;
        postgres::disarm(&session, armed_by).await.map_err(on(member))
    }

    pub(super) async fn detach(&self, member: &MemberName) -> Result<(), Error> {
        postgres::detach(&*self.session(member).await?)
            .await
            .map_err(on(member))
    }

    pub(super) async fn drop_canary(&self, member: &MemberName) -> Result<(), Error> {
        postgres::drop_canary(&*self.session(member).await?)
            .await
            .map_err(on(member))
    }

    pub(super) async fn end_transactions(&self, member: &MemberName, older_than: Duration) -> Result<(), Error> {
        let session = self.session(member).await?;
        let ended = postgres::end_transactions(&session, older_than)
            .await
            .map_err(on(member))?;
        tracing::warn!(%member, ended, "long transactions were ended");
        Ok(())
    }

    /// Stops the primary that was armed by this order: one that comes late must not stop a server that somebody armed anew.
    pub(super) async fn stop(&self, member: &MemberName, armed_by: &str, by: &StopBy) -> Result<(), Error> {
        let session = self.session(member).await?;
        if matches!(by, StopBy::Restart(_) | StopBy::ShutDown) {
            postgres::let_sessions_leave(&session).await.map_err(on(member))?;
        }
        // In one go: clients wait.
        let looked = tokio::try_join!(postgres::flush(&session), postgres::fetch_server_switching(&session));
        let ((), server) = looked.map_err(on(member))?;
        if server.in_recovery || server.armed_by.as_deref() != Some(armed_by) {
            return Err(Error::Outdated(format!("{member} is no primary that {armed_by} armed")));
        }
        self.restart(member, &session, &server, by).await
    }

    /// Restarts a standby the way that an old primary is restarted.
    pub(super) async fn rehearse(&self, member: &MemberName, by: &StopBy) -> Result<(), Error> {
        let session = self.session(member).await?;
        let server = postgres::fetch_server_switching(&session).await.map_err(on(member))?;
        if !server.in_recovery {
            return Err(Error::Outdated(format!(
                "{member} is no standby: nothing is rehearsed on it"
            )));
        }
        self.restart(member, &session, &server, by).await
    }

    async fn restart(&self, member: &MemberName, session: &Session, server: &Server, by: &StopBy) -> Result<(), Error> {
        match by {
            StopBy::Restart(command) => {
                self.ensure_lease()?;
                let told = postgres::restart_by_sql(session, server, command.as_deref()).await;
                return told.map_err(on(member));
            }
            StopBy::ShutDown => {
                self.ensure_lease()?;
                return postgres::shut_down_by_sql(session, server).await.map_err(on(member));
            }
            StopBy::Pod(pod) => {
                let uid = kubernetes::find_pod(self.client, self.migration(), pod).await?;
                self.ensure_lease()?;
                kubernetes::delete_pod(self.client, self.migration(), pod, uid).await?;
            }
            StopBy::Job { cron_job, name } => {
                let (place, _) = self.place(member)?;
                let job = kubernetes::plan_job(self.client, self.migration(), cron_job, name, place).await?;
                self.ensure_lease()?;
                kubernetes::apply(self.client, self.migration(), &job).await?;
            }
        }
        postgres::wait_for_the_end(session, postgres::SHUTDOWN_DEADLINE)
            .await
            .map_err(on(member))
    }

    /// Rewinds a standby after one more look. What was begun becomes refused where it cannot be done: a primary, or a server that holds
    /// something else by now, is left alone.
    pub(super) async fn rewind(
        &self,
        begun: &RewindStatus,
        primary: &MemberName,
        upstream: &Conninfo,
    ) -> Result<Option<RewindStatus>, Error> {
        let member = &upstream.standby;
        let refused = |because: &str| RewindStatus {
            outcome: Some(RewindOutcome::Refused),
            message: Some(because.to_owned()),
            ..begun.clone()
        };
        let upstream = self.complete(upstream)?;
        let session = self.session(member).await?;
        // pg_rewind compares the control files, and the primary's knows of its timeline from the first checkpoint on.
        self.checkpoint(primary).await?;
        let whole = postgres::fetch_server(&session).await.map_err(on(member))?;
        if !whole.in_recovery || !whole.standby_signal {
            return Ok(Some(refused("it is no standby, or would not come back as one")));
        }
        if whole.received != begun.discard.parse().ok() {
            return Ok(Some(refused("it holds something else by now")));
        }
        let server = postgres::fetch_server_switching(&session).await.map_err(on(member))?;
        let obstacle = postgres::find_rewind_obstacle(&session, &server)
            .await
            .map_err(on(member))?;
        if let Some(obstacle) = obstacle {
            return Ok(Some(refused(obstacle)));
        }
        self.ensure_lease()?;
        let told = postgres::rewind_by_sql(&session, &server, &upstream).await;
        told.map(|()| None).map_err(on(member))
    }

    pub(super) async fn checkpoint(&self, member: &MemberName) -> Result<(), Error> {
        postgres::checkpoint(&*self.session(member).await?)
            .await
            .map_err(on(member))
    }

    /// Promotes after one more look: what was proven must still be so.
    pub(super) async fn promote(&self, member: &MemberName, end: Lsn, proof: Proof) -> Result<(), Error> {
        let session = self.session(member).await?;
        let server = postgres::fetch_server_switching(&session).await.map_err(on(member))?;
        if !server.in_recovery {
            return Ok(());
        }
        let still = match proof {
            Proof::ShutdownCheckpoint => server.replayed_shutdown_checkpoint(),
            Proof::SameEnd => server.lsn,
        };
        if still != Some(end) {
            return Err(Error::Outdated(format!(
                "{member} replayed something after {end}: it is not promoted"
            )));
        }
        self.ensure_lease()?;
        postgres::promote(&session).await.map_err(on(member))
    }

    /// Makes the old primary primary again, unless somebody else has gone on since.
    pub(super) async fn reinstate(&self, member: &MemberName, timeline: u32) -> Result<(), Error> {
        let session = self.session(member).await?;
        let server = postgres::fetch_server_switching(&session).await.map_err(on(member))?;
        if !server.in_recovery {
            return Ok(());
        }
        if server.timeline != timeline || server.replay_paused {
            return Err(Error::Outdated(format!(
                "{member} is on timeline {}, not {timeline}, or does not replay: it is not made primary again",
                server.timeline
            )));
        }
        self.ensure_lease()?;
        postgres::promote(&session).await.map_err(on(member))
    }

    pub(super) async fn analyze(&self, member: &MemberName) -> Result<(), Error> {
        let (place, login) = self.place(member)?;
        let session = self.session(member).await?;
        postgres::analyze_all(login, &place.address, &session)
            .await
            .map_err(on(member))
    }
}

fn on(member: &MemberName) -> impl FnOnce(postgres::Error) -> Error {
    let member = member.to_string();
    move |because| Error::Postgres { member, because }
}
