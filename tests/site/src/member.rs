//! The names and addresses of the three servers.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// One of the three servers of the site, each in a machine of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Member {
    /// The primary of a fresh site.
    A1,
    /// A standby of a1.
    A2,
    /// A standby of a1.
    A3,
}

impl Member {
    /// All members, the primary of a fresh site first.
    pub const ALL: [Self; 3] = [Self::A1, Self::A2, Self::A3];

    /// The short name: machine, `cluster_name` and replication slot.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A1 => "a1",
            Self::A2 => "a2",
            Self::A3 => "a3",
        }
    }

    /// The full host name, which the server's certificate carries.
    #[must_use]
    pub fn host_name(self) -> String {
        format!("{}.source.test", self.name())
    }

    /// The address in the site's network.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 20, 0, 10 + self.number())
    }

    /// 1, 2 or 3.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::A1 => 1,
            Self::A2 => 2,
            Self::A3 => 3,
        }
    }

    /// The network namespace of the machine.
    pub(crate) fn namespace(self) -> String {
        format!("mitosis-{}", self.name())
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Member {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|member| member.name() == name)
            .ok_or_else(|| format!("no member is called '{name}': use a1, a2 or a3"))
    }
}
