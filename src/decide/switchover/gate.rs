//! The gate: what must be true before clients are held.

use super::Turn;
use crate::{
    api::{BypassPolicy, Side, Traffic},
    decide::{
        bypass::find_bypass,
        members::{conninfo_between, is_told_to_follow},
        poolers::list_problems,
        proxies::find_former_workers,
        routing::{find_laggards, without_silent},
    },
    haproxy::State,
    observe::{Member, Sight},
    postgres::{PARITY, Server},
};

/// A link whose upstream was not heard of for longer is not fresh, in seconds.
const FRESH: f64 = 3.0;

/// The checks of the gate, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Check {
    MemberSeen,
    SameCluster,
    SameTimeline,
    OldPrimaryServes,
    NothingArmed,
    NoPreparedTransactions,
    NoLongTransactions,
    NoIdleTransactions,
    NoForeignManager,
    NoRecoveryTarget,
    LinksFresh,
    ReplayRuns,
    Parity,
    LagSmall,
    WayBackKnown,
    ProxiesReady,
    FollowersFollow,
    NothingBypasses,
    PoolersReady,
    NoFormerWorkers,
}

/// One thing that keeps the gate closed, as a sentence with what cures it.
#[derive(Debug)]
pub(super) struct Obstacle {
    /// The check.
    pub check: Check,
    /// The sentence.
    pub message: String,
}

fn obstacle(check: Check, message: String) -> Obstacle {
    Obstacle { check, message }
}

/// Everything that keeps the gate closed.
pub(super) fn find_obstacles(turn: &Turn<'_>) -> Vec<Obstacle> {
    let mut obstacles: Vec<Obstacle> = turn
        .seen
        .members
        .iter()
        .filter_map(|member| find_in_identity(turn, member))
        .collect();
    obstacles.extend(turn.seen.members.iter().filter_map(find_recovery_target));
    let (Some(primary), Some(standby)) = (turn.old.server(), turn.new.server()) else {
        return obstacles;
    };
    obstacles.extend(find_in_primary(turn, primary));
    for member in turn.seen.members.iter().filter(|member| member.name != turn.old.name) {
        obstacles.extend(find_in_standby(member));
    }
    obstacles.extend(find_between(turn, primary, standby));
    let routing = turn.seen.traffic.routing.as_ref();
    let generation = routing.map_or(0, |routing| routing.generation);
    for laggard in without_silent(turn.seen, find_laggards(turn.seen, generation, State::Open)) {
        obstacles.push(obstacle(
            Check::ProxiesReady,
            format!("HAProxy pod {}", laggard.message),
        ));
    }
    let former = turn.seen.traffic.pods.iter().filter_map(find_former_workers);
    obstacles.extend(former.map(|message| obstacle(Check::NoFormerWorkers, format!("HAProxy pod {message}"))));
    for problem in list_problems(turn.seen)
        .into_iter()
        .filter(|problem| problem.is_obstacle)
    {
        obstacles.push(obstacle(
            Check::PoolersReady,
            format!("{}: {}", problem.message, problem.remedy),
        ));
    }
    let refuses = |traffic: &Traffic| traffic.bypass.policy == BypassPolicy::Refuse;
    if turn.seen.migration.spec.traffic.as_ref().is_some_and(refuses) {
        obstacles.extend(find_bypass(turn.seen).map(|finding| {
            obstacle(
                Check::NothingBypasses,
                format!("{}: {}", finding.message, finding.remedy),
            )
        }));
    }
    obstacles
}

/// Parameters of a former restore, which count again as soon as a server is a standby.
fn find_recovery_target(member: &Member) -> Option<Obstacle> {
    let parameters = member.server()?.recovery_target.as_ref()?;
    Some(obstacle(
        Check::NoRecoveryTarget,
        format!(
            "{} has {parameters} set, left from a restore: as a standby it would stop there, or promote itself; reset and restart it",
            member.name
        ),
    ))
}

/// Whether a member is there and of this cluster and timeline.
fn find_in_identity(turn: &Turn<'_>, member: &Member) -> Option<Obstacle> {
    let name = &member.name;
    match &member.sight {
        Sight::Seen(server) if server.system_identifier != turn.record.system_identifier => Some(obstacle(
            Check::SameCluster,
            format!("{name} belongs to another cluster: correct its address"),
        )),
        Sight::Seen(server) if server.timeline != turn.record.timeline => Some(obstacle(
            Check::SameTimeline,
            format!(
                "{name} is on timeline {}, the primary on {}: look into its log",
                server.timeline, turn.record.timeline
            ),
        )),
        Sight::Seen(_) => None,
        Sight::Unreachable(because) | Sight::Refused(because) => {
            Some(obstacle(Check::MemberSeen, format!("{name} was not seen: {because}")))
        }
        Sight::NotLooked => Some(obstacle(Check::MemberSeen, format!("{name} does not run"))),
    }
}

