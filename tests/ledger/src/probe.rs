//! Whether a server accepts writes, asked of every server directly and all the time: at no moment may two of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::connect::Endpoint;
use crate::log::now;

/// How often each server is asked.
const PACE: Duration = Duration::from_millis(20);
/// How soon a server that does not answer is asked anew.
const AGAIN: Duration = Duration::from_millis(60);
const CONNECT_DEADLINE: Duration = Duration::from_millis(1000);
const STATEMENT_DEADLINE: Duration = Duration::from_secs(5);
const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS probe (run bigint, server int, seq bigint, PRIMARY KEY (run, server, seq))";

/// A write that a server acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// Which server.
    pub server: usize,
    /// Number of the write.
    pub seq: i64,
    /// When it was asked for, in microseconds since 1970 (UTC).
    pub asked: i64,
    /// When it was acknowledged.
    pub acknowledged: i64,
}

/// The probes of all servers.
pub struct Probe {
    run: i64,
    names: Vec<String>,
    endpoints: Vec<Endpoint>,
    seen: Arc<Mutex<Vec<Write>>>,
}

/// What the probes found.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Servers in the order in which they accepted writes, as often as that changed.
    pub reigns: Vec<String>,
    /// Two servers that accepted writes by turns within moments.
    pub overlaps: Vec<String>,
    /// Acknowledged writes that a server of the end does not have.
    pub lost: usize,
    /// Acknowledged writes.
    pub writes: usize,
}

impl Verdict {
    /// Whether something was written, never by two servers by turns, and nothing was lost.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.writes > 0 && self.overlaps.is_empty() && self.lost == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writes past HAProxy, writable in turn: {}; {} lost",
            self.writes,
            self.reigns.join(", "),
            self.lost
        )?;
        for overlap in &self.overlaps {
            write!(f, "; {overlap}")?;
        }
        Ok(())
    }
}

impl Probe {
    /// Makes the table on the server that accepts writes.
    pub async fn new(servers: Vec<(String, Endpoint)>) -> Result<Self> {
        let (names, endpoints): (Vec<_>, Vec<_>) = servers.into_iter().unzip();
        let made = join_all(endpoints.iter().map(|endpoint| async move {
            let session = endpoint.connect(CONNECT_DEADLINE).await.ok()?;
            session.client.batch_execute(CREATE).await.ok()
        }))
        .await;
        made.into_iter()
            .flatten()
            .next()
            .context("no server accepts writes: the table probe cannot be made")?;
        Ok(Self {
            run: now(),
            names,
            endpoints,
            seen: Arc::default(),
        })
    }

    /// Asks every server until told to stop.
    pub async fn work(&self, stop: watch::Receiver<bool>) {
        let next = AtomicI64::new(1);
        join_all((0..self.endpoints.len()).map(|server| self.ask(server, &next, stop.clone()))).await;
    }

    async fn ask(&self, server: usize, next: &AtomicI64, stop: watch::Receiver<bool>) {
        let mut session = None;
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stop.borrow() {
            ticks.tick().await;
            let open = match session.take() {
                Some(open) => open,
                None => {
                    if let Ok(open) = self.endpoints[server].connect(CONNECT_DEADLINE).await {
                        open
                    } else {
                        sleep(AGAIN).await;
                        continue;
                    }
                }
            };
            let seq = next.fetch_add(1, Ordering::Relaxed);
            let run = self.run;
            let statement = format!("INSERT INTO probe (run, server, seq) VALUES ({run}, {server}, {seq})");
            let asked = now();
            match timeout(STATEMENT_DEADLINE, open.client.batch_execute(&statement)).await {
                Ok(Ok(())) => {
                    let acknowledged = now();
                    let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.push(Write {
                        server,
                        seq,
                        asked,
                        acknowledged,
                    });
                    session = Some(open);
                }
                // Refused as read-only: the session is as good as before.
                Ok(Err(error)) if error.code().is_some_and(|code| code.code() == "25006") => session = Some(open),
                Ok(Err(_)) | Err(_) => sleep(AGAIN).await,
            }
        }
    }

    /// What was found, compared with what the servers have now.
    pub async fn judge(&self) -> Result<Verdict> {
        let mut writes = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        writes.sort_by_key(|write| write.acknowledged);
        let (reigns, overlaps) = find_overlaps(&writes, &self.names);
        let mut lost = 0;
        for endpoint in &self.endpoints {
            let session = endpoint.connect(CONNECT_DEADLINE * 5).await?;
            let rows = session
                .client
                .query("SELECT seq FROM probe WHERE run = $1", &[&self.run])
                .await?;
            let there: std::collections::BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
            lost += writes.iter().filter(|write| !there.contains(&write.seq)).count();
        }
        Ok(Verdict {
            reigns,
            overlaps,
            lost,
            writes: writes.len(),
        })
    }
}

/// Servers in the order of their reigns, and where two servers wrote by turns. A reign lasts from the first to the last acknowledged write
/// in a row of one server. A second primary shows twice: here, as a reign that interrupts another one for moments, and in the rows that
/// the servers of the end do not have.
fn find_overlaps(writes: &[Write], names: &[String]) -> (Vec<String>, Vec<String>) {
    let mut reigns: Vec<(usize, i64, i64)> = Vec::new();
    for write in writes {
        match reigns.last_mut() {
            Some((server, _, end)) if *server == write.server => *end = write.acknowledged,
            _ => reigns.push((write.server, write.acknowledged, write.acknowledged)),
        }
    }
    let mut overlaps = Vec::new();
    let mut ended: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, (server, ..)) in reigns.iter().enumerate() {
        // One that reigned before may reign again only after an undone or a second switch, never by turns within moments.
        if let Some(before) = ended.insert(*server, index)
            && index - before == 2
            && reigns[before + 1].2 - reigns[before + 1].1 < 1_000_000
            && reigns[index].1 - reigns[before].2 < 1_000_000
        {
            overlaps.push(format!(
                "{} and {} by turns",
                names[*server],
                names[reigns[before + 1].0]
            ));
        }
    }
    (
        reigns.iter().map(|(server, ..)| names[*server].clone()).collect(),
        overlaps,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(by: &[(usize, i64)]) -> Vec<Write> {
        by.iter()
            .map(|(server, at)| Write {
                server: *server,
                seq: *at,
                asked: *at,
                acknowledged: *at,
            })
            .collect()
    }

    #[test]
    fn one_after_the_other_is_a_switch_and_by_turns_are_two_primaries() {
        let names = ["a", "b"].map(str::to_owned);
        let (reigns, overlaps) = find_overlaps(&writes(&[(0, 1), (0, 2), (1, 30), (1, 40)]), &names);
        assert_eq!((reigns.len(), overlaps.len()), (2, 0));
        let (_, overlaps) = find_overlaps(&writes(&[(0, 1), (1, 2), (0, 3), (1, 4)]), &names);
        assert!(!overlaps.is_empty());
        let there_and_back = [(0, 1), (1, 5_000_000), (1, 9_000_000), (0, 12_000_000)];
        assert!(find_overlaps(&writes(&there_and_back), &names).1.is_empty());
    }
}
