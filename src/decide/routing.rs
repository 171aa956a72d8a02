//! Where HAProxy shall lead.

use std::collections::BTreeSet;

use super::{
    Action,
    members::plan_apply,
    mounted::{find_drift_in_place, plan_mounted, plan_mounted_at_once},
    readers::{list_left_out, list_standbys},
};
use crate::{
    address::{Address, Port},
    agent::{Desired, Report},
    api::{Haproxy, OwnForm, PostgresRole, ProxyPolicy, Side},
    haproxy::{Configuration, Form, Route, RouteKind, RouteName, State},
    observe::{Lead, Member, ProxyPod, Snapshot},
    resources::{Kind, build_haproxy, build_routing, listen_port, routing_name},
};

/// The configuration in which every route leads to the side of `primary`.
///
/// # Errors
/// An address that is not known yet, as a sentence.
pub fn plan_configuration(
    seen: &Snapshot,
    primary: &Member,
    generation: u64,
    state: State,
) -> Result<Configuration, String> {
    let Some(traffic) = &seen.migration.spec.traffic else {
        return Err("spec.traffic is not set".to_owned());
    };
    let routes = traffic
        .routes
        .iter()
        .map(|route| {
            let mut left_out = BTreeSet::new();
            let drain = route.fixed.as_ref().map(|fixed| fixed.drain.into()).unwrap_or_default();
            let (kind, to) = match (&route.postgres, &route.pooler, &route.fixed) {
                (Some(PostgresRole::Primary), ..) => (RouteKind::Primary, vec![proxied(seen, primary)?]),
                (Some(PostgresRole::Replicas), ..) => {
                    left_out = list_left_out(seen, primary, route)?;
                    (RouteKind::Replicas, replicas(seen, primary)?)
                }
                (None, Some(pooler), _) => (RouteKind::Pooler, addresses(pooler.of(primary.side))?),
                (None, None, Some(fixed)) => (RouteKind::Static, addresses(fixed.of(primary.side))?),
                (None, None, None) => return Err(format!("route {} leads nowhere", route.name)),
            };
            Ok(Route {
                name: RouteName::try_from(route.name.as_str())?,
                listen: Port::try_from(listen_port(&traffic.haproxy, route.port))?,
                kind,
                to,
                left_out,
                drain,
            })
        })
        .collect::<Result<_, String>>()?;
    Configuration::new(form_of(&traffic.haproxy), generation, state, routes)
}

fn form_of(haproxy: &Haproxy) -> Form {
    match haproxy.own.as_ref().map(|own| (own.form, &own.mounted)) {
        None => Form::Whole,
        Some((OwnForm::File, None)) => Form::Included,
        Some((OwnForm::File, Some(_))) => Form::Mounted,
        Some((OwnForm::Variables, None)) => Form::Variables,
        Some((OwnForm::Variables, Some(_))) => Form::MountedVariables,
    }
}

/// The address that HAProxy connects to: a member of the target by the ClusterIP of its Service, which needs no DNS at a reload.
pub fn proxied(seen: &Snapshot, member: &Member) -> Result<Address, String> {
    match member.side {
        Side::Source => Ok(member.address.clone()),
        Side::Target => {
            let ip = seen
                .objects
                .cluster_ips
                .get(member.name.as_str())
                .ok_or_else(|| format!("the Service of {} has no ClusterIP yet", member.name))?;
            Address::new(ip, 5432)
        }
    }
}

/// Standbys of the primary's side, and last the primary itself. HAProxy checks which of them answer.
fn replicas(seen: &Snapshot, primary: &Member) -> Result<Vec<Address>, String> {
    list_standbys(seen, primary)
        .chain([primary])
        .map(|member| proxied(seen, member))
        .collect()
}

fn addresses(texts: &[String]) -> Result<Vec<Address>, String> {
    texts.iter().map(|text| text.parse()).collect()
}