fn find_in_primary(turn: &Turn<'_>, primary: &Server) -> Vec<Obstacle> {
    let old = &turn.old.name;
    let spec = &turn.seen.migration.spec.switchover;
    let mut obstacles = Vec::new();
    let mut found = |check, message| obstacles.push(obstacle(check, message));
    if primary.in_recovery {
        found(Check::OldPrimaryServes, format!("{old} is not primary any more"));
    }
    if primary.standby_signal && !primary.in_recovery {
        found(
            Check::NothingArmed,
            format!("{old} has a standby.signal already: remove it from its data directory"),
        );
    }
    if primary.prepared_transactions > 0 {
        found(
            Check::NoPreparedTransactions,
            format!(
                "{old} has {} prepared transactions: commit or roll them back (pg_prepared_xacts)",
                primary.prepared_transactions
            ),
        );
    }
    let grace = std::time::Duration::from(spec.transaction_grace).as_secs_f64();
    if primary.oldest_transaction > grace {
        found(
            Check::NoLongTransactions,
            format!(
                "a transaction on {old} is {:.0} s old, more than spec.switchover.transactionGrace {}: end it (pg_stat_activity), or set \
                 spec.switchover.longTransactions to Terminate",
                primary.oldest_transaction, spec.transaction_grace
            ),
        );
    }
    if primary.oldest_idle_transaction > grace {
        found(
            Check::NoIdleTransactions,
            format!(
                "a session on {old} has been idle in its transaction for {:.0} s: end it (pg_stat_activity), or set \
                 spec.switchover.longTransactions to Terminate",
                primary.oldest_idle_transaction
            ),
        );
    }
    let managed = |member| Some((member, Member::server(member)?.manager?));
    if !spec.manager_paused
        && let Some((member, manager)) = turn.seen.members.iter().find_map(managed)
    {
        found(
            Check::NoForeignManager,
            format!(
                "{} is managed by {}, which would promote a server of its own when {old} stops: run `{}`, then set \
                 spec.switchover.managerPaused to true",
                member.name,
                manager.name(),
                manager.pause_command()
            ),
        );
    }
    obstacles
}

fn find_in_standby(member: &Member) -> Vec<Obstacle> {
    let name = &member.name;
    let Some(server) = member.server() else {
        return Vec::new();
    };
    let mut obstacles = Vec::new();
    if !server.streams_within(FRESH) {
        obstacles.push(obstacle(
            Check::LinksFresh,
            format!("{name} has not heard of its upstream for more than {FRESH} s"),
        ));
    }
    if server.replay_paused {
        obstacles.push(obstacle(
            Check::ReplayRuns,
            format!("replay is paused on {name}: run `SELECT pg_wal_replay_resume()` there"),
        ));
    }
    obstacles
}

