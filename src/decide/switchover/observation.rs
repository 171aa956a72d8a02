//! Which of the table's observations a turn comes upon, with what a person should know of it.

use super::{
    FRESH, Turn,
    gate::{Check, find_obstacles},
    table::Observation as Seen,
};
use crate::{
    api::{DesiredPhase, LongTransactions, OnPauseTimeout, Proof, Side, Step},
    decide::{
        members::{conninfo_between, is_told_to_follow, plan_labels},
        mounted::ensure_place,
        poolers::{find_busy, find_unseen, list_left_paused, list_paused, list_serving},
        routing::{
            find_laggards, find_unproven, has_held_routes, is_led_by_one, plan_configuration, plan_switch,
            without_silent,
        },
    },
    haproxy::State,
    observe::{Member, Sight},
    postgres::{Lsn, Server},
};

/// Age of the preparation in seconds after which it is done again before clients are held.
const PREPARED_FOR: f64 = 5.0;
/// Seconds in which the last record of the old primary usually arrives; a checkpoint, which would show it as well, only delays it.
const CATCH_UP: f64 = 0.3;
/// Seconds after which statistics and slots keep nobody from the way back any more.
const FINISH_PATIENCE: f64 = 600.0;
/// Seconds for which the switchover waits for the old side to follow, after clients were released.
const FOLLOW_PATIENCE: f64 = 60.0;
/// Seconds for which it waits until the new primary was reached through every HAProxy pod; what hinders that may be a network policy.
const REACH_PATIENCE: f64 = 10.0;

/// Seconds for which all HAProxy pods are waited for before PgBouncer is let go on to those that lead to the primary.
const PROXY_PATIENCE: f64 = 2.0;
/// Seconds for which a HAProxy pod that does not answer is waited for where a switchover may go on without it.
const SILENCE: f64 = 1.5;

/// An observation and what a person should know of it; empty when the observation says it all.
pub(super) type Observed = (Seen, String);

fn plain(seen: Seen) -> Observed {
    (seen, String::new())
}

