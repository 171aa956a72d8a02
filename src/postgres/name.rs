//! Names and texts that reach SQL, and how they are quoted. A raw string never does.

use std::fmt;

/// A name of a member: lower-case letters, digits and `-`, at most 63 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName(String);

impl TryFrom<&str> for MemberName {
    type Error = String;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.chars().all(legal)
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "`{text}` is no member name: use lower-case letters, digits and '-', such as a1"
            ))
        }
    }
}

impl MemberName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The replication slot by which this member follows its upstream, on that upstream.
    #[must_use]
    pub fn slot(&self) -> SlotName {
        SlotName(format!("mitosis_{}", self.0.replace('-', "_")))
    }

    /// The `application_name` of this member's replication connections.
    #[must_use]
    pub fn application_name(&self) -> String {
        self.slot().0
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A name of a replication slot that Mitosis makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName(String);

impl SlotName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A text as an SQL literal, for the few statements that take no parameters.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// A text as one word of a POSIX shell, for programs that the server starts.
#[must_use]
pub fn quote_shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A text as the value of a parameter in a PostgreSQL configuration file.
///
/// # Errors
/// A text with a line break or a NUL byte, which a configuration file cannot hold.
pub fn quote_configuration(text: &str) -> Result<String, String> {
    if text.contains(['\n', '\r', '\0']) {
        return Err(format!(
            "`{}` holds a line break: write it on one line",
            text.escape_debug()
        ));
    }
    Ok(format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_names_that_could_end_a_word_are_refused() {
        for wrong in ["", "A1", "a1;", "a 1", "a'1", "1a", "a\n", "a-", "ä"] {
            assert!(MemberName::try_from(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_slot_is_named_after_its_member() {
        let member = MemberName::try_from("shop-1").unwrap();
        assert_eq!(member.slot().as_str(), "mitosis_shop_1");
    }

    #[test]
    fn quotes_and_backslashes_stay_inside() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\b'"), r" E'a\\b'''");
        assert_eq!(quote_shell("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quote_configuration(r"a\'b").unwrap(), r"'a\\''b'");
        assert!(quote_configuration("a\nb").is_err());
    }
}
