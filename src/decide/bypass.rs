//! Sessions on the primary that did not come through HAProxy, whose clients nothing leads to the new primary.

use std::net::IpAddr;

use ipnet::IpNet;

use super::check::Check;
use crate::{
    address::Address,
    api::{Bypass, Finding},
    observe::{Member, Snapshot},
    postgres::Clients,
    resources::haproxy_name,
};

/// How many kinds of sessions are named.
const NAMED: usize = 5;

/// A network as it is written in the specification: an IP address, or one with the length of its prefix.
///
/// # Errors
/// A sentence.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().ok().or_else(|| address().ok()).ok_or_else(|| {
        format!(
            "`{}` is no network: write an IP address, or a network such as 10.8.0.0/16",
            text.escape_debug()
        )
    })
}

/// Sessions on the primary that come neither from HAProxy nor from where the specification allows them to, as a finding.
pub fn find_bypass(seen: &Snapshot) -> Option<Finding> {
    let traffic = seen.migration.spec.traffic.as_ref()?;
    let [primary] = seen.primaries()[..] else {
        return None;
    };
    let strangers = list_strangers(seen, &traffic.bypass, primary);
    if strangers.is_empty() {
        return None;
    }
    let count: u64 = strangers.iter().map(|clients| clients.sessions).sum();
    let mut named: Vec<String> = strangers.iter().take(NAMED).map(|clients| describe(clients)).collect();
    if strangers.len() > NAMED {
        named.push(format!("and {} kinds more", strangers.len() - NAMED));
    }
    Some(Check::Bypass.finding(
        Some(primary),
        format!(
            "sessions on {} that did not come through HAProxy will not be led to the new primary ({count}): {}",
            primary.name,
            named.join(", ")
        ),
        format!(
            "connect their clients to Service {}, or allow them in spec.traffic.bypass.addresses or users",
            haproxy_name(&seen.migration)
        ),
    ))
}

fn list_strangers<'a>(seen: &Snapshot, bypass: &Bypass, primary: &'a Member) -> Vec<&'a Clients> {
    let allowed: Vec<IpNet> = bypass
        .addresses
        .iter()
        .filter_map(|text| parse_network(text).ok())
        .collect();
    let Some(server) = primary.server() else {
        return Vec::new();
    };
    let is_proxy = |address: &IpAddr| seen.traffic.pods.iter().any(|pod| pod.addresses.contains(address));
    let poolers: Vec<IpAddr> = list_poolers(seen, primary);
    // The way of our own sessions is the way of HAProxy's: where a gateway translates addresses, both come from there.
    let comes_from_there = |address: &IpAddr| {
        server.our_address.as_ref() == Some(address)
            || is_proxy(address)
            || poolers.contains(address)
            || allowed.iter().any(|network| network.contains(address))
    };
    let clients = server.clients.iter();
    clients
        .filter(|clients| {
            !bypass.users.contains(&clients.user) && !clients.address.as_ref().is_some_and(comes_from_there)
        })
        .collect()
}

/// Poolers of the primary's side that routes lead to: their sessions are of clients that come through HAProxy.
fn list_poolers(seen: &Snapshot, primary: &Member) -> Vec<IpAddr> {
    let routes = seen.migration.spec.traffic.iter().flat_map(|traffic| &traffic.routes);
    let poolers = routes.filter_map(|route| route.pooler.as_ref());
    let addresses = poolers.flat_map(|pooler| pooler.of(primary.side));
    addresses
        .filter_map(|text| text.parse::<Address>().ok()?.host.as_str().parse().ok())
        .collect()
}

fn describe(clients: &Clients) -> String {
    let Clients {
        address,
        user,
        application,
        sessions,
    } = clients;
    let from = address.map_or_else(|| "its own socket".to_owned(), |address| address.to_string());
    let by = if application.is_empty() {
        String::new()
    } else {
        format!(" ({})", application.escape_debug())
    };
    format!("{sessions} of {}{by} from {from}", user.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::DesiredPhase, decide::world::World};

    fn world() -> World {
        let mut world = World::new(DesiredPhase::Planned);
        world.seen.traffic.pods = World::switching(crate::api::Step::Gate).seen.traffic.pods;
        world
    }

    fn found(world: &mut World, clients: &[(Option<&str>, &str, &str, u64)]) -> Option<String> {
        let clients = clients.iter().map(|(address, user, application, sessions)| Clients {
            address: address.map(|address| address.parse().unwrap()),
            user: (*user).to_owned(),
            application: (*application).to_owned(),
            sessions: *sessions,
        });
        let clients: Vec<Clients> = clients.collect();
        world.change("a1", |a1| a1.clients = clients);
        find_bypass(&world.seen).map(|finding| finding.message)
    }

    #[test]
    fn sessions_from_elsewhere_than_haproxy_are_named_with_where_they_come_from() {
        let mut world = world();
        let message = found(
            &mut world,
            &[
                (Some("10.244.0.7"), "shop", "web", 90),
                (Some("10.20.0.5"), "shop", "cron\n", 8),
                (None, "postgres", "", 1),
            ],
        );
        assert_eq!(
            message.unwrap(),
            "sessions on a1 that did not come through HAProxy will not be led to the new primary (9): \
             8 of shop (cron\\n) from 10.20.0.5, 1 of postgres from its own socket"
        );
        let many: Vec<_> = (0..8).map(|_| (None, "u", "", 1)).collect();
        assert!(found(&mut world, &many).unwrap().ends_with("and 3 kinds more"));
    }

    #[test]
    fn behind_a_gateway_haproxy_comes_from_where_the_operator_comes_from() {
        let mut world = world();
        world.change("a1", |a1| a1.our_address = "10.21.0.1".parse().ok());
        assert_eq!(found(&mut world, &[(Some("10.21.0.1"), "shop", "web", 90)]), None);
        assert!(found(&mut world, &[(Some("10.21.0.2"), "shop", "web", 90)]).is_some());
    }

    #[test]
    fn what_the_specification_allows_is_not_named() {
        let mut world = world();
        let bypass = |world: &mut World, addresses: &[&str], users: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
            world.seen.migration.spec.traffic.as_mut().unwrap().bypass = Bypass {
                addresses: owned(addresses),
                users: owned(users),
                ..Bypass::default()
            };
        };
        let clients = [(Some("10.20.0.5"), "shop", "", 1), (Some("fd00::5"), "monitor", "", 1)];
        bypass(&mut world, &["10.20.0.0/24", "fd00::/64"], &[]);
        assert_eq!(found(&mut world, &clients), None);
        bypass(&mut world, &["10.20.0.5"], &["monitor"]);
        assert_eq!(found(&mut world, &clients), None);
        bypass(&mut world, &["10.20.0.6"], &["monitor"]);
        assert!(
            found(&mut world, &clients)
                .unwrap()
                .contains("1 of shop from 10.20.0.5")
        );
        world.seen.migration.spec.traffic = None;
        assert_eq!(found(&mut world, &clients), None, "clients are led by somebody else");
    }
}