impl Turn<'_> {
    /// What this turn comes upon. Everything that it depends on is in the snapshot.
    pub(super) fn observe(&self) -> Observed {
        if let Some(over) = self.reason_to_end() {
            return over;
        }
        match self.record.step {
            Step::Gate => self.at_gate(),
            Step::Hold => self.at_hold(),
            Step::Arm => self.at_arm(),
            Step::Stop => self.at_old_primary(),
            Step::Prove => self.at_proof(),
            Step::Promote => self.at_promotion(),
            Step::Route => self.at_route(),
            Step::Release => self.at_release(),
            Step::Follow => self.at_followers(),
            Step::Finish => self.at_finish(),
            Step::Restore => self.at_restore(),
            // Terminal: no row is there for them.
            Step::Done | Step::Aborted => plain(Seen::Ready),
        }
    }

    /// Before promotion everything can be undone, and is when time is over or nobody wants it any more. After it only a deletion
    /// shortens what is left.
    fn reason_to_end(&self) -> Option<Observed> {
        let step = self.record.step;
        let migration = &self.seen.migration;
        let deleted = migration.metadata.deletion_timestamp.is_some();
        if matches!(step, Step::Follow | Step::Finish) {
            return deleted.then(|| plain(Seen::Deleted));
        }
        if !matches!(step, Step::Gate | Step::Arm | Step::Hold | Step::Stop | Step::Prove) {
            return None;
        }
        if deleted {
            return Some(plain(Seen::Deleted));
        }
        let wanted = match self.record.to {
            Side::Target => DesiredPhase::Switched,
            Side::Source => DesiredPhase::RolledBack,
        };
        if migration.spec.phase != wanted {
            return Some((Seen::CalledOff, format!("it is {} now", migration.spec.phase.as_str())));
        }
        // What is proven is not undone for being late.
        if step == Step::Prove && self.new.server().is_some_and(|server| self.proof(server).is_some()) {
            return None;
        }
        let deadline = self.record.deadline?;
        (self.seen.now > deadline).then(|| {
            (
                Seen::OverBudget,
                format!(
                    "{} since clients were to be held, in step {}: {}",
                    migration.spec.switchover.budget,
                    step.as_str(),
                    self.waited_for()
                ),
            )
        })
    }

    /// What the running step was waiting for, for the record of an abort.
    fn waited_for(&self) -> String {
        match self.record.step {
            Step::Hold => match self.at_hold() {
                (Seen::ProxiesBehind, laggard) => format!("HAProxy pod {laggard}"),
                (Seen::PoolersServing | Seen::PoolersBusy | Seen::PoolersLate, busy) => format!("PgBouncer {busy}"),
                _ => "HAProxy held too late".to_owned(),
            },
            Step::Arm | Step::Stop => match &self.old.sight {
                Sight::Unreachable(because) | Sight::Refused(because) => because.clone(),
                _ => format!("{} was not stopped", self.old.name),
            },
            _ => format!(
                "{} had not replayed the last record of {}",
                self.new.name, self.old.name
            ),
        }
    }

    fn at_gate(&self) -> Observed {
        let obstacles = find_obstacles(self);
        let spec = &self.seen.migration.spec.switchover;
        let only_transactions = obstacles
            .iter()
            .all(|obstacle| matches!(obstacle.check, Check::NoLongTransactions | Check::NoIdleTransactions));
        if !obstacles.is_empty() {
            if only_transactions && spec.long_transactions == LongTransactions::Terminate {
                return plain(Seen::LongTransactions);
            }
            let texts: Vec<String> = obstacles.into_iter().map(|obstacle| obstacle.message).collect();
            return (Seen::Obstructed, texts.join("; "));
        }
        let slot = self.old.name.slot();
        let has_slot = self.new.server().is_some_and(|server| server.has_slot(slot.as_str()));
        let Some(prepared) = self.prepared_lsn().filter(|_| has_slot) else {
            return plain(Seen::Unprepared);
        };
        let replayed = self.new.server().and_then(|server| server.lsn);
        if replayed < Some(prepared) || (spec.canary && !self.seen.canary_replayed) {
            return (Seen::CanaryOnItsWay, format!("by {}", self.new.name));
        }
        plain(Seen::Ready)
    }

    /// Position right after the preparation of this attempt, while that is recent.
    pub(super) fn prepared_lsn(&self) -> Option<Lsn> {
        let began = self.record.started(Step::Gate).unwrap_or(self.seen.now);
        let status = self.seen.migration.status.as_ref()?;
        let marker = status.marker.as_ref()?;
        let age = (self.seen.now - marker.time).total(jiff::Unit::Second).ok()?;
        (marker.time >= began && age < PREPARED_FOR)
            .then(|| marker.lsn.parse().ok())
            .flatten()
    }

    /// PgBouncer comes first: what HAProxy ends is an error for somebody.
    fn at_hold(&self) -> Observed {
        self.at_pause().unwrap_or_else(|| self.at_proxies(State::Held))
    }

    /// What is left to be done at PgBouncer before HAProxy holds; nothing where it waits, or has waited for long enough.
    fn at_pause(&self) -> Option<Observed> {
        let pgbouncer = self.seen.migration.spec.pgbouncer()?;
        let is_late = self.waiting() > std::time::Duration::from(pgbouncer.pause_timeout).as_secs_f64();
        if is_late && pgbouncer.on_timeout == OnPauseTimeout::Proceed {
            return None;
        }
        if !is_late && !list_serving(self.seen).is_empty() {
            return Some(plain(Seen::PoolersServing));
        }
        let busy = find_busy(self.seen)?;
        Some((if is_late { Seen::PoolersLate } else { Seen::PoolersBusy }, busy))
    }

    /// Clients of HAProxy are released. Those of PgBouncer come next, and before others when a pod keeps everybody waiting: what leads to no
    /// other server cannot lead them wrong.
    fn at_release(&self) -> Observed {
        match self.at_proxies(State::Open) {
            done @ (Seen::ProxiesDone, _) => self.at_resume().or_else(|| self.at_unseen()).unwrap_or(done),
            behind => self.at_late_release(behind),
        }
    }

    fn at_late_release(&self, other: Observed) -> Observed {
        let (_, first) = self.wanted_routing();
        // A pod that holds nobody leads to the old side until it is turned over.
        if !has_held_routes(self.seen) {
            return other;
        }
        let is_late = other.0 == Seen::ProxiesBehind && self.waiting() > PROXY_PATIENCE;
        if is_late && is_led_by_one(self.seen, first) && !list_paused(self.seen).is_empty() {
            return plain(Seen::PoolersPaused);
        }
        other
    }

    /// Databases of PgBouncer that are paused. One that does not go on when it is told to is not waited for without end: what is left then is
    /// on record.
    fn at_resume(&self) -> Option<Observed> {
        let is_due = self.waiting() < REACH_PATIENCE && !list_paused(self.seen).is_empty();
        is_due.then(|| plain(Seen::PoolersPaused))
    }

    fn at_unseen(&self) -> Option<Observed> {
        let unseen = find_unseen(self.seen).filter(|_| self.waiting() < REACH_PATIENCE)?;
        Some((Seen::PoolersUnseen, unseen))
    }

    fn at_proxies(&self, state: State) -> Observed {
        let nothing = match state {
            State::Held => !has_held_routes(self.seen),
            State::Open => self.seen.migration.spec.traffic.is_none(),
        };
        if nothing {
            return plain(Seen::NoRoutes);
        }
        if self.record.step == Step::Release && !has_held_routes(self.seen) {
            // Nobody was held, and nothing was changed that is to be taken back.
            return plain(Seen::ProxiesDone);
        }
        let (primary, first) = self.wanted_routing();
        match plan_switch(self.seen, primary, first, state) {
            Err(message) => (Seen::AddressUnknown, message),
            Ok((_, actions)) if !actions.is_empty() => plain(Seen::ProxiesUntold),
            Ok((generation, _)) => {
                let mut laggards = find_laggards(self.seen, generation, state);
                if self.waiting() > SILENCE {
                    laggards = without_silent(self.seen, laggards);
                }
                match laggards.into_iter().next() {
                    Some(laggard) => (Seen::ProxiesBehind, laggard.message),
                    None => plain(Seen::ProxiesDone),
                }
            }
        }
    }

    /// Writes are confirmed while the budget lasts: a primary that takes none keeps its clients waiting, but not the rest of the switch.
    fn at_route(&self) -> Observed {
        let in_time = self.record.deadline.is_none_or(|deadline| self.seen.now <= deadline);
        let awaited = self.seen.migration.spec.switchover.canary && self.record.first_write.is_none() && in_time;
        match self.at_proxies(State::Open) {
            (Seen::NoRoutes, _) if awaited => plain(Seen::Unconfirmed),
            done @ (Seen::ProxiesDone, _) => {
                let unconfirmed = || awaited.then(|| plain(Seen::Unconfirmed));
                let next = self.at_resume().or_else(unconfirmed);
                next.or_else(|| self.at_unseen()).unwrap_or(done)
            }
            other => self.at_late_release(other),
        }
    }

    /// Whom the routing of this step leads to, and its generation unless somebody wrote a later one.
    pub(super) const fn wanted_routing(&self) -> (&Member, u64) {
        match self.record.step {
            Step::Route => (self.new, self.record.generation + 1),
            Step::Release => (self.old, self.record.generation + 1),
            _ => (self.old, self.record.generation),
        }
    }

    /// Clients are not held before the old primary is armed: what that takes, they do not wait for.
    fn at_arm(&self) -> Observed {
        match self.at_old_primary() {
            (Seen::OldArmed, detail) => {
                let unknown = |observed: &Observed| observed.0 == Seen::AddressUnknown;
                let held = Some(self.at_proxies(State::Held)).filter(unknown);
                held.or_else(|| self.at_coming_release())
                    .unwrap_or((Seen::OldArmed, detail))
            }
            other => other,
        }
    }

    /// What would keep clients from being led to the new primary: once it is promoted they would wait for it without end.
    fn at_coming_release(&self) -> Option<Observed> {
        self.seen.migration.spec.traffic.as_ref()?;
        let release = plan_configuration(self.seen, self.new, self.record.generation, State::Open)
            .and_then(|release| ensure_place(self.seen, &release));
        release.err().map(|because| (Seen::AddressUnknown, because))
    }

    fn at_old_primary(&self) -> Observed {
        if conninfo_between(self.seen, self.old, self.new).is_none() {
            return (
                Seen::AddressUnknown,
                format!("where {} reaches {}", self.old.name, self.new.name),
            );
        }
        match self.old.server() {
            None => (Seen::OldUnseen, self.old.unseen_because()),
            Some(server) if server.in_recovery => plain(Seen::OldStandby),
            Some(_) if self.is_armed() => plain(Seen::OldArmed),
            Some(_) => plain(Seen::OldServes),
        }
    }

    fn at_proof(&self) -> Observed {
        let old_serves = self.old.server().is_some_and(|server| !server.in_recovery);
        match self.new.server() {
            Some(server) if !server.in_recovery && old_serves => plain(Seen::TwoPrimaries),
            // It was out of sight when it was taken for stopped.
            _ if old_serves && self.is_armed() => plain(Seen::OldArmed),
            _ if old_serves => plain(Seen::OldServes),
            None => (Seen::NewUnseen, self.new.unseen_because()),
            Some(server) if !server.in_recovery => plain(Seen::NewServes),
            Some(server) if self.proof(server).is_some() => plain(Seen::NewProven),
            Some(_) if self.waiting() < CATCH_UP => plain(Seen::NewCatchingUp),
            Some(_) => plain(Seen::NewStandby),
        }
    }

    /// Where the old primary's WAL ends, when the member that is promoted replayed exactly to there; with how that is known.
    pub(super) fn proof(&self, server: &Server) -> Option<(Lsn, Proof)> {
        let position = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<Lsn>().ok());
        let (armed, canary) = (position(&self.record.armed_lsn)?, position(&self.record.canary_lsn)?);
        let same = server.system_identifier == self.record.system_identifier && server.timeline == self.record.timeline;
        let canary_there = self.seen.canary_replayed || !self.seen.migration.spec.switchover.canary;
        if !same || !canary_there || server.replay_paused {
            return None;
        }
        let is_last = |end: &Lsn| {
            *end > armed
                && *end > canary
                // Back as a standby, the old primary must not have more either.
                && self.old.server().is_none_or(|old| old.lsn <= Some(*end))
        };
        if let Some(end) = server.replayed_shutdown_checkpoint().filter(is_last) {
            return Some((end, Proof::ShutdownCheckpoint));
        }
        // The old primary crashed instead of stopping and came back as a standby. It streams, so it has read all that it wrote itself.
        let old = self.old.server()?;
        let is_back = old.in_recovery
            && old.standby_signal
            && old.streams_within(FRESH)
            && old.timeline == self.record.timeline
            && old.system_identifier == self.record.system_identifier;
        let end = server
            .lsn
            .filter(|end| is_back && old.lsn == Some(*end) && is_last(end))?;
        Some((end, Proof::SameEnd))
    }

    fn at_promotion(&self) -> Observed {
        let old_serves = self.old.server().is_some_and(|server| !server.in_recovery);
        match self.new.server() {
            Some(server) if !server.in_recovery && old_serves => plain(Seen::TwoPrimaries),
            Some(server) if !server.in_recovery => plain(Seen::NewServes),
            _ if old_serves => (Seen::OldServes, format!("{} accepts writes", self.old.name)),
            // Once seen as primary, it must be seen as none before anybody else becomes one.
            Some(_) if self.record.alarm.is_some() && self.old.server().is_none() => {
                (Seen::OldUnseen, self.old.unseen_because())
            }
            Some(_) => plain(Seen::NewStandby),
            None => (Seen::NewUnseen, self.new.unseen_because()),
        }
    }

    fn at_followers(&self) -> Observed {
        if !plan_labels(self.seen).is_empty() {
            return plain(Seen::LabelsDue);
        }
        let Some(primary) = self.new.server().filter(|server| !server.in_recovery) else {
            return (Seen::NewUnseen, self.new.unseen_because());
        };
        let (Some(fork), Some(end)) = (self.seen.fork, &self.record.end_of_wal) else {
            return plain(Seen::HistoryUnread);
        };
        if fork.to_string() != *end {
            return (
                Seen::ForkElsewhere,
                format!(
                    "timeline {} forks off at {fork}, {} ended at {end}",
                    primary.timeline, self.old.name
                ),
            );
        }
        let waiting = self.waiting_to_follow();
        if waiting < FOLLOW_PATIENCE && !list_left_paused(self.seen, self.record).is_empty() {
            return plain(Seen::PoolersPaused);
        }
        if let Some(pod) = find_unproven(self.seen).filter(|_| waiting < REACH_PATIENCE) {
            return (Seen::ProxiesUnproven, pod.to_owned());
        }
        let behind: Vec<&str> = self
            .seen
            .members
            .iter()
            .filter(|member| member.name != self.new.name)
            .filter(|member| {
                !member.server().is_some_and(|server| {
                    server.in_recovery && server.streams_within(FRESH) && server.timeline == primary.timeline
                })
            })
            .map(|member| member.name.as_str())
            .collect();
        if behind.is_empty() {
            return plain(Seen::Following);
        }
        let seen = if waiting > FOLLOW_PATIENCE {
            Seen::GivenUp
        } else {
            Seen::Behind
        };
        (seen, behind.join(", "))
    }

    /// Seconds since the old side was told to follow.
    fn waiting_to_follow(&self) -> f64 {
        let since = self.record.started(Step::Follow);
        since
            .and_then(|since| (self.seen.now - since).total(jiff::Unit::Second).ok())
            .unwrap_or(0.0)
    }

    fn at_finish(&self) -> Observed {
        if self.new.server().is_none() {
            return (Seen::NewUnseen, self.new.unseen_because());
        }
        let unseen: Vec<&str> = self
            .seen
            .members
            .iter()
            .filter(|member| member.server().is_none())
            .map(|member| member.name.as_str())
            .collect();
        if self.record.analyzed && self.keepers_of_old_slot().is_empty() {
            if unseen.is_empty() || self.waiting_to_follow() > FOLLOW_PATIENCE {
                plain(Seen::Ready)
            } else {
                (Seen::Behind, unseen.join(", "))
            }
        } else if self.waiting() > FINISH_PATIENCE {
            (Seen::GivenUp, format!("run ANALYZE on {}", self.new.name))
        } else {
            plain(Seen::Unfinished)
        }
    }

    /// A member of this cluster other than the old primary that accepts writes.
    fn other_primary(&self) -> Option<&Member> {
        let serves = |member: &&Member| {
            member
                .server()
                .is_some_and(|server| !server.in_recovery && server.system_identifier == self.record.system_identifier)
        };
        let mut others = self.seen.members.iter().filter(|member| member.name != self.old.name);
        others.find(serves)
    }

    /// Whether the old primary would come back as a standby of the other side, by order of this attempt: what somebody else left there, or an
    /// order that did not fit on the disk, counts for nothing.
    fn is_armed(&self) -> bool {
        let conninfo = conninfo_between(self.seen, self.old, self.new);
        self.old.server().zip(conninfo).is_some_and(|(server, conninfo)| {
            server.standby_signal
                && server.armed_by.as_deref() == Some(&self.record.id)
                && is_told_to_follow(server, &conninfo.upstream, self.old)
        })
    }

    /// Members that still keep WAL for the new primary, which follows nobody any more.
    pub(super) fn keepers_of_old_slot(&self) -> Vec<&Member> {
        let slot = self.new.name.slot();
        let keeps = |member: &&Member| member.server().is_some_and(|server| server.has_slot(slot.as_str()));
        self.seen.members.iter().filter(keeps).collect()
    }

    fn at_restore(&self) -> Observed {
        let other = self.other_primary();
        match self.old.server() {
            Some(server) if !server.in_recovery && other.is_some() => plain(Seen::TwoPrimaries),
            _ if let Some(other) = other => (Seen::NewServes, format!("{} accepts writes", other.name)),
            // Once seen as primary, it must be seen as none before anybody else becomes one.
            _ if self.record.alarm.is_some() && self.new.server().is_none() => {
                (Seen::NewUnseen, self.new.unseen_because())
            }
            Some(server) if server.in_recovery && server.replay_paused => plain(Seen::OldPaused),
            None => (Seen::OldUnseen, self.old.unseen_because()),
            Some(server) if server.in_recovery => plain(Seen::OldStandby),
            Some(server)
                if server.standby_signal || server.follows_as.as_deref() == Some(&self.old.name.application_name()) =>
            {
                plain(Seen::OldArmed)
            }
            Some(_) => plain(Seen::OldServes),
        }
    }
}
