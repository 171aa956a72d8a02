//! How long each client went without an acknowledgement.

use serde::Serialize;

use crate::log::{Entry, Outcome, RunLog};

/// A time span, in microseconds since 1970 (UTC); without a bound it is open at that end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Gaps that ended before this do not count.
    pub from: Option<i64>,
    /// Gaps that began after this do not count.
    pub to: Option<i64>,
}

/// A client's time without an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// Number of the run.
    pub run: i64,
    /// The client.
    pub client: u32,
    /// When it began, in microseconds since 1970 (UTC): the acknowledgement before it, or the start of the run.
    pub from: i64,
    /// How long it was, in microseconds.
    pub microseconds: i64,
    /// False if the run ended before another acknowledgement came.
    pub recovered: bool,
}

/// The gaps of all clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gaps {
    /// Each client's longest gap in the window; a client without one is left out.
    pub longest: Vec<Gap>,
    /// The longest of them.
    pub maximum: Option<Gap>,
    /// The median of the clients' longest gaps, in microseconds; the lower one of two in the middle.
    pub median_microseconds: Option<i64>,
}

impl Gaps {
    /// Finds the longest gap of each client of each run among those that overlap the window.
    #[must_use]
    pub fn new(runs: &[RunLog], window: Window) -> Self {
        let inside = |gap: &Gap| {
            window.from.is_none_or(|from| gap.from + gap.microseconds >= from)
                && window.to.is_none_or(|to| gap.from <= to)
        };
        let longest = runs
            .iter()
            .flat_map(|log| log.clients.keys().map(move |&client| (log, client)))
            .filter_map(|(log, client)| {
                gaps(log, client)
                    .into_iter()
                    .filter(inside)
                    .max_by_key(|gap| gap.microseconds)
            })
            .collect::<Vec<_>>();
        let mut lengths = longest.iter().map(|gap| gap.microseconds).collect::<Vec<_>>();
        lengths.sort_unstable();
        Self {
            maximum: longest.iter().max_by_key(|gap| gap.microseconds).copied(),
            median_microseconds: lengths.get(lengths.len().saturating_sub(1) / 2).copied(),
            longest,
        }
    }
}

/// All gaps of a client, from the start of its run to its end; a run that was killed ends with the last line about any client.
fn gaps(log: &RunLog, client: u32) -> Vec<Gap> {
    let entries = log.clients.get(&client).map_or([].as_slice(), Vec::as_slice);
    let mut found = Vec::new();
    let mut from = log.run;
    let mut add = |from: i64, to: i64, recovered| {
        found.push(Gap {
            run: log.run,
            client,
            from,
            microseconds: to - from,
            recovered,
        });
    };
    for entry in entries {
        if let Entry::Row {
            outcome: Outcome::Acknowledged,
            at,
            ..
        } = *entry
        {
            add(from, at, true);
            from = at;
        }
    }
    let last = log
        .clients
        .values()
        .flatten()
        .filter_map(|entry| {
            if let Entry::Row { at, .. } = entry {
                Some(*at)
            } else {
                None
            }
        })
        .max();
    let end = log.ended.or(last).unwrap_or(log.run);
    if end > from {
        add(from, end, false);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "run 1000 2 1000\nack 0 1 1010\nack 1 1 1015\nack 0 2 1020\nack 1 2 1035\nack 0 3 1100\nack 1 3 1045\nend 1110\n";

    fn gaps(window: Window) -> Gaps {
        Gaps::new(&RunLog::parse(LOG).unwrap(), window)
    }

    #[test]
    fn the_longest_gap_of_each_client_is_found_with_its_time() {
        let found = gaps(Window::default());
        let client_0 = Gap {
            run: 1000,
            client: 0,
            from: 1020,
            microseconds: 80,
            recovered: true,
        };
        let client_1 = Gap {
            run: 1000,
            client: 1,
            from: 1045,
            microseconds: 65,
            recovered: false,
        };
        assert_eq!(found.longest, [client_0, client_1]);
        assert_eq!(found.maximum, Some(client_0));
        assert_eq!(found.median_microseconds, Some(65));
    }

    #[test]
    fn only_gaps_that_overlap_the_window_count() {
        let found = gaps(Window {
            from: None,
            to: Some(1016),
        });
        assert_eq!(
            found.longest.iter().map(|gap| gap.microseconds).collect::<Vec<_>>(),
            [10, 20]
        );
        assert_eq!(
            gaps(Window {
                from: Some(2000),
                to: None
            })
            .longest,
            []
        );
    }

    #[test]
    fn a_client_that_is_never_acknowledged_has_one_gap_as_long_as_the_run() {
        let runs = RunLog::parse("run 1000 1 1000\nunsent 0 1 1200 refused\n").unwrap();
        let found = Gaps::new(&runs, Window::default());
        assert_eq!(
            found.maximum,
            Some(Gap {
                run: 1000,
                client: 0,
                from: 1000,
                microseconds: 200,
                recovered: false
            })
        );
    }
}
