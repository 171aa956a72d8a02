//! Comparing what was acknowledged with the rows of a server.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::log::{Entry, Outcome, RunLog};

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Row {
    /// Number of the run.
    pub run: i64,
    /// The client.
    pub client: u32,
    /// The client's number for the row.
    pub seq: i64,
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Rows whose commit was acknowledged.
    pub acknowledged: usize,
    /// Acknowledged rows that are not there.
    pub lost: Vec<Row>,
    /// Rows that are there more than once.
    pub duplicated: Vec<Row>,
    /// Rows that are there although they were never sent or the server said they were rolled back.
    pub unexpected: Vec<Row>,
    /// Rows of unknown outcome that are there.
    pub in_doubt_present: usize,
    /// Rows of unknown outcome that are not there.
    pub in_doubt_absent: usize,
}

impl Comparison {
    /// Compares the rows of one server with the log; rows of runs that the log does not know are left out.
    #[must_use]
    pub fn new(runs: &[RunLog], rows: &[Row]) -> Self {
        let mut present: BTreeMap<Row, usize> = BTreeMap::new();
        for row in rows.iter().filter(|row| runs.iter().any(|run| run.run == row.run)) {
            *present.entry(*row).or_default() += 1;
        }
        let sent = Sent::new(runs);
        let doubtful_present = sent.in_doubt.iter().filter(|row| present.contains_key(row)).count();
        let known =
            |row: &Row| sent.acknowledged.contains(row) || sent.in_doubt.contains(row) || sent.under_way.contains(row);
        Self {
            acknowledged: sent.acknowledged.len(),
            lost: sent
                .acknowledged
                .iter()
                .filter(|row| !present.contains_key(row))
                .copied()
                .collect(),
            duplicated: present
                .iter()
                .filter(|(_, count)| **count > 1)
                .map(|(row, _)| *row)
                .collect(),
            unexpected: present.keys().filter(|row| !known(row)).copied().collect(),
            in_doubt_present: doubtful_present,
            in_doubt_absent: sent.in_doubt.len() - doubtful_present,
        }
    }

    /// True if nothing is lost, duplicated or unexpected and there was something to lose.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.acknowledged > 0 && self.lost.is_empty() && self.duplicated.is_empty() && self.unexpected.is_empty()
    }
}

#[derive(Default)]
struct Sent {
    acknowledged: BTreeSet<Row>,
    in_doubt: BTreeSet<Row>,
    /// Rows that a recording which was killed may have sent without a chance to write anything down.
    under_way: BTreeSet<Row>,
}

impl Sent {
    fn new(runs: &[RunLog]) -> Self {
        let mut sent = Self::default();
        for log in runs {
            for (&client, entries) in &log.clients {
                let mut last = 0;
                for entry in entries {
                    let Entry::Row { outcome, seq, .. } = *entry else {
                        continue;
                    };
                    let row = Row {
                        run: log.run,
                        client,
                        seq,
                    };
                    last = last.max(seq);
                    match outcome {
                        Outcome::Acknowledged => sent.acknowledged.insert(row),
                        Outcome::InDoubt => sent.in_doubt.insert(row),
                        Outcome::Rejected | Outcome::Unsent => false,
                    };
                }
                if log.ended.is_none() {
                    sent.under_way.insert(Row {
                        run: log.run,
                        client,
                        seq: last + 1,
                    });
                }
            }
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "run 100 2 100\nack 0 1 110\nack 1 1 111\ndoubt 0 2 120 timeout\nunsent 0 3 130 refused\nrejected 1 2 131 25006\nack 0 4 140\n";

    fn compare(log: &str, rows: &[(i64, u32, i64)]) -> Comparison {
        let rows = rows
            .iter()
            .map(|&(run, client, seq)| Row { run, client, seq })
            .collect::<Vec<_>>();
        Comparison::new(&RunLog::parse(log).unwrap(), &rows)
    }

    #[test]
    fn a_complete_table_is_good_and_rows_of_other_runs_do_not_count() {
        let found = compare(
            &format!("{LOG}end 150\n"),
            &[(100, 0, 1), (100, 1, 1), (100, 0, 4), (99, 0, 7)],
        );
        assert!(found.is_good());
        assert_eq!(
            (found.acknowledged, found.in_doubt_present, found.in_doubt_absent),
            (3, 0, 1)
        );
    }

    #[test]
    fn a_missing_acknowledged_row_is_lost() {
        let found = compare(LOG, &[(100, 0, 1), (100, 0, 2), (100, 1, 1)]);
        assert_eq!(
            found.lost,
            [Row {
                run: 100,
                client: 0,
                seq: 4
            }]
        );
        assert_eq!((found.in_doubt_present, found.in_doubt_absent), (1, 0));
        assert!(!found.is_good());
    }

    #[test]
    fn a_row_that_is_there_twice_is_duplicated() {
        let found = compare(LOG, &[(100, 0, 1), (100, 0, 1), (100, 1, 1), (100, 0, 4)]);
        assert_eq!(
            found.duplicated,
            [Row {
                run: 100,
                client: 0,
                seq: 1
            }]
        );
        assert!(!found.is_good());
    }

    #[test]
    fn unsent_and_rejected_rows_must_not_be_there() {
        let found = compare(
            &format!("{LOG}end 150\n"),
            &[
                (100, 0, 1),
                (100, 1, 1),
                (100, 0, 4),
                (100, 0, 3),
                (100, 1, 2),
                (100, 0, 5),
            ],
        );
        let numbers = found
            .unexpected
            .iter()
            .map(|row| (row.client, row.seq))
            .collect::<Vec<_>>();
        assert_eq!(numbers, [(0, 3), (0, 5), (1, 2)]);
        assert!(!found.is_good());
    }

    #[test]
    fn a_killed_recording_may_have_one_more_row_per_client_under_way() {
        assert!(compare(LOG, &[(100, 0, 1), (100, 1, 1), (100, 0, 4), (100, 0, 5), (100, 1, 3)]).is_good());
        assert!(!compare(LOG, &[(100, 0, 1), (100, 1, 1), (100, 0, 4), (100, 0, 6)]).is_good());
    }

    #[test]
    fn a_log_without_acknowledged_rows_proves_nothing() {
        assert!(!compare("run 100 1 100\nend 101\n", &[]).is_good());
    }
}
