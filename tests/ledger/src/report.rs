//! The verdict on one or more servers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use serde::Serialize;

use crate::check::{Comparison, Row};
use crate::connect::Endpoint;
use crate::gap::{Gap, Gaps, Window};
use crate::log::{Entry, RunLog};
use crate::table;

/// How many rows of a kind the text names.
const NAMED_ROWS: usize = 10;

/// What the log and the servers say together.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// True if every server is good and something was acknowledged.
    pub good: bool,
    /// One comparison per server.
    pub servers: Vec<ServerReport>,
    /// Errors of the clients by kind.
    pub errors: BTreeMap<String, usize>,
    /// How long clients went without an acknowledgement.
    pub gaps: Gaps,
}

/// The comparison with one server.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerReport {
    /// Host, port and database.
    pub server: String,
    /// What was found there.
    #[serde(flatten)]
    pub comparison: Comparison,
}

/// Compares a log with the rows of each server. Recordings to the log should have ended, and standbys should have caught up.
pub async fn check(log: &Path, servers: &[Endpoint], window: Window) -> Result<Report> {
    ensure!(!servers.is_empty(), "no server to compare with: give at least one");
    let runs = RunLog::read(log)?;
    let numbers = runs.iter().map(|run| run.run).collect::<Vec<_>>();
    let mut reports = Vec::new();
    for server in servers {
        let comparison = Comparison::new(&runs, &table::rows(server, &numbers).await?);
        reports.push(ServerReport {
            server: server.name(),
            comparison,
        });
    }
    let mut errors = BTreeMap::new();
    for entry in runs.iter().flat_map(|run| run.clients.values().flatten()) {
        if let Entry::Row { kind, .. } = entry
            && !kind.is_empty()
        {
            *errors.entry(kind.clone()).or_default() += 1;
        }
    }
    let good = reports.iter().all(|report| report.comparison.is_good());
    Ok(Report {
        good,
        servers: reports,
        errors,
        gaps: Gaps::new(&runs, window),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ServerReport { server, comparison } in &self.servers {
            let Comparison {
                acknowledged,
                lost,
                duplicated,
                unexpected,
                in_doubt_present,
                in_doubt_absent,
            } = comparison;
            writeln!(f, "{server}: acknowledged {acknowledged}")?;
            for (what, rows) in [("lost", lost), ("duplicated", duplicated), ("unexpected", unexpected)] {
                writeln!(f, "  {what} {}{}", rows.len(), named(rows))?;
            }
            writeln!(f, "  in doubt: {in_doubt_present} present, {in_doubt_absent} absent")?;
        }
        let errors = self
            .errors
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect::<Vec<_>>()
            .join(", ");
        writeln!(
            f,
            "errors of the clients: {}",
            if errors.is_empty() { "none" } else { &errors }
        )?;
        for gap in &self.gaps.longest {
            writeln!(f, "longest gap of client {}: {}", gap.client, described(gap))?;
        }
        if let (Some(gap), Some(median)) = (&self.gaps.maximum, self.gaps.median_microseconds) {
            writeln!(f, "longest gap of all: client {}, {}", gap.client, described(gap))?;
            writeln!(f, "median of the clients' longest gaps: {}", milliseconds(median))?;
        }
        write!(f, "{}", if self.good { "good" } else { "BAD" })
    }
}

fn named(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let first = rows
        .iter()
        .take(NAMED_ROWS)
        .map(|row| format!("{}/{}/{}", row.run, row.client, row.seq))
        .collect::<Vec<_>>()
        .join(" ");
    let more = if rows.len() > NAMED_ROWS { " ..." } else { "" };
    format!(" (run/client/seq: {first}{more})")
}

fn described(gap: &Gap) -> String {
    let from = Timestamp::from_microsecond(gap.from).map_or_else(|_| gap.from.to_string(), |from| from.to_string());
    let open = if gap.recovered {
        ""
    } else {
        ", not recovered when the run ended"
    };
    format!("{} from {from}{open}", milliseconds(gap.microseconds))
}

fn milliseconds(microseconds: i64) -> String {
    format!("{}.{} ms", microseconds / 1000, microseconds % 1000 / 100)
}
