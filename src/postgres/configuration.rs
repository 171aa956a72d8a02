//! Configuration files of target members.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{MemberName, PARITY, Server, quote_configuration};

/// Where `pg_hba.conf` lies in a member's pod.
pub const HBA_FILE: &str = "/etc/mitosis/conf/pg_hba.conf";

/// Parameters that are the operator's on every member.
const OWN: [(&str, &str); 15] = [
    ("listen_addresses", "*"),
    ("port", "5432"),
    ("unix_socket_directories", "/tmp"),
    ("hba_file", HBA_FILE),
    ("ssl", "on"),
    ("ssl_cert_file", "/etc/mitosis/tls/tls.crt"),
    ("ssl_key_file", "/etc/mitosis/tls/tls.key"),
    ("hot_standby", "on"),
    ("recovery_target_timeline", "latest"),
    ("recovery_min_apply_delay", "0"),
    ("synchronous_standby_names", ""),
    ("full_page_writes", "on"),
    ("wal_receiver_status_interval", "1s"),
    ("wal_retrieve_retry_interval", "200ms"),
    ("logging_collector", "off"),
];

/// Parameters that the source decides unless the user does.
const INHERITED: [&str; 4] = [
    "wal_level",
    "shared_preload_libraries",
    "wal_log_hints",
    "track_commit_timestamp",
];

/// `postgresql.conf` of a member: defaults, then the user's parameters, then what replication requires.
///
/// A standby whose settings are lower than its primary's does not start, or dies at promotion; therefore the source's values are lower bounds.
///
/// # Errors
/// A value that a configuration file cannot hold.
pub fn render_postgresql(
    member: &MemberName,
    source: &Server,
    parameters: &BTreeMap<String, String>,
) -> Result<String, String> {
    let mut settings: BTreeMap<&str, String> = BTreeMap::new();
    for name in INHERITED {
        if let Some(value) = source.settings.get(name) {
            settings.insert(name, value.clone());
        }
    }
    for name in PARITY.iter().chain(&["max_replication_slots"]) {
        settings.insert(name, source.number(name).to_string());
    }
    // The unit of this one is MB.
    settings.insert(
        "wal_keep_size",
        format!("{}MB", source.number("wal_keep_size").max(256)),
    );
    for (name, value) in parameters {
        let needs = source.number(name);
        let is_lower_bound = PARITY.contains(&name.as_str()) || name == "max_replication_slots";
        if is_lower_bound && value.parse::<i64>().is_ok_and(|given| given < needs) {
            return Err(format!(
                "spec.target.postgresql.parameters.{name} is {value}, the source has {needs}: a standby needs at least as much"
            ));
        }
        settings.insert(name, value.clone());
    }
    for (name, value) in OWN {
        settings.insert(name, value.to_owned());
    }
    settings.insert("cluster_name", member.to_string());
    let mut text = String::from("# Written by the Mitosis operator.\n");
    for (name, value) in settings {
        let _ = writeln!(text, "{name} = {}", quote_configuration(&value)?);
    }
    Ok(text)
}

/// `pg_hba.conf` of a member: the user's lines, then SCRAM for everybody, over TLS for replication.
///
/// # Errors
/// A line that holds a line break.
pub fn render_hba(lines: &[String]) -> Result<String, String> {
    let mut text = String::from("# Written by the Mitosis operator.\nlocal all all peer\n");
    for line in lines {
        if line.contains(['\n', '\r', '\0']) {
            return Err(format!(
                "spec.target.postgresql.hba has an entry with a line break: `{}`",
                line.escape_debug()
            ));
        }
        text.push_str(line);
        text.push('\n');
    }
    text.push_str("hostssl replication all all scram-sha-256\nhost all all all scram-sha-256\n");
    Ok(text)
}