/// What leads clients to `primary` while no switchover runs: the routing first, then the HAProxy that reads it.
///
/// # Errors
/// An address that is not known yet, as a sentence.
pub fn plan_steady(seen: &Snapshot, primary: &Member, agent_image: &str) -> Result<Vec<Action>, String> {
    let Some(traffic) = &seen.migration.spec.traffic else {
        return Ok(Vec::new());
    };
    let routing = plan_open(seen, primary)?;
    let mut wanted = vec![build_routing(&seen.migration, &routing)];
    wanted.extend(build_haproxy(&seen.migration, traffic, agent_image));
    let mut actions = plan_apply(seen, wanted);
    actions.extend(plan_mounted(seen, &routing)?);
    Ok(actions)
}

/// The routing in which clients are led to `primary`: the present one where it does that.
fn plan_open(seen: &Snapshot, primary: &Member) -> Result<Desired, String> {
    let highest = find_highest(seen);
    let same = Desired::from(&plan_configuration(seen, primary, highest, State::Open)?);
    if seen.traffic.routing.as_ref() == Some(&same) && find_drift_in_place(seen).is_none() {
        return Ok(same);
    }
    Ok(Desired::from(&plan_configuration(
        seen,
        primary,
        highest + 1,
        State::Open,
    )?))
}

/// What tells HAProxy which standbys may serve readers now, where that is all that it has to be told, and what brings it to pods without an
/// agent; for as long as nothing else of it is planned.
pub fn plan_readers(seen: &Snapshot, primary: &Member) -> Vec<Action> {
    let Some(routing) = &seen.traffic.routing else {
        return Vec::new();
    };
    let running = Configuration::parse(&routing.configuration);
    let (Ok(running), Ok(wanted)) = (running, plan_open(seen, primary)) else {
        return Vec::new();
    };
    if !Configuration::parse(&wanted.configuration).is_ok_and(|to| to.leads_as(&running)) {
        return Vec::new();
    }
    let mut actions = Vec::new();
    if *routing != wanted {
        actions.push(Action::Apply(Box::new(build_routing(&seen.migration, &wanted))));
    }
    // Where there is no place for it, the gate tells so.
    actions.extend(plan_mounted(seen, &wanted).unwrap_or_default());
    actions
}

/// A change of the routing after the operator had written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift<'a> {
    /// Who made it.
    pub by: &'a str,
    /// The ConfigMap of the user's, where the change was made there.
    pub config_map: Option<&'a str>,
}

/// Who changed the routing after the operator had written it, while no switchover runs; nothing when nobody did.
#[must_use]
pub fn find_drift(seen: &Snapshot) -> Option<Drift<'_>> {
    let key = (Kind::ConfigMap, routing_name(&seen.migration));
    let written = seen.objects.applied.get(&key)?;
    let routing = seen.traffic.routing.as_ref();
    let found = routing.map(|routing| build_routing(&seen.migration, routing).hash);
    if found.as_ref() != Some(written) {
        return Some(Drift {
            by: seen.traffic.editor.as_deref().unwrap_or("somebody"),
            config_map: None,
        });
    }
    find_drift_in_place(seen)
}

/// Whether one of these actions puts the routing right.
#[must_use]
pub fn writes_routing(seen: &Snapshot, actions: &[Action]) -> bool {
    let name = routing_name(&seen.migration);
    actions.iter().any(|action| match action {
        Action::Apply(object) => object.kind == Kind::ConfigMap && object.name == name,
        Action::Place(_) => true,
        _ => false,
    })
}

/// The generation of a running switchover's routing, and what applies it where the cluster has another. It is `first`, unless somebody wrote a
/// later one meanwhile, from which the agents never go back.
///
/// # Errors
/// An address that is not known yet, as a sentence.
pub fn plan_switch(seen: &Snapshot, primary: &Member, first: u64, state: State) -> Result<(u64, Vec<Action>), String> {
    let highest = find_highest(seen);
    if let Some(routing) = seen
        .traffic
        .routing
        .as_ref()
        .filter(|routing| routing.generation >= first)
        && routing.generation == highest
        && find_drift_in_place(seen).is_none()
        && *routing == Desired::from(&plan_configuration(seen, primary, highest, state)?)
    {
        return Ok((highest, plan_mounted_at_once(seen, routing)?));
    }
    let generation = first.max(highest + 1);
    let routing = Desired::from(&plan_configuration(seen, primary, generation, state)?);
    let mut actions = vec![Action::Apply(Box::new(build_routing(&seen.migration, &routing)))];
    actions.extend(plan_mounted_at_once(seen, &routing)?);
    Ok((generation, actions))
}

