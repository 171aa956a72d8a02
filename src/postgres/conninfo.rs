//! libpq connection strings from typed values.

use std::fmt::{self, Write as _};

use super::MemberName;
use crate::address::Address;

/// What a standby needs to connect to its upstream.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo {
    /// Address of the upstream as the standby sees it.
    pub upstream: Address,
    /// Login with REPLICATION.
    pub user: String,
    /// Its password.
    pub password: Option<String>,
    /// libpq's sslmode.
    pub sslmode: &'static str,
    /// Path of the CA file on the standby's host.
    pub sslrootcert: Option<String>,
    /// The standby itself, which becomes the `application_name`.
    pub standby: MemberName,
}

impl fmt::Debug for Conninfo {
    /// Without the password: what is logged is read by many.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Conninfo({} -> {})", self.standby, self.upstream)
    }
}

impl Conninfo {
    /// The connection string for `primary_conninfo`, with a short connect timeout and keepalives, so that a dead upstream is noticed.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!(
            "host={} port={} user={}",
            quote(&self.upstream.host.to_string()),
            self.upstream.port,
            quote(&self.user)
        );
        let optional = [
            ("password", self.password.as_deref()),
            ("sslrootcert", self.sslrootcert.as_deref()),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                let _ = write!(text, " {key}={}", quote(value));
            }
        }
        let _ = write!(
            text,
            " sslmode={} application_name={} connect_timeout=5 keepalives_idle=5 keepalives_interval=5 keepalives_count=3",
            self.sslmode,
            quote(&self.standby.application_name())
        );
        text
    }
}

/// A value in libpq's quoting.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_libpq_reads_them() {
        let conninfo = Conninfo {
            upstream: "10.20.0.11:5432".parse().unwrap(),
            user: "o'brien".to_owned(),
            password: Some(r"a\b c' host=evil".to_owned()),
            sslmode: "verify-full",
            sslrootcert: Some("/etc/ca file.crt".to_owned()),
            standby: MemberName::try_from("shop-1").unwrap(),
        };
        assert!(conninfo.render().starts_with(
            r"host='10.20.0.11' port=5432 user='o\'brien' password='a\\b c\' host=evil' sslrootcert='/etc/ca file.crt' sslmode=verify-full application_name='mitosis_shop_1'"
        ));
    }
}
