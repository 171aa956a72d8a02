//! Preflight: what would go wrong, found before anything is made.

use std::time::Duration;

use super::{
    Decision, Told,
    check::Check,
    image::{find_in_image, find_probe, plan_probe},
    members::choose_clone_source,
};
use crate::{
    api::{Compression, Finding, Phase, Reason, Severity, Side, StopMethod},
    observe::{JobState, Listed, Member, Sight, Snapshot},
    postgres::{Server, render_postgresql},
};

/// PostgreSQL's major versions that the mechanics were measured with.
const SUPPORTED: std::ops::RangeInclusive<u32> = 14..=18;
/// Room for growth while the clone runs, in percent of the databases' size.
const GROWTH_PERCENT: u64 = 20;
/// Room for WAL on each volume in bytes.
const WAL_ROOM: u64 = 512 << 20;

/// Decides what the preflight demands before anything is made; nothing when it passes.
pub fn decide_preflight(seen: &Snapshot, findings: &[Finding]) -> Option<Decision> {
    let blocking: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Block)
        .collect();
    if let Some(first) = blocking.first() {
        let reason = match Check::find(&first.check) {
            Some(Check::MemberReachable) => Reason::MemberUnreachable,
            Some(Check::MemberLogin) => Reason::LoginRefused,
            _ => Reason::PreflightFailed,
        };
        let more = match blocking.len() - 1 {
            0 => String::new(),
            rest => format!(" (and {rest} more in status.plan.findings)"),
        };
        return Some(Decision::Halt {
            told: Told::new(
                Phase::Pending,
                reason,
                format!("{}: {}{more}", first.message, first.remedy),
            ),
        });
    }
    let told = |message: &str| Told::new(Phase::Pending, Reason::Probing, message);
    let wait = |message| {
        Some(Decision::Wait {
            told: told(message),
            recheck: Duration::from_millis(500),
        })
    };
    if seen.inventory == Listed::NotYet {
        return wait("what the source uses of its machine is read");
    }
    if let Some(probe) = plan_probe(seen) {
        return Some(Decision::Act {
            actions: vec![probe],
            effect: None,
            told: told("a probe compares the target's image with what the source uses"),
        });
    }
    match find_probe(seen) {
        Some(JobState::Succeeded(_)) => None,
        _ => wait("a probe compares the target's image with what the source uses"),
    }
}

/// Runs every check on what was seen.
pub fn find(seen: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    let sources: Vec<&Member> = seen.side(Side::Source).collect();
    for member in &sources {
        findings.extend(find_access(seen, member));
    }
    let seen_servers: Vec<(&Member, &Server)> = sources
        .iter()
        .filter_map(|member| Some((*member, member.server()?)))
        .collect();
    let cluster = most_common_cluster(&seen_servers);
    let primary = seen_servers
        .iter()
        .find(|(_, server)| !server.in_recovery && Some(server.system_identifier.as_str()) == cluster);
    let target_is_primary = seen.primaries().iter().any(|member| member.side == Side::Target);
    if primary.is_none() && seen_servers.len() == sources.len() && !target_is_primary {
        findings.push(Check::OnePrimary.finding(
            None,
            "no source member is primary",
            "add the primary to spec.source.members",
        ));
    }
    for (member, server) in &seen_servers {
        findings.extend(find_in_server(member, server, cluster));
    }
    if let Some((member, server)) = primary {
        findings.extend(find_in_primary(seen, member, server));
    }
    findings
}

/// The system identifier that most members have; of the first one when they are even.
fn most_common_cluster<'a>(servers: &[(&Member, &'a Server)]) -> Option<&'a str> {
    let count = |identifier: &str| {
        servers
            .iter()
            .filter(|(_, server)| server.system_identifier == identifier)
            .count()
    };
    let most = servers
        .iter()
        .map(|(_, server)| count(&server.system_identifier))
        .max()?;
    servers
        .iter()
        .map(|(_, server)| server.system_identifier.as_str())
        .find(|identifier| count(identifier) == most)
}

