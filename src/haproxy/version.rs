//! Versions of HAProxy, and what each can be trusted with.

use std::{fmt, str::FromStr};

/// A version of HAProxy, ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    major: u16,
    minor: u16,
    patch: u16,
}

impl Version {
    /// Whether `set maxconn frontend` may raise a limit of 0 again.
    ///
    /// Elsewhere that deadlocks the worker (HAProxy issue 2726), and only a reload releases a hold.
    #[must_use]
    pub const fn runtime_release_is_safe(self) -> bool {
        match (self.major, self.minor) {
            (2, 4) => self.patch >= 28,
            (2, 6) => self.patch >= 20,
            (2, 8) => self.patch >= 12,
            (3, 0) => self.patch >= 6,
            (3, 1..) | (4.., _) => true,
            _ => false,
        }
    }
}

impl FromStr for Version {
    type Err = String;

    /// Reads `2.6.12`, `2.6.12-1+deb12u4` or `3.1-dev9`; a development version counts as what came before its `.0`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || format!("`{}` is no version of HAProxy, such as 3.0.6", text.escape_debug());
        let (numbers, suffix) = text.split_once('-').unwrap_or((text, ""));
        let mut parts = numbers.split('.').map(|part| part.parse::<u16>().ok());
        let mut next = || parts.next().flatten();
        let (Some(major), Some(minor), patch) = (next(), next(), next()) else {
            return Err(refuse());
        };
        match (minor.checked_sub(1), suffix.starts_with("dev")) {
            (Some(before), true) => Ok(Self {
                major,
                minor: before,
                patch: 0,
            }),
            (None, true) => Err(refuse()),
            (_, false) => Ok(Self {
                major,
                minor,
                patch: patch.unwrap_or(0),
            }),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_repaired_versions_may_be_released_at_run_time() {
        let safe = |text: &str| text.parse::<Version>().unwrap().runtime_release_is_safe();
        for text in [
            "2.4.28",
            "2.6.20",
            "2.8.12",
            "3.0.6",
            "3.1.0",
            "3.2.0",
            "3.4.0-abc",
            "4.0.1",
        ] {
            assert!(safe(text), "{text}");
        }
        for text in [
            "2.4.27",
            "2.5.99",
            "2.6.12-1+deb12u4",
            "2.6.19",
            "2.8.11",
            "2.9.99",
            "3.0.5",
            "3.1-dev8",
            "1.8.0",
        ] {
            assert!(!safe(text), "{text}");
        }
        for text in ["", "x", "3", "a.b.c"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
