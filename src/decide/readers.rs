//! Which standbys readers are led to.

use std::collections::BTreeSet;

use super::{
    Decision, Told,
    check::Check,
    routing::{plan_readers, proxied},
};
use crate::{
    address::Address,
    api::{ByteSize, Finding, PostgresRole, Route, SwitchoverStatus},
    haproxy::Configuration,
    observe::{Member, Snapshot},
};

/// The standbys that may serve readers: those of the primary's side.
pub fn list_standbys<'a>(seen: &'a Snapshot, primary: &'a Member) -> impl Iterator<Item = &'a Member> {
    seen.side(primary.side).filter(|member| member.name != primary.name)
}

/// Addresses of the standbys that a route leaves out.
///
/// While a switchover is under way they are those on its record: nothing may change then that HAProxy has not been told before.
pub fn list_left_out(seen: &Snapshot, primary: &Member, route: &Route) -> Result<BTreeSet<Address>, String> {
    let running = find_running(seen);
    let standbys = list_standbys(seen, primary);
    let left_out = standbys.filter(|member| match running {
        Some(record) => record.left_out.iter().any(|name| name == member.name.as_str()),
        None => is_unfit(seen, member, primary, route),
    });
    left_out.map(|member| proxied(seen, member)).collect()
}

fn find_running(seen: &Snapshot) -> Option<&SwitchoverStatus> {
    let record = seen.migration.status.as_ref()?.switchover.as_ref()?;
    record.is_under_way().then_some(record)
}

fn list_routes(seen: &Snapshot) -> impl Iterator<Item = &Route> {
    let routes = seen.migration.spec.traffic.iter().flat_map(|traffic| &traffic.routes);
    routes.filter(|route| route.postgres == Some(PostgresRole::Replicas))
}

/// Names of the standbys of either side that should get no readers during a switchover from `old` to `new`. Of the side that takes over, one
/// that was not seen is none to lead readers to.
pub fn list_unfit(seen: &Snapshot, old: &Member, new: &Member) -> Vec<String> {
    let unfit = seen.members.iter().filter(|member| {
        let unseen = member.side == new.side && member.server().is_none();
        member.name != old.name && list_routes(seen).any(|route| unseen || is_unfit(seen, member, old, route))
    });
    unfit.map(|member| member.name.to_string()).collect()
}

/// What cannot be seen stays as it is, unless nobody will look again: then HAProxy's own check has to do.
fn is_unfit(seen: &Snapshot, member: &Member, primary: &Member, route: &Route) -> bool {
    let was_left_out = was_left_out(seen, member, route);
    let is_last_look = seen.migration.metadata.deletion_timestamp.is_some();
    let lag = match measure_lag(member, primary) {
        Lag::FollowsNot => return true,
        Lag::Unseen | Lag::Bytes(_) if is_last_look => return false,
        Lag::Unseen => return was_left_out,
        Lag::Bytes(lag) => lag,
    };
    // It comes back when it has caught up well below the limit: one that wavers around it would end sessions all the time.
    let limit = if was_left_out {
        route.max_lag().bytes() / 2
    } else {
        route.max_lag().bytes()
    };
    lag > limit
}

/// How far a standby is behind the primary.
enum Lag {
    /// One of them was not seen.
    Unseen,
    /// It is no standby on the primary's timeline.
    FollowsNot,
    /// Bytes of WAL that it has not replayed of what the primary says to have written.
    Bytes(u64),
}

fn measure_lag(member: &Member, primary: &Member) -> Lag {
    let (Some(standby), Some(primary)) = (member.server(), primary.server()) else {
        return Lag::Unseen;
    };
    let is_of_the_cluster = standby.system_identifier == primary.system_identifier;
    if !standby.in_recovery || standby.timeline != primary.timeline || !is_of_the_cluster {
        return Lag::FollowsNot;
    }
    let positions = primary.lsn.zip(standby.lsn);
    positions.map_or(Lag::Unseen, |(written, replayed)| {
        Lag::Bytes(written.bytes_after(replayed))
    })
}