/// The highest generation that is known: what an agent has seen it never goes back from, and never takes for anything else.
fn find_highest(seen: &Snapshot) -> u64 {
    let reports = seen.traffic.pods.iter().filter_map(|pod| pod.report.as_ref());
    let taken = reports.map(|report| report.wanted + u64::from(report.conflict));
    let written = seen.traffic.routing.iter().map(|routing| routing.generation);
    taken.chain(written).max().unwrap_or(0)
}

/// Whether there is a route that a hold concerns, and an agent that holds it.
pub fn has_held_routes(seen: &Snapshot) -> bool {
    let traffic = seen.migration.spec.traffic.iter();
    traffic
        .filter(|traffic| traffic.haproxy.mounted().is_none())
        .flat_map(|traffic| &traffic.routes)
        .any(|route| route.postgres.is_some() || route.pooler.is_some())
}

fn is_at(report: &Report, generation: u64, state: State) -> bool {
    match state {
        State::Open => report.is_running(generation),
        State::Held => report.is_holding(generation),
    }
}

/// A HAProxy pod through which the primary was not reached, where a route leads to it.
pub fn find_unproven(seen: &Snapshot) -> Option<&str> {
    let mut routes = seen.migration.spec.traffic.iter().flat_map(|traffic| &traffic.routes);
    routes.find(|route| route.postgres == Some(PostgresRole::Primary) || route.pooler.is_some())?;
    let is_open = |pod: &&ProxyPod| matches!(pod.lead, Lead::Unknown | Lead::Elsewhere(_));
    let mut pods = seen.traffic.pods.iter();
    pods.find(is_open).map(|pod| pod.name.as_str())
}

/// Whether a HAProxy pod runs a generation from this one on.
pub fn is_led_by_one(seen: &Snapshot, generation: u64) -> bool {
    let mut reports = seen.traffic.pods.iter().filter_map(|pod| pod.report.as_ref());
    reports.any(|report| report.wanted >= generation && report.is_running(report.wanted))
}

/// A HAProxy pod that does not (yet) answer as wanted.
pub struct Laggard {
    /// Its name, and what it does instead.
    pub message: String,
    /// Whether it was asked and did not answer at all.
    is_silent: bool,
}

/// Those that are waited for: where the specification goes on without pods that do not answer, as long as another one does, they are not.
pub fn without_silent(seen: &Snapshot, mut laggards: Vec<Laggard>) -> Vec<Laggard> {
    let policy = seen
        .migration
        .spec
        .traffic
        .as_ref()
        .map(|traffic| traffic.haproxy.policy);
    if policy == Some(ProxyPolicy::BestEffort) && seen.traffic.pods.iter().any(|pod| pod.report.is_some()) {
        laggards.retain(|laggard| !laggard.is_silent);
    }
    laggards
}

/// HAProxy pods that do not (yet) answer as wanted, with why.
pub fn find_laggards(seen: &Snapshot, generation: u64, state: State) -> Vec<Laggard> {
    if seen.migration.spec.traffic.is_none() {
        return Vec::new();
    }
    let lags = |message: String| Laggard {
        message,
        is_silent: false,
    };
    let mut laggards: Vec<Laggard> = seen
        .traffic
        .pods
        .iter()
        .filter_map(|pod| match &pod.report {
            Some(report) if is_at(report, generation, state) => match &pod.lead {
                Lead::Elsewhere(instead) => Some(lags(format!("{} does not lead to the primary: {instead}", pod.name))),
                Lead::Unknown | Lead::ToPrimary | Lead::Refused => None,
            },
            Some(report) => Some(lags(match &report.error {
                Some(error) => format!("{}: {error}", pod.name),
                None => format!(
                    "{} answers with generation {}",
                    pod.name,
                    report.generation.unwrap_or(0)
                ),
            })),
            None => Some(Laggard {
                message: format!("{} does not answer", pod.name),
                is_silent: pod.was_asked,
            }),
        })
        .collect();
    if seen.traffic.pods.is_empty() {
        laggards.push(lags("no HAProxy pod is ready".to_owned()));
    }
    laggards
}
