//! Names of PgBouncer's databases.

use std::{fmt, str::FromStr};

/// A name of a database in PgBouncer: 1 to 63 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseName(String);

impl DatabaseName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a word of a command.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0.replace('"', "\"\""))
    }
}

impl FromStr for DatabaseName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if (1..=63).contains(&text.len()) && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "`{}` is no name of a database: use 1 to 63 bytes without control characters",
                text.escape_debug()
            ))
        }
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        let name: DatabaseName = "a\"; RESUME \"b".parse().unwrap();
        assert_eq!(name.quoted(), "\"a\"\"; RESUME \"\"b\"");
        for wrong in ["", "a\n", "a\0", &"x".repeat(64)] {
            assert!(wrong.parse::<DatabaseName>().is_err(), "{wrong:?}");
        }
    }
}