fn was_left_out(seen: &Snapshot, member: &Member, route: &Route) -> bool {
    let routing = seen.traffic.routing.as_ref();
    let running = routing.and_then(|routing| Configuration::parse(&routing.configuration).ok());
    let mut routes = running.iter().flat_map(Configuration::routes);
    let same = routes.find(|running| running.name.as_str() == route.name);
    same.zip(proxied(seen, member).ok())
        .is_some_and(|(same, address)| same.left_out.contains(&address))
}

/// Leads readers as it is right now, where a decision waits with nothing else to do. Nothing where `primary` is not the only primary.
pub fn decide_readers(seen: &Snapshot, primary: &str, told: &Told) -> Option<Decision> {
    let [only] = seen.primaries()[..] else {
        return None;
    };
    if only.name.as_str() != primary {
        return None;
    }
    let actions = plan_readers(seen, only);
    (!actions.is_empty()).then(|| Decision::Act {
        actions,
        effect: None,
        told: told.clone(),
    })
}

/// Standbys that get no readers, as findings.
pub fn find_in_readers(seen: &Snapshot) -> Vec<Finding> {
    let [primary] = seen.primaries()[..] else {
        return Vec::new();
    };
    if find_running(seen).is_some() {
        return Vec::new();
    }
    let left_out = list_routes(seen).flat_map(|route| {
        let standbys = list_standbys(seen, primary).filter(|member| was_left_out(seen, member, route));
        standbys.map(|member| {
            Check::Readers.finding(
                Some(member),
                format!(
                    "{} gets no readers of route {}: {}",
                    member.name,
                    route.name,
                    why(member, primary)
                ),
                format!(
                    "it comes back by itself when it lags by less than {}, half of maxLag of the route",
                    ByteSize::from_bytes(route.max_lag().bytes() / 2)
                ),
            )
        })
    });
    left_out.collect()
}

