//! Positions in the write-ahead log.

use std::{fmt, str::FromStr};

/// A position in the write-ahead log, as in `pg_lsn`: bytes since the cluster's WAL began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

/// Size of a WAL page in bytes; PostgreSQL's default, which the packages of every distribution use.
const PAGE: u64 = 8192;
/// Size of the aligned shutdown checkpoint record in bytes (114 bytes in PostgreSQL 14 to 18, aligned to 8).
const SHUTDOWN_CHECKPOINT: u64 = 120;
/// Size of a page header in bytes where a record goes on.
const SHORT_HEADER: u64 = 24;
/// Size of the first page header of a segment in bytes.
const LONG_HEADER: u64 = 40;

impl Lsn {
    /// Distance to an earlier position in bytes; 0 when the other is later.
    #[must_use]
    pub const fn bytes_after(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Where a shutdown checkpoint record begins that ends here and lies within one page, as a number of bytes.
    #[must_use]
    pub(super) const fn before_shutdown_checkpoint(self) -> u64 {
        self.0.saturating_sub(SHUTDOWN_CHECKPOINT)
    }

    /// Where a shutdown checkpoint record that begins here ends.
    ///
    /// The record may cross into the next page, whose header then lies in between; the page that begins a segment has a longer one.
    #[must_use]
    pub const fn end_of_shutdown_checkpoint(self, segment_bytes: u64) -> Self {
        let end = self.0 + SHUTDOWN_CHECKPOINT;
        let page = (self.0 / PAGE + 1) * PAGE;
        if end <= page {
            return Self(end);
        }
        let header = if page.is_multiple_of(segment_bytes) {
            LONG_HEADER
        } else {
            SHORT_HEADER
        };
        Self(end + header)
    }
}

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once('/')
            .and_then(|(high, low)| {
                let high = u32::from_str_radix(high, 16).ok()?;
                let low = u32::from_str_radix(low, 16).ok()?;
                Some(Self(u64::from(high) << 32 | u64::from(low)))
            })
            .ok_or_else(|| format!("`{text}` is no WAL position"))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl<'de> serde::Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    #[test]
    fn reads_and_prints_as_postgresql_does() {
        assert_eq!(lsn("16/B374D848").to_string(), "16/B374D848");
        assert!("16".parse::<Lsn>().is_err());
        assert!("x/1".parse::<Lsn>().is_err());
    }

    #[test]
    fn a_shutdown_checkpoint_inside_a_page_ends_120_bytes_later() {
        assert_eq!(lsn("0/3000028").end_of_shutdown_checkpoint(SEGMENT), lsn("0/30000A0"));
    }

    #[test]
    fn a_shutdown_checkpoint_that_fills_the_page_to_its_last_byte_has_no_header_inside() {
        assert_eq!(lsn("0/3001F88").end_of_shutdown_checkpoint(SEGMENT), lsn("0/3002000"));
    }

    #[test]
    fn a_shutdown_checkpoint_across_a_page_has_a_short_header_inside() {
        assert_eq!(lsn("0/3001FA0").end_of_shutdown_checkpoint(SEGMENT), lsn("0/3002030"));
    }

    #[test]
    fn a_shutdown_checkpoint_across_a_segment_has_a_long_header_inside() {
        assert_eq!(lsn("0/3FFFFA0").end_of_shutdown_checkpoint(SEGMENT), lsn("0/4000040"));
    }
}
