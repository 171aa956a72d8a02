//! The agent's loop: what is wanted, made so and kept so.

use std::{pin::pin, time::Duration};

use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::{
    select,
    sync::watch::Sender,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{AgentError, Haproxy, Report, ReportState, Wish};
use crate::haproxy::State;

/// How often what runs is compared with what is wanted.
const VERIFY: Duration = Duration::from_secs(1);
/// The same while clients wait or HAProxy is absent: a HAProxy that starts anew must be held at once.
const VERIFY_CLOSELY: Duration = Duration::from_millis(100);
/// When a configuration that HAProxy refused is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Makes HAProxy do what each wish asks for, keeps it so, and reports, until the stream ends.
///
/// An `Err` in the stream is a sentence about a ConfigMap that cannot be read: it is reported, and what was wanted
/// before stays.
pub async fn drive(haproxy: Haproxy, wishes: impl Stream<Item = Result<Wish, String>>, report: Sender<Report>) {
    let mut wishes = pin!(wishes.fuse());
    let mut driver = Driver {
        haproxy,
        report,
        wish: None,
        seen: Instant::now(),
        took: None,
        complaint: None,
        conflict: false,
        refusal: None,
        is_told_in_full: false,
    };
    loop {
        select! {
            biased;
            next = wishes.next() => {
                let Some(mut next) = next else { return };
                driver.take(next);
                // Only the last one counts when several came meanwhile.
                while let Some(later) = wishes.next().now_or_never() {
                    let Some(later) = later else { return };
                    next = later;
                    driver.take(next);
                }
            }
            () = sleep(driver.pause()) => {}
        }
        driver.converge().await;
    }
}

struct Driver {
    haproxy: Haproxy,
    report: Sender<Report>,
    wish: Option<Wish>,
    /// When the wish came.
    seen: Instant,
    /// Time from the wish to its fulfilment.
    took: Option<Duration>,
    /// What is wrong with the ConfigMap.
    complaint: Option<String>,
    /// Whether that is another content under the number that is followed.
    conflict: bool,
    /// When HAProxy refused the wish, and what it said.
    refusal: Option<(Instant, String)>,
    /// Whether the report holds everything since the last change.
    is_told_in_full: bool,
}

impl Driver {
    fn take(&mut self, next: Result<Wish, String>) {
        let former = self.wish.as_ref();
        self.conflict = next
            .as_ref()
            .is_ok_and(|wish| former.is_some_and(|former| wish.conflicts_with(former)));
        let decision = next.and_then(|wish| {
            let news = self.wish.as_ref().map_or(Ok(true), |former| wish.follows(former))?;
            Ok(news.then_some(wish))
        });
        self.complaint = None;
        match decision {
            Ok(Some(wish)) => {
                info!(
                    generation = wish.desired.generation,
                    state = wish.desired.state.as_str(),
                    "a new generation is wanted"
                );
                self.wish = Some(wish);
                self.seen = Instant::now();
                self.took = None;
                self.refusal = None;
            }
            Ok(None) => {}
            Err(complaint) => {
                warn!(complaint, "the ConfigMap is not followed");
                self.complaint = Some(complaint);
            }
        }
    }

    fn pause(&self) -> Duration {
        if self.report.borrow().state == ReportState::Running && self.is_told_in_full {
            VERIFY
        } else {
            VERIFY_CLOSELY
        }
    }

    async fn converge(&mut self) {
        let mut refused = false;
        let (state, error) = match &self.wish {
            None => (ReportState::Waiting, None),
            Some(wish) => match (wish.desired.state, &self.refusal) {
                (State::Open, Some((at, words))) if at.elapsed() < RETRY => (ReportState::Failed, Some(words.clone())),
                (State::Open, _) => {
                    let released = self.haproxy.release(&wish.desired).await;
                    refused = matches!(released, Err(AgentError::Refused { .. }));
                    outcome(ReportState::Running, &released)
                }
                (State::Held, _) => outcome(ReportState::Held, &self.haproxy.hold(&wish.desired).await),
            },
        };
        match state {
            ReportState::Running | ReportState::Held if self.took.is_none() => {
                self.took = Some(self.seen.elapsed());
                if self.announce(state) {
                    return;
                }
            }
            // Only HAProxy's own refusal stays; anything else may be better at the next look, and clients wait.
            ReportState::Failed if refused => {
                self.refusal = error.clone().map(|words| (Instant::now(), words));
            }
            _ => {}
        }
        self.publish(state, error).await;
    }

    /// Reports that what is wanted was reached, and nothing else: a switchover waits for it, and clients need the processor. The rest follows
    /// in the next look. After a start of its own the agent does not know yet what HAProxy runs, and says nothing before it does.
    fn announce(&mut self, state: ReportState) -> bool {
        let report = self.compose(state, None);
        if report.generation.is_none() {
            return false;
        }
        info!(
            generation = report.generation,
            wanted = report.wanted,
            took_milliseconds = report.took_milliseconds,
            ?state,
            "reached"
        );
        self.report.send_replace(report);
        self.is_told_in_full = false;
        true
    }

    fn compose(&self, state: ReportState, error: Option<String>) -> Report {
        let former = self.report.borrow().clone();
        let wanted = self.wish.as_ref().map_or(0, |wish| wish.desired.generation);
        Report {
            state,
            wanted,
            conflict: self.conflict,
            generation: match state {
                // It was read back; for a moment after a reload the former worker may still answer too.
                ReportState::Running => Some(wanted),
                _ => former.generation,
            },
            took_milliseconds: self.took.and_then(|took| took.as_millis().try_into().ok()),
            error: error.or_else(|| self.complaint.clone()),
            ..former
        }
    }

    /// Reports everything.
    async fn publish(&mut self, state: ReportState, error: Option<String>) {
        let former = self.report.borrow().clone();
        let mut report = self.compose(state, error);
        self.is_told_in_full = true;
        let (admin, master) = (&self.haproxy.admin, &self.haproxy.master);
        let (running, servers, processes) = tokio::join!(admin.running(), admin.servers(), master.processes());
        let running = running.ok();
        if state != ReportState::Running {
            report.generation = running.as_ref().and_then(|running| running.generation);
        }
        report.haproxy_version = running.as_ref().map(|running| running.version.to_string());
        report.sessions = running.map(|running| running.load.backends).unwrap_or_default();
        report.old_workers = processes.map(|processes| processes.old_workers).unwrap_or_default();
        let unresolved = servers
            .ok()
            .and_then(|servers| servers.into_iter().find(|server| server.ip.is_none()));
        if let Some(server) = unresolved {
            report.error.get_or_insert_with(|| {
                let (backend, name) = (server.backend, server.name);
                format!("the name of server {backend}/{name} does not resolve: correct its address or the DNS")
            });
        }
        self.report.send_replace(report.clone());
        if former.error != report.error || former.state != report.state {
            let (error, state) = (report.error.as_deref().unwrap_or_default(), report.state);
            info!(
                generation = report.generation,
                wanted = report.wanted,
                took_milliseconds = report.took_milliseconds,
                ?state,
                error,
                "reported"
            );
        }
    }
}

fn outcome(success: ReportState, result: &Result<(), AgentError>) -> (ReportState, Option<String>) {
    match result {
        Ok(()) => (success, None),
        Err(error) if error.is_absence() => (ReportState::Waiting, Some(error.to_string())),
        Err(error) => (ReportState::Failed, Some(error.to_string())),
    }
}