fn why(member: &Member, primary: &Member) -> String {
    match measure_lag(member, primary) {
        Lag::Unseen => format!("it was left out, and was not seen since: {}", member.unseen_because()),
        Lag::FollowsNot => format!("it does not follow {}", primary.name),
        Lag::Bytes(_) => format!("it lags or lagged behind {} by more WAL than it may", primary.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::Desired,
        api::{DesiredPhase, Step},
        decide::{Action, routing::plan_configuration, world::World},
        haproxy::State,
    };

    /// Whom the readers' route leaves out, once HAProxy has been told.
    fn left_out(world: &mut World, primary: &str) -> Vec<String> {
        let primary = world.seen.member(primary).unwrap();
        let configuration = plan_configuration(&world.seen, primary, 7, State::Open).unwrap();
        let route = configuration
            .routes()
            .iter()
            .find(|route| route.name.as_str() == "read");
        let left_out = route.unwrap().left_out.iter().map(|address| address.host.to_string());
        let left_out = left_out.collect();
        world.seen.traffic.routing = Some(Desired::from(&configuration));
        left_out
    }

    fn replayed(world: &mut World, name: &str, lsn: &str) {
        world.change(name, |server| server.lsn = lsn.parse().ok());
    }

    fn replicating() -> World {
        let mut world = World::new(DesiredPhase::Replicating);
        for name in ["a1", "a2", "a3"] {
            replayed(&mut world, name, "0/10000000");
        }
        world
    }

    #[test]
    fn a_standby_that_lags_by_more_than_it_may_gets_readers_again_when_it_lags_by_half_of_that() {
        let mut world = replicating();
        assert_eq!(left_out(&mut world, "a1"), [""; 0]);
        // 64 MiB and a byte, between the half and the whole, and a half.
        replayed(&mut world, "a1", "0/14000001");
        assert_eq!(left_out(&mut world, "a1"), ["10.20.0.12", "10.20.0.13"]);
        replayed(&mut world, "a2", "0/11000000");
        assert_eq!(left_out(&mut world, "a1"), ["10.20.0.12", "10.20.0.13"]);
        let found: Vec<String> = find_in_readers(&world.seen)
            .into_iter()
            .map(|found| found.message)
            .collect();
        assert!(
            found.len() == 2 && found[0].contains("a2 gets no readers of route read"),
            "{found:?}"
        );
        replayed(&mut world, "a2", "0/12000001");
        assert_eq!(left_out(&mut world, "a1"), ["10.20.0.13"]);
        replayed(&mut world, "a2", "0/10000001");
        assert_eq!(left_out(&mut world, "a1"), ["10.20.0.13"]);
    }

    #[test]
    fn a_standby_that_does_not_follow_the_primary_gets_no_readers() {
        type Break = fn(&mut World);
        let breaks: [Break; 2] = [
            |world| world.change("a2", |a2| a2.timeline = 2),
            |world| world.change("a2", |a2| a2.in_recovery = false),
        ];
        for break_it in breaks {
            let mut world = replicating();
            break_it(&mut world);
            assert_eq!(left_out(&mut world, "a1"), ["10.20.0.12"]);
        }
    }

    #[test]
    fn what_is_not_seen_of_a_standby_changes_nothing_for_its_readers() {
        let mut world = replicating();
        world.lose("a2");
        assert_eq!(left_out(&mut world, "a1"), [""; 0]);
        replayed(&mut world, "a1", "0/20000000");
        assert_eq!(left_out(&mut world, "a1"), ["10.20.0.13"]);
        world.lose("a1");
        replayed(&mut world, "a3", "0/20000000");
        assert_eq!(left_out(&mut world, "a1"), ["10.20.0.13"]);
    }

    #[test]
    fn during_a_switch_readers_are_led_to_those_standbys_of_the_new_side_that_were_fit_before_it() {
        let mut world = World::switching(Step::Gate);
        world.open_gate();
        for name in ["a1", "a2", "a3", "shop-1", "shop-2", "shop-3"] {
            replayed(&mut world, name, "0/10000000");
        }
        replayed(&mut world, "shop-3", "0/8000000");
        world.lose("shop-2");
        let seen = &world.seen;
        let (old, new) = (seen.member("a1").unwrap(), seen.member("shop-1").unwrap());
        assert_eq!(list_unfit(seen, old, new), ["shop-2", "shop-3"]);

        let record = world.status().switchover.as_mut().unwrap();
        record.left_out = vec!["shop-3".to_owned()];
        record.step = Step::Route;
        world.change("shop-2", |server| server.timeline = 1);
        assert_eq!(left_out(&mut world, "shop-1"), ["10.96.0.7"]);
        world.status().switchover.as_mut().unwrap().step = Step::Done;
        world.set("shop-2", crate::decide::world::server(true));
        replayed(&mut world, "shop-2", "0/10000000");
        replayed(&mut world, "shop-3", "0/10000000");
        assert_eq!(left_out(&mut world, "shop-1"), [""; 0]);
    }

    /// Whether the routing is written, with no effect of a switchover.
    fn tells_haproxy(world: &World) -> bool {
        matches!(world.decide().decision, Decision::Act { actions, effect: None, .. }
            if matches!(actions.as_slice(), [Action::Apply(object)] if object.name == "shop-routing"))
    }

    #[test]
    fn a_gate_that_stays_closed_and_a_resource_that_goes_leave_no_reader_on_what_is_stale() {
        let mut world = World::switching(Step::Gate);
        for name in ["a1", "a2", "a3"] {
            replayed(&mut world, name, "0/10000000");
        }
        left_out(&mut world, "a1");
        assert!(!tells_haproxy(&world));
        replayed(&mut world, "a1", "0/20000000");
        assert!(tells_haproxy(&world));
        // Somebody else is primary: nothing is known of anybody's lag.
        world.change("shop-1", |server| server.in_recovery = false);
        assert!(!tells_haproxy(&world));

        let mut world = replicating();
        replayed(&mut world, "a1", "0/20000000");
        left_out(&mut world, "a1");
        world.seen.migration.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.seen.now));
        assert!(tells_haproxy(&world));
        left_out(&mut world, "a1");
        assert!(!tells_haproxy(&world));
    }

    #[test]
    fn when_nobody_will_look_again_only_what_does_not_follow_is_left_out() {
        let mut world = replicating();
        replayed(&mut world, "a1", "0/20000000");
        world.change("a3", |a3| a3.timeline = 2);
        assert_eq!(left_out(&mut world, "a1"), ["10.20.0.12", "10.20.0.13"]);
        world.seen.migration.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.seen.now));
        assert_eq!(left_out(&mut world, "a1"), ["10.20.0.13"]);
    }
}
