//! The file in which a recording writes down what happened, one line per event.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

/// Microseconds since 1970 (UTC).
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A recording began: `run RUN CLIENTS MICROSECONDS`. The run's number is the microsecond of its start.
    Begin {
        /// Number of the run.
        run: i64,
        /// Number of clients, counted from 0.
        clients: u32,
    },
    /// What became of one row: `ack|doubt|rejected CLIENT SEQ MICROSECONDS [KIND]`, or of an attempt to connect: `unsent ...`.
    Row {
        /// What became of it.
        outcome: Outcome,
        /// The client.
        client: u32,
        /// The client's number for the row.
        seq: i64,
        /// When that was known, in microseconds since 1970 (UTC).
        at: i64,
        /// The kind of the error; empty for an acknowledged row.
        kind: String,
    },
    /// The recording ended in order: `end MICROSECONDS`. Without it one more row per client may have been under way.
    End {
        /// When, in microseconds since 1970 (UTC).
        at: i64,
    },
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server acknowledged the commit.
    Acknowledged,
    /// An error after the row was sent, so that it may or may not be there.
    InDoubt,
    /// The server said that the row was rolled back.
    Rejected,
    /// The row was never sent, because no session could be opened.
    Unsent,
}

impl Outcome {
    const ALL: [(Self, &str); 4] = [
        (Self::Acknowledged, "ack"),
        (Self::InDoubt, "doubt"),
        (Self::Rejected, "rejected"),
        (Self::Unsent, "unsent"),
    ];

    fn name(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(outcome, _)| *outcome == self)
            .map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin { run, clients } => write!(f, "run {run} {clients} {run}"),
            Self::Row {
                outcome,
                client,
                seq,
                at,
                kind,
            } if kind.is_empty() => write!(f, "{} {client} {seq} {at}", outcome.name()),
            Self::Row {
                outcome,
                client,
                seq,
                at,
                kind,
            } => write!(f, "{} {client} {seq} {at} {kind}", outcome.name()),
            Self::End { at } => write!(f, "end {at}"),
        }
    }
}

impl FromStr for Entry {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let fields = line.split(' ').collect::<Vec<_>>();
        let outcome = |name: &str| {
            Outcome::ALL
                .into_iter()
                .find(|(_, known)| *known == name)
                .map(|(outcome, _)| outcome)
        };
        match fields.as_slice() {
            ["run", run, clients, _] => Ok(Self::Begin {
                run: run.parse()?,
                clients: clients.parse()?,
            }),
            ["end", at] => Ok(Self::End { at: at.parse()? }),
            [name, client, seq, at, kind @ ..] if kind.len() < 2 => {
                let outcome = outcome(name).with_context(|| format!("unknown line '{line}' in the log"))?;
                Ok(Self::Row {
                    outcome,
                    client: client.parse()?,
                    seq: seq.parse()?,
                    at: at.parse()?,
                    kind: kind.concat(),
                })
            }
            _ => bail!("damaged line '{line}' in the log"),
        }
    }
}

/// A log that is being written. Every line is handed to the system at once, so it survives the end of this program.
#[derive(Debug)]
pub struct Log(Mutex<File>);

impl Log {
    /// Opens the file for appending and makes it if need be.
    pub fn append(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self(Mutex::new(file.with_context(|| {
            format!("cannot write the log {}", path.display())
        })?)))
    }

    /// Writes one line.
    pub fn write(&self, entry: &Entry) -> Result<()> {
        let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(format!("{entry}\n").as_bytes())
            .context("cannot write the log")
    }
}

/// What a log says about one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunLog {
    /// Number of the run: the microsecond of its start since 1970 (UTC).
    pub run: i64,
    /// The entries about rows of each client, in the order they were written.
    pub clients: BTreeMap<u32, Vec<Entry>>,
    /// When the run ended in order.
    pub ended: Option<i64>,
}

impl RunLog {
    /// Reads all runs of a log. A last line that is cut short, as after a power failure, is left out.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the log {}", path.display()))?;
        Self::parse(&text)
    }

    pub(crate) fn parse(text: &str) -> Result<Vec<Self>> {
        let mut runs: Vec<Self> = Vec::new();
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let entry = line.parse()?;
            if let Entry::Begin { run, clients } = entry {
                runs.push(Self {
                    run,
                    clients: (0..clients).map(|client| (client, Vec::new())).collect(),
                    ended: None,
                });
                continue;
            }
            let current = runs.last_mut().context("the log does not begin with a run")?;
            match entry {
                Entry::Row { client, .. } => current.clients.entry(client).or_default().push(entry),
                Entry::End { at } => current.ended = Some(at),
                Entry::Begin { .. } => {}
            }
        }
        Ok(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_survives_writing_and_reading() {
        let row = |outcome, kind: &str| Entry::Row {
            outcome,
            client: 3,
            seq: 17,
            at: 1_700_000_000_000_001,
            kind: kind.to_owned(),
        };
        let entries = [
            Entry::Begin {
                run: 1_700_000_000_000_000,
                clients: 8,
            },
            row(Outcome::Acknowledged, ""),
            row(Outcome::InDoubt, "timeout"),
            row(Outcome::Rejected, "25006"),
            row(Outcome::Unsent, "refused"),
            Entry::End {
                at: 1_700_000_000_000_002,
            },
        ];
        for entry in entries {
            assert_eq!(entry.to_string().parse::<Entry>().unwrap(), entry);
        }
    }

    #[test]
    fn a_line_that_was_cut_short_is_left_out_and_a_damaged_one_is_refused() {
        let runs = RunLog::parse("run 5 1 5\nack 0 1 6\nack 0 2").unwrap();
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].clients[&0].len(), 1);
        assert!(RunLog::parse("run 5 1 5\nack 0 x 6\n").is_err());
        assert!(RunLog::parse("ack 0 1 6\n").is_err());
    }
}
