//! What the API server's rules cannot refuse.

use std::{collections::BTreeSet, time::Duration};

use super::{bypass::parse_network, check::Check};
use crate::{
    address::{Address, Host, Port},
    api::{ByteSize, ClusterMigration, ExposureType, OwnForm, Pgbouncer, StopMethod, Traffic},
    haproxy::REPORT_PORT,
    observe::target_members,
    pgbouncer::DatabaseName,
    postgres::{Lsn, MemberName, render_hba},
    resources::{listen_port, render_selector, routing_name},
};

/// The least `maxLag` of a route.
const LEAST_LAG: ByteSize = ByteSize::from_bytes(1 << 20);

/// Refuses what PostgreSQL or HAProxy would choke on.
///
/// # Errors
/// One sentence that says what to change.
pub fn validate(migration: &ClusterMigration) -> Result<(), String> {
    let spec = &migration.spec;
    let mut names = BTreeSet::new();
    for member in &spec.source.members {
        let name =
            MemberName::try_from(member.name.as_str()).map_err(|error| format!("spec.source.members: {error}"))?;
        member
            .host
            .parse::<Host>()
            .map_err(|error| format!("spec.source.members, host of {name}: {error}"))?;
        Port::try_from(member.port).map_err(|error| format!("spec.source.members, port of {name}: {error}"))?;
        names.insert(name);
    }
    for name in target_members(migration) {
        if names.contains(&name) {
            return Err(format!(
                "the target's member {name} would have the name of a source member: rename the ClusterMigration or the source member"
            ));
        }
    }
    if let Some(from) = &spec.source.clone_from
        && !spec.source.members.iter().any(|member| &member.name == from)
    {
        return Err(format!(
            "spec.source.cloneFrom is {from}, which is none of spec.source.members: name one of them"
        ));
    }
    let stop = &spec.source.stop;
    if let Some(pods) = stop.pods.as_ref().filter(|_| stop.method == StopMethod::Kubernetes)
        && let Some(missing) = spec
            .source
            .members
            .iter()
            .find(|member| !pods.contains_key(&member.name))
    {
        return Err(format!(
            "spec.source.stop.pods has no pod for {}: name the pod of every source member",
            missing.name
        ));
    }
    if let Some(on) = &stop.rehearse_on
        && !spec.source.members.iter().any(|member| &member.name == on)
    {
        return Err(format!(
            "spec.source.stop.rehearseOn is {on}, which is none of spec.source.members: name a standby"
        ));
    }
    if stop.method == StopMethod::Manual && stop.rehearse_on.is_some() {
        return Err(
            "spec.source.stop.rehearseOn rehearses what the operator does: remove it, or choose another method"
                .to_owned(),
        );
    }
    if let Some(rewind) = &spec.rollback.rewind {
        if !spec.source.members.iter().any(|member| member.name == rewind.member) {
            return Err(format!(
                "spec.rollback.rewind.member is {}, which is none of spec.source.members: name the one that diverged",
                rewind.member
            ));
        }
        let discard: Result<Lsn, String> = rewind.discard.parse();
        discard.map_err(|error| format!("spec.rollback.rewind.discard: {error}"))?;
    }
    for (member, host) in &spec.target.exposure.hosts {
        let checked = match spec.target.exposure.kind {
            ExposureType::None => host.parse::<Address>().map(|_| ()),
            ExposureType::NodePort | ExposureType::LoadBalancer => host.parse::<Host>().map(|_| ()),
        };
        checked.map_err(|error| format!("spec.target.exposure.hosts, {member}: {error}"))?;
    }
    if let Some(rate) = spec.seeding.max_rate
        && !(32 << 10..=1 << 30).contains(&rate.bytes())
    {
        return Err(format!(
            "spec.seeding.maxRate is {rate}: pg_basebackup takes between 32Ki and 1Gi a second"
        ));
    }
    render_hba(&spec.target.postgresql.hba)?;
    if let Some(pgbouncer) = spec.pgbouncer()
        && Duration::from(pgbouncer.pause_timeout) >= Duration::from(spec.switchover.budget)
    {
        return Err(format!(
            "spec.traffic.pgbouncer.pauseTimeout is {}, and spec.switchover.budget, which runs meanwhile, {}: shorten it",
            pgbouncer.pause_timeout, spec.switchover.budget
        ));
    }
    validate_acknowledged(&spec.acknowledged)?;
    let own = spec
        .traffic
        .as_ref()
        .and_then(|traffic| traffic.haproxy.mounted()?.config_map.as_ref());
    if let Some(own) = own.filter(|own| own.name == routing_name(migration)) {
        return Err(format!(
            "spec.traffic.haproxy.own.mounted.configMap.name is {}, which is the operator's own: leave configMap out and mount that one",
            own.name
        ));
    }
    spec.traffic.as_ref().map_or(Ok(()), validate_traffic)
}