fn find_between(turn: &Turn<'_>, primary: &Server, standby: &Server) -> Vec<Obstacle> {
    let (old, new) = (&turn.old.name, &turn.new.name);
    let mut obstacles = Vec::new();
    for name in PARITY {
        if standby.number(name) < primary.number(name) {
            obstacles.push(obstacle(
                Check::Parity,
                format!(
                    "{name} is {} on {new} and {} on {old}: promotion would end it; raise it and restart {new}",
                    standby.number(name),
                    primary.number(name),
                ),
            ));
        }
    }
    let lag = match (primary.lsn, standby.lsn) {
        (Some(written), Some(replayed)) => written.bytes_after(replayed),
        _ => u64::MAX,
    };
    let most = turn.seen.migration.spec.switchover.max_lag;
    if lag > most.bytes() {
        obstacles.push(obstacle(
            Check::LagSmall,
            format!("{new} is {lag} bytes behind, more than spec.switchover.maxLag {most}"),
        ));
    }
    if conninfo_between(turn.seen, turn.old, turn.new).is_none() {
        obstacles.push(obstacle(
            Check::WayBackKnown,
            format!("the address by which {old} reaches {new} is not known yet (spec.target.exposure)"),
        ));
    }
    if turn.new.side == Side::Target {
        for follower in turn.seen.side(Side::Target).filter(|member| member.name != *new) {
            let elsewhere = |server: &Server| !is_told_to_follow(server, &turn.new.address, follower);
            if follower.server().is_some_and(elsewhere) {
                obstacles.push(obstacle(
                    Check::FollowersFollow,
                    format!("{} does not follow {new}", follower.name),
                ));
            }
        }
    }
    obstacles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::Step,
        decide::world::{World, server},
        postgres::Manager,
    };

    /// The checks that find something, in a world of the gate.
    fn found(world: &World) -> Vec<Check> {
        let record = world
            .seen
            .migration
            .status
            .as_ref()
            .unwrap()
            .switchover
            .as_ref()
            .unwrap();
        let turn = Turn {
            seen: &world.seen,
            record,
            old: world.seen.member(&record.old_primary).unwrap(),
            new: world.seen.member(&record.new_primary).unwrap(),
        };
        let mut checks: Vec<Check> = find_obstacles(&turn)
            .into_iter()
            .map(|obstacle| obstacle.check)
            .collect();
        checks.dedup();
        checks
    }

    fn open() -> World {
        let mut world = World::switching(Step::Gate);
        world.open_gate();
        world
    }

    #[test]
    fn the_gate_is_open_when_nothing_is_wrong() {
        assert_eq!(found(&open()), []);
    }

    /// Each alone: whoever removes a check finds the world here in which nothing else would have held.
    #[test]
    fn each_check_alone_keeps_the_gate_closed() {
        type Break = fn(&mut World);
        let breaks: [(Check, Break); 20] = [
            (Check::MemberSeen, |world| world.lose("a3")),
            (Check::SameCluster, |world| {
                world.change("a3", |a3| a3.system_identifier = "8".to_owned());
            }),
            (Check::SameTimeline, |world| world.change("a3", |a3| a3.timeline = 2)),
            (Check::OldPrimaryServes, |world| world.set("a1", server(true))),
            (Check::NothingArmed, |world| {
                world.change("a1", |a1| a1.standby_signal = true);
            }),
            (Check::NoPreparedTransactions, |world| {
                world.change("a1", |a1| a1.prepared_transactions = 1);
            }),
            (Check::NoLongTransactions, |world| {
                world.change("a1", |a1| a1.oldest_transaction = 11.0);
            }),
            (Check::NoIdleTransactions, |world| {
                world.change("a1", |a1| a1.oldest_idle_transaction = 11.0);
            }),
            (Check::NoForeignManager, |world| {
                world.change("a2", |a2| a2.manager = Some(Manager::Patroni));
            }),
            (Check::NoRecoveryTarget, |world| {
                world.change("a1", |a1| a1.recovery_target = Some("recovery_target_time".to_owned()));
            }),
            (Check::LinksFresh, |world| {
                world.change("a2", |a2| a2.receiver_silence = Some(10.0));
            }),
            (Check::ReplayRuns, |world| {
                world.change("shop-1", |new| new.replay_paused = true);
            }),
            (Check::Parity, |world| {
                world.change("shop-1", |new| {
                    new.settings.insert("max_connections".to_owned(), "50".to_owned());
                });
            }),
            (Check::LagSmall, |world| {
                world.change("a1", |a1| a1.lsn = "1/0".parse().ok());
            }),
            (Check::WayBackKnown, |world| {
                for member in &mut world.seen.members {
                    member.outside = None;
                }
            }),
            (Check::ProxiesReady, |world| world.seen.traffic.pods[0].report = None),
            (Check::FollowersFollow, |world| {
                world.change("shop-2", |follower| follower.follows_host = Some("a2".to_owned()));
            }),
            (Check::NothingBypasses, |world| {
                world.bypass();
                let traffic = world.seen.migration.spec.traffic.as_mut().unwrap();
                traffic.bypass.policy = BypassPolicy::Refuse;
            }),
            (Check::NoFormerWorkers, |world| {
                world.seen.traffic.pods[0].report.as_mut().unwrap().old_workers = 1;
            }),
            (Check::PoolersReady, |world| {
                world.pool();
                world.change_pooler(0, |instance| instance.databases[0].paused = true);
            }),
        ];
        for (check, break_it) in breaks {
            let mut world = open();
            break_it(&mut world);
            assert_eq!(found(&world), [check], "{check:?}");
        }
    }

    #[test]
    fn sessions_past_haproxy_keep_nothing_closed_unless_they_shall() {
        let mut world = open();
        world.bypass();
        assert_eq!(found(&world), []);
    }

    #[test]
    fn a_manager_that_was_paused_keeps_nothing_closed() {
        let mut world = open();
        world.change("a2", |a2| a2.manager = Some(Manager::Patroni));
        world.seen.migration.spec.switchover.manager_paused = true;
        assert_eq!(found(&world), []);
    }
}
