//! Preflight: what would go wrong, found before anything is made.

use std::time::Duration;

use super::{Action, Decision, Told, members::choose_clone_source};
use crate::{
    api::{Finding, Phase, Reason, Severity, Side, StopMethod},
    observe::{JobState, Member, Sight, Snapshot},
    postgres::{Server, render_postgresql},
    resources::{Kind, build_probe, probe_name},
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
        let reason = match first.check.as_str() {
            "member-reachable" => Reason::MemberUnreachable,
            "member-login" => Reason::LoginRefused,
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
    let probe = probe_name(&seen.migration);
    match seen.objects.jobs.get(&probe) {
        Some(JobState::Succeeded(_)) => None,
        None if !seen.objects.applied.contains_key(&(Kind::Job, probe)) => Some(Decision::Act {
            actions: vec![Action::Apply(Box::new(build_probe(&seen.migration)))],
            effect: None,
            told: Told::new(Phase::Pending, Reason::Probing, "a probe looks at the target's image"),
        }),
        _ => Some(Decision::Wait {
            told: Told::new(Phase::Pending, Reason::Probing, "a probe looks at the target's image"),
            recheck: Duration::from_millis(500),
        }),
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
        findings.push(block(
            "one-primary",
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

fn finding(severity: Severity, check: &str, member: Option<&Member>, message: &str, remedy: &str) -> Finding {
    Finding {
        check: check.to_owned(),
        severity,
        member: member.map(|member| member.name.to_string()),
        message: message.to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn block(check: &str, member: Option<&Member>, message: &str, remedy: &str) -> Finding {
    finding(Severity::Block, check, member, message, remedy)
}

fn find_access(seen: &Snapshot, member: &Member) -> Option<Finding> {
    let secret = &seen.migration.spec.source.credentials.secret_name;
    match &member.sight {
        Sight::Unreachable(because) => Some(block(
            "member-reachable",
            Some(member),
            &format!("source member {}: {because}", member.name),
            &format!(
                "correct host and port of {} in spec.source.members, or start the server and open the way to it",
                member.name
            ),
        )),
        Sight::Refused(because) => Some(block(
            "member-login",
            Some(member),
            &format!("source member {}: {because}", member.name),
            &format!(
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
    let mut blocked = |check: &str, message: String, remedy: String| {
        findings.push(block(check, Some(member), &message, &remedy));
    };
    if let Some(others) = cluster.filter(|cluster| *cluster != server.system_identifier) {
        blocked(
            "same-cluster",
            format!(
                "source member {name} is not part of the cluster: its system identifier is {}, that of the others {others}",
                server.system_identifier
            ),
            format!("correct the host of {name} in spec.source.members or remove {name}"),
        );
    }
    if !SUPPORTED.contains(&server.major()) {
        blocked(
            "version-supported",
            format!("source member {name} runs PostgreSQL {}", server.major()),
            "PostgreSQL 14 to 18 can be moved: upgrade the source first".to_owned(),
        );
    }
    if !server.superuser {
        blocked(
            "superuser",
            format!("the login on {name} is no superuser"),
            "name a superuser in the Secret: stopping the old primary from inside needs one".to_owned(),
        );
    }
    if server.number("max_wal_senders") == 0 || server.settings.get("wal_level").is_some_and(|level| level == "minimal")
    {
        blocked(
            "wal-level",
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
            "full-page-writes",
            format!("full_page_writes is off on {name}"),
            "set full_page_writes = on: a base backup of a standby needs it".to_owned(),
        );
    }
    if !server.tablespaces.is_empty() {
        blocked(
            "tablespaces",
            format!(
                "tablespaces outside the data directory: {}",
                server.tablespaces.join(", ")
            ),
            "move their tables into pg_default and drop them: this version clones one volume only".to_owned(),
        );
    }
    if let Some(parameters) = &server.recovery_target {
        blocked(
            "recovery-target",
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
            "standby-signal",
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
        findings.push(block(
            "storage-size",
            None,
            &format!(
                "spec.target.storage.size is {}, the source has {} MiB of databases",
                spec.target.storage.size,
                server.database_bytes >> 20
            ),
            &format!(
                "make it at least {}Mi: databases, 20 % for growth, 512Mi for WAL",
                (needed >> 20) + 1
            ),
        ));
    }
    if let Some(member) = seen.leader()
        && let Err(error) = render_postgresql(&member.name, server, &spec.target.postgresql.parameters)
    {
        findings.push(block("parity", None, &error, "raise or remove the parameter"));
    }
    match choose_clone_source(seen) {
        Err(message) => findings.push(block(
            "clone-source",
            None,
            &message,
            "start a standby of the source, or name the member to clone from in spec.source.cloneFrom",
        )),
        Ok(from) => {
            if let Some(server) = from.server() {
                findings.extend(find_capacity(from, server));
            }
        }
    }
    if let Some(error) = find_way_back(seen) {
        findings.push(error);
    }
    if server
        .settings
        .get("synchronous_standby_names")
        .is_some_and(|names| !names.is_empty())
    {
        findings.push(finding(
            Severity::Warn,
            "synchronous-replication",
            Some(primary),
            "the source commits synchronously (synchronous_standby_names); the target will not",
            "plan synchronous_standby_names for the target after the switch",
        ));
    }
    let stop = &spec.source.stop;
    for member in seen.side(Side::Source) {
        let unit = member.server().and_then(|server| server.supervisor.as_deref());
        if let Some(unit) = unit.filter(|_| stop.method == StopMethod::Sql && stop.restart_command.is_none()) {
            findings.push(finding(
                Severity::Warn,
                "supervised-server",
                Some(member),
                &format!("{} runs in the systemd unit {unit}: a restart from inside would be ended with it", member.name),
                &format!(
                    "set spec.source.stop.restartCommand to `sudo -n systemctl restart {unit}`, allow that in sudoers for the server's user, \
                     and rehearse it with spec.source.stop.rehearseOn"
                ),
            ));
        }
    }
    findings.extend(find_image(seen, server));
    findings
}

fn find_capacity(from: &Member, server: &Server) -> Option<Finding> {
    // One slot; two walsenders for the base backup, of which one stays.
    let taken = i64::from(server.slots.iter().any(|slot| slot.name.starts_with("mitosis_")));
    (server.free_slots + taken < 1 || server.free_walsenders + 2 * taken < 2).then(|| {
        block(
            "free-slots",
            Some(from),
            &format!(
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
        block(
            "way-back",
            None,
            &format!("the source's members would not find {} after the switch", leader.name),
            &format!(
                "set spec.target.exposure.type and hosts, such as type: NodePort and hosts: {{{}: ADDRESS OF A NODE}}",
                leader.name
            ),
        )
    })
}

fn find_image(seen: &Snapshot, source: &Server) -> Option<Finding> {
    let image = &seen.migration.spec.target.image;
    let probe = probe_name(&seen.migration);
    if let Some(problem) = seen.objects.pod_problems.get(&probe) {
        return Some(block(
            "target-image",
            None,
            &format!("spec.target.image {image} does not start: {problem}"),
            "name an image with PostgreSQL's programs on PATH that the nodes can pull",
        ));
    }
    match seen.objects.jobs.get(&probe)? {
        JobState::Running => None,
        JobState::Failed(said) => Some(block(
            "target-image",
            None,
            &format!("spec.target.image {image} is not usable: {said}"),
            "name an image with PostgreSQL's programs on PATH and a POSIX shell",
        )),
        JobState::Succeeded(said) => {
            let major = said
                .split_whitespace()
                .find_map(|word| word.split(['.', 'b', 'r']).next()?.parse::<u32>().ok());
            (major != Some(source.major())).then(|| {
                block(
                    "target-version",
                    None,
                    &format!(
                        "spec.target.image {image} holds {}, the source runs PostgreSQL {}",
                        said.trim(),
                        source.major()
                    ),
                    &format!(
                        "name an image of PostgreSQL {}: physical replication needs the same major version",
                        source.major()
                    ),
                )
            })
        }
    }
}
