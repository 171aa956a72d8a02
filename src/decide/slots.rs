//! What the migration's slots keep on servers, and whether that is what their standbys need.

use super::{check::Check, members::choose_clone_source};
use crate::{
    api::{Finding, Side},
    observe::{Member, Snapshot},
    postgres::{Server, Slot},
};

/// How the migration's slots begin.
const OURS: &str = "mitosis_";

/// What keeps too much, or too little, as findings.
pub fn find_in_slots(seen: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(from) = find_keeper(seen)
        && let Some(server) = from.server().filter(|server| limit(server).is_none())
    {
        findings.push(find_unbounded(from, server));
    }
    for member in &seen.members {
        let Some(server) = member.server() else { continue };
        let ours = server.slots.iter().filter(|slot| slot.name.starts_with(OURS));
        findings.extend(ours.filter_map(|slot| find_at_risk(member, server, slot)));
    }
    findings
}

/// The server of the source that keeps WAL for the leader, or will.
fn find_keeper(seen: &Snapshot) -> Option<&Member> {
    if seen.primaries().iter().any(|primary| primary.side == Side::Target) {
        return None;
    }
    let slot = seen.leader()?.name.slot();
    let has_it = |member: &&Member| member.server().is_some_and(|server| server.has_slot(slot.as_str()));
    let chosen = || {
        choose_clone_source(seen)
            .ok()
            .filter(|member| member.side == Side::Source)
    };
    seen.side(Side::Source).find(has_it).or_else(chosen)
}

/// Bytes that a server keeps for a slot at most; nothing where there is no limit.
fn limit(server: &Server) -> Option<u64> {
    let mebibytes = server.settings.get("max_slot_wal_keep_size")?.parse::<u64>().ok()?;
    Some(mebibytes << 20)
}

fn find_unbounded(member: &Member, server: &Server) -> Finding {
    let kept = server.slots.iter().filter(|slot| slot.name.starts_with(OURS));
    let kept: u64 = kept.filter_map(|slot| u64::try_from(slot.retained?).ok()).sum();
    Check::SlotUnbounded.finding(
        Some(member),
        format!(
            "{} keeps WAL for the migration's slots without a limit, {} MiB by now: a target that stands still would fill its disk",
            member.name,
            kept >> 20
        ),
        format!(
            "run ALTER SYSTEM SET max_slot_wal_keep_size = '50GB' (what its disk can spare) and SELECT pg_reload_conf() on {}; a target that \
             falls behind further then has to be cloned anew",
            member.name
        ),
    )
}

fn find_at_risk(member: &Member, server: &Server, slot: &Slot) -> Option<Finding> {
    let status = slot.wal_status.as_deref().unwrap_or_default();
    let kept = u64::try_from(slot.retained.unwrap_or(0)).unwrap_or(0);
    let limit = limit(server);
    let is_near = limit.is_some_and(|limit| kept > limit / 2);
    let message = match status {
        "lost" => format!("{} has given up the WAL of slot {}", member.name, slot.name),
        "unreserved" => format!("{} is about to give up the WAL of slot {}", member.name, slot.name),
        _ if is_near => format!(
            "{} keeps {} MiB for slot {}, more than half of max_slot_wal_keep_size, {} MiB",
            member.name,
            kept >> 20,
            slot.name,
            limit.unwrap_or(0) >> 20
        ),
        _ => return None,
    };
    Some(Check::SlotAtRisk.finding(
        Some(member),
        message,
        format!(
            "see what keeps its standby from following (status.members, status.lag), and raise max_slot_wal_keep_size while that lasts. A standby \
             whose WAL is gone follows no more: run SELECT pg_drop_replication_slot('{}') on {}, and delete the standby's StatefulSet, \
             PersistentVolumeClaim and Job to have it cloned anew",
            slot.name, member.name
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::DesiredPhase, decide::world::World};

    /// What is told where the clone source keeps so much for the leader.
    fn told(limit: &str, status: &str, mebibytes: i64) -> Vec<String> {
        let mut world = World::new(DesiredPhase::Replicating);
        world.change("a2", |a2| {
            a2.settings
                .insert("max_slot_wal_keep_size".to_owned(), limit.to_owned());
            a2.lsn = "0/6000000".parse().ok();
            a2.slots = vec![Slot {
                name: "mitosis_shop_1".to_owned(),
                active: true,
                wal_status: Some(status.to_owned()),
                logical: false,
                retained: Some(mebibytes << 20),
            }];
        });
        find_in_slots(&world.seen)
            .into_iter()
            .map(|found| found.message)
            .collect()
    }

    #[test]
    fn a_slot_that_keeps_little_under_a_limit_has_no_finding() {
        assert_eq!(told("1024", "reserved", 100), Vec::<String>::new());
    }

    #[test]
    fn a_server_without_a_limit_is_told_with_what_it_keeps() {
        let told = told("-1", "extended", 700);
        assert!(
            matches!(&told[..], [one] if one.contains("a2 keeps WAL") && one.contains("700 MiB by now")),
            "{told:?}"
        );
    }

    #[test]
    fn a_slot_near_its_limit_or_beyond_is_told() {
        for (status, kept, words) in [
            ("extended", 600, "keeps 600 MiB for slot mitosis_shop_1, more than half"),
            ("unreserved", 1100, "is about to give up"),
            ("lost", 0, "has given up the WAL of slot mitosis_shop_1"),
        ] {
            let told = told("1024", status, kept);
            assert!(matches!(&told[..], [one] if one.contains(words)), "{words}: {told:?}");
        }
    }
}