fn find_access(seen: &Snapshot, member: &Member) -> Option<Finding> {
    let secret = &seen.migration.spec.source.credentials.secret_name;
    match &member.sight {
        Sight::Unreachable(because) => Some(Check::MemberReachable.finding(
            Some(member),
            format!("source member {}: {because}", member.name),
            format!(
                "correct host and port of {} in spec.source.members, or start the server and open the way to it",
                member.name
            ),
        )),
        Sight::Refused(because) => Some(Check::MemberLogin.finding(
            Some(member),
            format!("source member {}: {because}", member.name),
            format!(
                "correct username, password and ca.crt in Secret {secret}, or pg_hba.conf of {}",
                member.name
            ),
        )),
        Sight::Seen(_) | Sight::NotLooked => None,
    }
}

fn find_in_server(member: &Member, server: &Server, cluster: Option<&str>) -> Vec<Finding> {
    let name = &member.name;
    let mut findings = Vec::new();
    let mut blocked = |check: Check, message: String, remedy: String| {
        findings.push(check.finding(Some(member), message, remedy));
    };
    if let Some(others) = cluster.filter(|cluster| *cluster != server.system_identifier) {
        blocked(
            Check::SameCluster,
            format!(
                "source member {name} is not part of the cluster: its system identifier is {}, that of the others {others}",
                server.system_identifier
            ),
            format!("correct the host of {name} in spec.source.members or remove {name}"),
        );
    }
    if !SUPPORTED.contains(&server.major()) {
        blocked(
            Check::VersionSupported,
            format!("source member {name} runs PostgreSQL {}", server.major()),
            "PostgreSQL 14 to 18 can be moved: upgrade the source first".to_owned(),
        );
    }
    if !server.superuser {
        blocked(
            Check::Superuser,
            format!("the login on {name} is no superuser"),
            "name a superuser in the Secret: stopping the old primary from inside needs one".to_owned(),
        );
    }
    if server.number("max_wal_senders") == 0 || server.settings.get("wal_level").is_some_and(|level| level == "minimal")
    {
        blocked(
            Check::WalLevel,
            format!("source member {name} does not write WAL for replication"),
            "set wal_level = replica and max_wal_senders >= 10 and restart it".to_owned(),
        );
    }
    if server
        .settings
        .get("full_page_writes")
        .is_some_and(|value| value == "off")
    {
        blocked(
            Check::FullPageWrites,
            format!("full_page_writes is off on {name}"),
            "set full_page_writes = on: a base backup of a standby needs it".to_owned(),
        );
    }
    if !server.tablespaces.is_empty() {
        blocked(
            Check::Tablespaces,
            format!(
                "tablespaces outside the data directory: {}",
                server.tablespaces.join(", ")
            ),
            "move their tables into pg_default and drop them: this version clones one volume only".to_owned(),
        );
    }
    if let Some(parameters) = &server.recovery_target {
        blocked(
            Check::RecoveryTarget,
            format!(
                "{name} has {parameters} set, left from a restore: as a standby it would stop there, or promote itself"
            ),
            format!(
                "run `ALTER SYSTEM RESET` for {parameters}, or remove them from postgresql.conf, and restart {name}"
            ),
        );
    }
    if !server.in_recovery && server.standby_signal {
        blocked(
            Check::StandbySignal,
            format!("the primary {name} has a standby.signal and would not come back as primary"),
            "remove standby.signal from its data directory".to_owned(),
        );
    }
    findings
}

