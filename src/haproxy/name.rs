//! Names of routes, from which the names of frontends and backends are made.

use std::{fmt, str::FromStr};

/// A name of a route: lower-case letters, digits and `-`, at most 15 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteName(String);

impl RouteName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the frontend of this route.
    #[must_use]
    pub fn frontend(&self) -> String {
        format!("fe_{self}")
    }

    /// Name of the environment variable with the address of this route.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("MITOSIS_ROUTE_{}", self.0.to_uppercase().replace('-', "_"))
    }

    /// Name of the backend of this route.
    #[must_use]
    pub fn backend(&self) -> String {
        format!("be_{self}")
    }
}

impl TryFrom<&str> for RouteName {
    type Error = String;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if (1..=15).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-') && text.chars().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "`{}` is no route name: use at most 15 lower-case letters, digits and '-', such as write",
                text.escape_debug()
            ))
        }
    }
}

impl FromStr for RouteName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text)
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
