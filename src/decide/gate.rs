//! The gate: what must be true before clients are held.

use super::{members::is_told_to_follow, routing::find_laggards};
use crate::{
    api::{Side, SwitchoverStatus},
    haproxy::State,
    observe::{Member, Sight, Snapshot},
    postgres::PARITY,
};

/// A link whose upstream was not heard of for longer is not fresh, in seconds.
const FRESH: f64 = 3.0;

/// Everything that keeps the gate closed, each as a sentence with what cures it.
pub fn find_obstacles(seen: &Snapshot, record: &SwitchoverStatus, old: &Member, leader: &Member) -> Vec<String> {
    let mut obstacles = Vec::new();
    for member in &seen.members {
        match &member.sight {
            Sight::Seen(server) if server.system_identifier != record.system_identifier => {
                obstacles.push(format!("{} belongs to another cluster", member.name));
            }
            Sight::Seen(server) if server.timeline != record.timeline => obstacles.push(format!(
                "{} is on timeline {}, the primary on {}",
                member.name, server.timeline, record.timeline
            )),
            Sight::Seen(_) => {}
            Sight::Unreachable(because) | Sight::Refused(because) => {
                obstacles.push(format!("{} was not seen: {because}", member.name));
            }
            Sight::NotLooked => obstacles.push(format!("{} does not run", member.name)),
        }
    }
    let (Some(primary), Some(standby)) = (old.server(), leader.server()) else {
        return obstacles;
    };
    if primary.in_recovery {
        obstacles.push(format!("{} is not primary any more", old.name));
    }
    if primary.standby_signal {
        obstacles.push(format!(
            "{} has a standby.signal already: remove it from its data directory",
            old.name
        ));
    }
    if primary.prepared_transactions > 0 {
        obstacles.push(format!(
            "{} has {} prepared transactions: commit or roll them back (pg_prepared_xacts)",
            old.name, primary.prepared_transactions
        ));
    }
    let budget = std::time::Duration::from(seen.migration.spec.switchover.budget).as_secs_f64();
    if primary.oldest_transaction > budget {
        obstacles.push(format!(
            "a transaction on {} is {:.0} s old, more than the budget: end it (pg_stat_activity)",
            old.name, primary.oldest_transaction
        ));
    }
    for member in seen.members.iter().filter(|member| member.name != old.name) {
        let Some(server) = member.server() else { continue };
        if !server.streams_within(FRESH) {
            obstacles.push(format!(
                "{} has not heard of its upstream for more than {FRESH} s",
                member.name
            ));
        }
        if server.replay_paused {
            obstacles.push(format!(
                "replay is paused on {}: run `SELECT pg_wal_replay_resume()` there",
                member.name
            ));
        }
    }
    for name in PARITY {
        if standby.number(name) < primary.number(name) {
            obstacles.push(format!(
                "{name} is {} on {} and {} on {}: promotion would end it; raise it and restart {}",
                standby.number(name),
                leader.name,
                primary.number(name),
                old.name,
                leader.name
            ));
        }
    }
    let lag = match (primary.lsn, standby.lsn) {
        (Some(written), Some(replayed)) => written.bytes_after(replayed),
        _ => u64::MAX,
    };
    let most = seen.migration.spec.switchover.max_lag;
    if lag > most.bytes() {
        obstacles.push(format!(
            "{} is {lag} bytes behind, more than spec.switchover.maxLag {most}",
            leader.name
        ));
    }
    if leader.outside.is_none() {
        obstacles.push(format!(
            "the address by which {} reaches {} is not known yet (spec.target.exposure)",
            old.name, leader.name
        ));
    }
    let generation = seen.traffic.routing.as_ref().map_or(0, |routing| routing.generation);
    for laggard in find_laggards(seen, generation, State::Open) {
        obstacles.push(format!("HAProxy pod {laggard}"));
    }
    for follower in seen.side(Side::Target).filter(|member| member.name != leader.name) {
        if follower
            .server()
            .is_some_and(|server| !is_told_to_follow(server, &leader.address, follower))
        {
            obstacles.push(format!("{} does not follow {}", follower.name, leader.name));
        }
    }
    obstacles
}