fn find_in_primary(seen: &Snapshot, primary: &Member, server: &Server) -> Vec<Finding> {
    let spec = &seen.migration.spec;
    let mut findings = Vec::new();
    let needed = server.database_bytes * (100 + GROWTH_PERCENT) / 100 + WAL_ROOM;
    if needed > spec.target.storage.size.bytes() {
        findings.push(Check::StorageSize.finding(
            None,
            format!(
                "spec.target.storage.size is {}, the source has {} MiB of databases",
                spec.target.storage.size,
                server.database_bytes >> 20
            ),
            format!(
                "make it at least {}Mi: databases, 20 % for growth, 512Mi for WAL",
                (needed >> 20) + 1
            ),
        ));
    }
    if let Some(member) = seen.leader()
        && let Err(error) = render_postgresql(&member.name, server, &spec.target.postgresql.parameters)
    {
        findings.push(Check::Parity.finding(None, error, "raise or remove the parameter"));
    }
    match choose_clone_source(seen) {
        Err(message) => findings.push(Check::CloneSource.finding(
            None,
            message,
            "start a standby of the source, or name the member to clone from in spec.source.cloneFrom",
        )),
        Ok(from) => {
            if let Some(server) = from.server() {
                findings.extend(find_capacity(from, server));
            }
        }
    }
    if spec.seeding.compression != Compression::None && server.major() < 15 {
        findings.push(Check::Compression.finding(
            None,
            format!(
                "spec.seeding.compression is {:?}, which PostgreSQL {} does not know",
                spec.seeding.compression,
                server.major()
            ),
            "leave it out: servers compress base backups since PostgreSQL 15",
        ));
    }
    if let Some(error) = find_way_back(seen) {
        findings.push(error);
    }
    if server
        .settings
        .get("synchronous_standby_names")
        .is_some_and(|names| !names.is_empty())
    {
        findings.push(Check::SynchronousReplication.finding(
            Some(primary),
            "the source commits synchronously (synchronous_standby_names); the target will not",
            "plan synchronous_standby_names for the target after the switch",
        ));
    }
    findings.extend(find_what_stays_behind(seen, primary, server));
    let stop = &spec.source.stop;
    for member in seen.side(Side::Source) {
        let unit = member.server().and_then(|server| server.supervisor.as_deref());
        if let Some(unit) = unit.filter(|_| stop.method == StopMethod::Sql && stop.restart_command.is_none()) {
            findings.push(Check::SupervisedServer.finding(
                Some(member),
                format!("{} runs in the systemd unit {unit}: a restart from inside would be ended with it", member.name),
                format!(
                    "set spec.source.stop.restartCommand to `sudo -n systemctl restart {unit}`, allow that in sudoers for the server's user, \
                     and rehearse it with spec.source.stop.rehearseOn"
                ),
            ));
        }
    }
    findings.extend(find_in_image(seen, server));
    findings
}

fn find_capacity(from: &Member, server: &Server) -> Option<Finding> {
    // One slot; two walsenders for the base backup, of which one stays.
    let taken = i64::from(server.slots.iter().any(|slot| slot.name.starts_with("mitosis_")));
    (server.free_slots + taken < 1 || server.free_walsenders + 2 * taken < 2).then(|| {
        Check::FreeSlots.finding(
            Some(from),
            format!(
                "{} has {} free replication slots and {} free walsenders",
                from.name, server.free_slots, server.free_walsenders
            ),
            "raise max_replication_slots and max_wal_senders there: the clone needs 1 slot and 2 walsenders",
        )
    })
}

fn find_way_back(seen: &Snapshot) -> Option<Finding> {
    let exposure = &seen.migration.spec.target.exposure;
    let leader = seen.leader()?;
    let named = exposure.hosts.contains_key(leader.name.as_str());
    let known = named || exposure.kind == crate::api::ExposureType::LoadBalancer;
    (!known).then(|| {
        Check::WayBack.finding(
            None,
            format!("the source's members would not find {} after the switch", leader.name),
            format!(
                "set spec.target.exposure.type and hosts, such as type: NodePort and hosts: {{{}: ADDRESS OF A NODE}}",
                leader.name
            ),
        )
    })
}

