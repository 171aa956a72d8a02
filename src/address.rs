//! Addresses of servers: validated, so that nothing but an address reaches HAProxy or a connection string.

use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr};

/// An IPv4 or IPv6 address or a DNS name (RFC 1123).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(String);

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        };
        let is_name = text.len() <= 253
            && text.split('.').all(label)
            // A last label of digits only would be a mistyped IPv4 address.
            && text.rsplit('.').next().is_some_and(|last| last.chars().any(|c| !c.is_ascii_digit()));
        if text.parse::<IpAddr>().is_ok() || is_name {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "`{}` is no host: write an IP address or a DNS name such as db.example.com",
                text.escape_debug()
            ))
        }
    }
}

impl Host {
    /// The host as text, an IPv6 address without brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A TCP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<u16> for Port {
    type Error = String;

    fn try_from(number: u16) -> Result<Self, Self::Error> {
        NonZeroU16::new(number)
            .map(Self)
            .ok_or_else(|| "0 is no port: write one between 1 and 65535".to_owned())
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('+') {
            return Err(format!("`{text}` is no port: write a number between 1 and 65535"));
        }
        text.parse().map(Self).map_err(|_| {
            format!(
                "`{}` is no port: write a number between 1 and 65535",
                text.escape_debug()
            )
        })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A host and a port, written `host:port`, with an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: Port,
}

impl Address {
    /// An address from its parts as users write them.
    ///
    /// # Errors
    /// The host is none.
    pub fn new(host: &str, port: u16) -> Result<Self, String> {
        Ok(Self {
            host: host.parse()?,
            port: port.try_into()?,
        })
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| {
            format!(
                "`{}` has no port: write host:port, such as 10.20.0.21:80",
                text.escape_debug()
            )
        })?;
        let host = match host.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
            Some(Some(v6)) if v6.contains(':') => v6,
            None if !host.contains(':') => host,
            _ => {
                return Err(format!(
                    "`{}` is no address: write an IPv6 address in brackets, such as [fd00::1]:80",
                    text.escape_debug()
                ));
            }
        };
        Ok(Self {
            host: host.parse()?,
            port: port.parse()?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.0.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names_and_nothing_else() {
        for right in ["10.20.0.11", "fd00::1", "db", "db-1.example.com", "1and1.com"] {
            assert!(right.parse::<Host>().is_ok(), "{right}");
        }
        for wrong in [
            "",
            "10.20.0",
            "10.0.0.256",
            "-a",
            "a-",
            "a..b",
            "a b",
            "a\n",
            "unix@/x",
            "$X",
            "${X}",
            "a#b",
            "a;b",
            "a'b",
            "a\"b",
            "a\\b",
            "[::1]",
            "a:1",
            "ä",
        ] {
            assert!(wrong.parse::<Host>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn addresses_are_printed_as_they_are_read() {
        for text in ["10.20.0.11:5432", "[fd00::1]:80", "web.shop.svc:80"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for wrong in [
            "10.20.0.11",
            "fd00::1:80",
            "[10.0.0.1]:80",
            "a:0",
            "a:70000",
            "a:+1",
            "a:",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