fn validate_acknowledged(ids: &[String]) -> Result<(), String> {
    let is_wrong = |id: &&String| !Check::find(id).is_some_and(Check::can_be_accepted);
    match ids.iter().find(is_wrong) {
        None => Ok(()),
        Some(id) => {
            let accepted = Check::all().filter(|check| check.can_be_accepted());
            let accepted: Vec<&str> = accepted.map(Check::as_str).collect();
            Err(format!(
                "spec.acknowledged: `{}` is no check whose findings can be accepted: name one of {}",
                id.escape_debug(),
                accepted.join(", ")
            ))
        }
    }
}

fn validate_traffic(traffic: &Traffic) -> Result<(), String> {
    for text in &traffic.bypass.addresses {
        parse_network(text).map_err(|error| format!("spec.traffic.bypass.addresses: {error}"))?;
    }
    if let Some(own) = &traffic.haproxy.own {
        render_selector(&own.selector).map_err(|error| format!("spec.traffic.haproxy.own.selector: {error}"))?;
    }
    if let Some(pgbouncer) = &traffic.pgbouncer {
        validate_pgbouncer(pgbouncer).map_err(|error| format!("spec.traffic.pgbouncer.{error}"))?;
    }
    let mut ports = BTreeSet::from([REPORT_PORT]);
    for route in &traffic.routes {
        if !ports.insert(listen_port(&traffic.haproxy, route.port)) {
            return Err(format!(
                "spec.traffic.routes, {}: port {} is taken inside the HAProxy pods (8405 is, and where they are managed 30000 + each port below 1024): choose another",
                route.name, route.port
            ));
        }
        let fixed = route
            .fixed
            .iter()
            .flat_map(|both| both.source.iter().chain(&both.target));
        let poolers = route
            .pooler
            .iter()
            .flat_map(|both| both.source.iter().chain(&both.target));
        if let Some(max_lag) = route.max_lag
            && max_lag < LEAST_LAG
        {
            return Err(format!(
                "spec.traffic.routes, {}: maxLag is {max_lag}, and what is written between two looks is more: write {LEAST_LAG} at least",
                route.name
            ));
        }
        let takes_one = traffic
            .haproxy
            .own
            .as_ref()
            .is_some_and(|own| own.form == OwnForm::Variables);
        let sides = [
            route.fixed.as_ref().map(|both| [&both.source, &both.target]),
            route.pooler.as_ref().map(|both| [&both.source, &both.target]),
        ];
        if takes_one && sides.iter().flatten().flatten().any(|addresses| addresses.len() > 1) {
            return Err(format!(
                "spec.traffic.routes, {}: a variable takes one address: name one for each side, or use haproxy.own.form File",
                route.name
            ));
        }
        for address in fixed.chain(poolers) {
            address
                .parse::<Address>()
                .map_err(|error| format!("spec.traffic.routes, {}: {error}", route.name))?;
        }
    }
    Ok(())
}

fn validate_pgbouncer(pgbouncer: &Pgbouncer) -> Result<(), String> {
    for text in pgbouncer.hosts.iter().flatten() {
        let address: Result<Address, String> = text.parse();
        address.map_err(|error| format!("hosts: {error}"))?;
    }
    for text in &pgbouncer.databases {
        let name: Result<DatabaseName, String> = text.parse();
        name.map_err(|error| format!("databases: {error}"))?;
    }
    if let Some(selector) = &pgbouncer.selector {
        render_selector(selector).map_err(|error| format!("selector: {error}"))?;
    }
    Ok(())
}