/// What the new primary will not have, or not do, although the old one does.
fn find_what_stays_behind(seen: &Snapshot, primary: &Member, server: &Server) -> Vec<Finding> {
    let setting = |name: &str| server.settings.get(name).map(String::as_str);
    let mut findings = Vec::new();
    let mut tell = |check: Check, message: String, remedy: &str| {
        findings.push(check.finding(Some(primary), message, remedy));
    };
    let logical: Vec<&str> = server
        .slots
        .iter()
        .filter(|slot| slot.logical)
        .map(|slot| slot.name.as_str())
        .collect();
    if !logical.is_empty() {
        tell(
            Check::LogicalSlots,
            format!("{} has logical replication slots: {}", primary.name, logical.join(", ")),
            "let their consumers begin anew on the new primary, with slots made there before clients write; a physical copy has none",
        );
    }
    if server.prepared_transactions > 0 {
        tell(
            Check::PreparedTransactions,
            format!(
                "{} has {} prepared transactions",
                primary.name, server.prepared_transactions
            ),
            "commit or roll them back: see pg_prepared_xacts",
        );
    }
    if setting("data_checksums") == Some("off") && setting("wal_log_hints") == Some("off") {
        tell(
            Check::NoRewind,
            format!("{} has neither data checksums nor wal_log_hints", primary.name),
            "set wal_log_hints = on and restart it, if pg_rewind shall be able to mend a side that diverged; else that side is cloned anew",
        );
    }
    if setting("archive_mode").is_some_and(|mode| mode != "off") {
        tell(
            Check::Archiving,
            format!(
                "{} archives its WAL (archive_mode = {})",
                primary.name,
                setting("archive_mode").unwrap_or_default()
            ),
            "set archive_mode and archive_command in spec.target.postgresql.parameters, with a place of its own, and take a base backup there \
             after the switch",
        );
    }
    if let Listed::Seen(listing) = &seen.inventory {
        let several = |names: &[String]| names.join(", ");
        if !listing.unlogged.is_empty() {
            tell(
                Check::UnloggedTables,
                format!(
                    "unlogged tables are empty after the switch: {}",
                    several(&listing.unlogged)
                ),
                "fill them again after it, or run ALTER TABLE ... SET LOGGED before",
            );
        }
        if !listing.subscriptions.is_empty() {
            tell(
                Check::Subscriptions,
                format!(
                    "subscriptions go on from the new primary: {}",
                    several(&listing.subscriptions)
                ),
                "see that their publishers let the new primary in; run ALTER SUBSCRIPTION ... DISABLE before the switch where they must not",
            );
        }
        if !listing.stale_collations.is_empty() {
            tell(
                Check::CollationStale,
                format!(
                    "indexes were built with other rules of sorting than the libraries of {} have now: {}",
                    primary.name,
                    several(&listing.stale_collations)
                ),
                "REINDEX what is sorted by them, then run ALTER DATABASE or COLLATION ... REFRESH VERSION",
            );
        }
    }
    findings.extend(find_in_clocks(seen));
    findings
}

/// How far the servers' clocks may be apart, in seconds: lag in time is told by them.
const CLOCKS: f64 = 5.0;

/// Servers are asked at the same time, so that they answer with the same time, but for what an answer may take.
fn find_in_clocks(seen: &Snapshot) -> Option<Finding> {
    let clocks = seen
        .members
        .iter()
        .filter_map(|member| Some((member, member.server()?.clock?)));
    let first = clocks.clone().min_by(|(_, one), (_, other)| one.total_cmp(other))?;
    let last = clocks.max_by(|(_, one), (_, other)| one.total_cmp(other))?;
    let apart = last.1 - first.1;
    (apart > CLOCKS).then(|| {
        Check::Clock.finding(
            Some(last.0),
            format!(
                "the clock of {} is {apart:.0} s ahead of that of {}",
                last.0.name, first.0.name
            ),
            "let NTP set both: lag in time is told by them, and so are logs",
        )
    })
}
