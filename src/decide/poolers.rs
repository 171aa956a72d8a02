//! PgBouncer around a switchover: what is to be paused or resumed, and what would go wrong.

use super::{Action, Decision, Told, check::Check, switchover::phase_of};
use crate::{
    address::Address,
    api::{Finding, Pgbouncer, Reason, SwitchoverStatus},
    observe::{Pooler, PoolerPlace, Snapshot},
    pgbouncer::{Database, DatabaseName, Settings},
};

/// Seconds for which an instance that comes back is told to go on; after an hour nobody waits for it any more, and a person may have paused it.
const LEFT: f64 = 3600.0;

/// What an instance of PgBouncer is told to pause or to resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolerOrder {
    /// The instance's name.
    pub name: String,
    /// Address of its console.
    pub address: Address,
    /// The databases.
    pub databases: Vec<DatabaseName>,
}

/// Databases of an instance that the specification speaks of.
fn list_databases<'a>(spec: &'a Pgbouncer, pooler: &'a Pooler) -> impl Iterator<Item = &'a Database> {
    let databases = pooler.sight.iter().flat_map(|instance| &instance.databases);
    databases.filter(|database| {
        spec.databases.is_empty() || spec.databases.iter().any(|name| name == database.name.as_str())
    })
}

fn list_orders(seen: &Snapshot, paused: bool) -> Vec<PoolerOrder> {
    let Some(spec) = seen.migration.spec.pgbouncer() else {
        return Vec::new();
    };
    let orders = seen.traffic.poolers.iter().map(|pooler| PoolerOrder {
        name: pooler.place.name.clone(),
        address: pooler.place.address.clone(),
        databases: list_databases(spec, pooler)
            .filter(|database| database.paused == paused)
            .map(|database| database.name.clone())
            .collect(),
    });
    orders.filter(|order| !order.databases.is_empty()).collect()
}

/// What is still to be paused.
pub fn list_serving(seen: &Snapshot) -> Vec<PoolerOrder> {
    list_orders(seen, false)
}

/// What is still to be resumed.
pub fn list_paused(seen: &Snapshot) -> Vec<PoolerOrder> {
    list_orders(seen, true)
}

/// Names of instances that were not seen to go on.
pub fn list_unresumed(seen: &Snapshot) -> Vec<String> {
    let paused = list_paused(seen).into_iter().map(|order| order.name);
    let unseen = seen.traffic.poolers.iter().filter(|pooler| pooler.sight.is_err());
    paused.chain(unseen.map(|pooler| pooler.place.name.clone())).collect()
}

/// Whether an instance was seen with nothing paused.
#[must_use]
pub fn is_resumed(seen: &Snapshot, name: &str) -> bool {
    let mut poolers = seen.traffic.poolers.iter();
    let was_seen = poolers.any(|pooler| pooler.place.name == name && pooler.sight.is_ok());
    was_seen && !list_paused(seen).iter().any(|order| order.name == name)
}

/// What an ended switchover, or one that has only to follow, left paused because it was away then.
pub fn list_left_paused(seen: &Snapshot, record: &SwitchoverStatus) -> Vec<PoolerOrder> {
    let mut orders = list_paused(seen);
    orders.retain(|order| record.unresumed.contains(&order.name));
    orders
}

/// Lets instances go on that were away when a switchover ended, for as long as that may be what they wait for.
pub fn decide_left_paused(seen: &Snapshot, record: &SwitchoverStatus) -> Option<Decision> {
    let ended = record.steps.last()?.start_time;
    let is_recent = (seen.now - ended).total(jiff::Unit::Second).is_ok_and(|age| age < LEFT);
    let orders = list_left_paused(seen, record);
    let names: Vec<&str> = orders.iter().map(|order| order.name.as_str()).collect();
    let message = format!(
        "PgBouncer {} was away when clients were released, and is told to go on",
        names.join(", ")
    );
    (is_recent && !orders.is_empty()).then(|| Decision::Act {
        actions: vec![Action::ResumePoolers(orders)],
        effect: None,
        told: Told::new(phase_of(record, record.step), Reason::RoutingPending, message),
    })
}

/// An instance that was not seen, with why.
pub fn find_unseen(seen: &Snapshot) -> Option<String> {
    let mut poolers = seen.traffic.poolers.iter();
    poolers.find_map(|pooler| {
        let because = pooler.sight.as_ref().err()?;
        Some(format!("{}: {because}", pooler.place.name))
    })
}

/// An instance whose clients may still have a server, with what is known of it.
pub fn find_busy(seen: &Snapshot) -> Option<String> {
    let spec = seen.migration.spec.pgbouncer()?;
    let busy = seen.traffic.poolers.iter().find_map(|pooler| {
        let database =
            list_databases(spec, pooler).find(|database| !database.paused || database.server_connections > 0)?;
        Some(format!(
            "{}: {} server connections of {} are in use",
            pooler.place.name, database.server_connections, database.name
        ))
    });
    busy.or_else(|| find_unseen(seen))
}

/// One thing that is wrong with PgBouncer.
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What cures it.
    pub remedy: String,
    /// Whether statements would fail, or clients would be left waiting, because of it.
    pub is_obstacle: bool,
}

/// Everything that is wrong with PgBouncer.
pub fn list_problems(seen: &Snapshot) -> Vec<Problem> {
    let Some(spec) = seen.migration.spec.pgbouncer() else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    if seen.traffic.poolers.is_empty() {
        problems.push(Problem {
            message: "no pod of PgBouncer was found".to_owned(),
            remedy: "correct spec.traffic.pgbouncer.selector, or start one".to_owned(),
            is_obstacle: true,
        });
    }
    for pooler in &seen.traffic.poolers {
        let name = &pooler.place.name;
        match &pooler.sight {
            Err(because) => problems.push(Problem {
                message: format!("PgBouncer {name} was not seen: {because}"),
                remedy: "correct spec.traffic.pgbouncer, or start it".to_owned(),
                is_obstacle: true,
            }),
            Ok(instance) => {
                problems.extend(find_in_databases(spec, pooler, instance.settings.as_ref()));
                let settings = instance.settings.iter();
                problems.extend(settings.flat_map(|settings| find_in_settings(seen, &pooler.place, settings)));
            }
        }
    }
    problems
}

fn find_in_databases(spec: &Pgbouncer, pooler: &Pooler, settings: Option<&Settings>) -> Vec<Problem> {
    let name = &pooler.place.name;
    let mut problems = Vec::new();
    for wanted in &spec.databases {
        if !list_databases(spec, pooler).any(|database| database.name.as_str() == wanted) {
            problems.push(Problem {
                message: format!("PgBouncer {name} has no database {}", wanted.escape_debug()),
                remedy: "correct spec.traffic.pgbouncer.databases, or name the database in its [databases]".to_owned(),
                is_obstacle: true,
            });
        }
    }
    for database in list_databases(spec, pooler) {
        let by_default = settings.is_some_and(|settings| settings.pools_sessions);
        if database.pools_sessions.unwrap_or(by_default) {
            problems.push(Problem {
                message: format!(
                    "PgBouncer {name} pools sessions of {}: a pause would wait until its clients leave",
                    database.name
                ),
                remedy: "set its pool_mode to transaction, or leave it out of spec.traffic.pgbouncer.databases"
                    .to_owned(),
                is_obstacle: true,
            });
        }
        if database.keeps_servers {
            problems.push(Problem {
                message: format!(
                    "PgBouncer {name} keeps servers of {} (min_pool_size): it would log in while it is paused, which fails, and turn \
                     clients away for server_login_retry",
                    database.name
                ),
                remedy: "run `SET min_pool_size = 0` on its console for the time of the switch, or take min_pool_size out of its \
                         configuration and `RELOAD`"
                    .to_owned(),
                is_obstacle: true,
            });
        }
        if database.paused {
            problems.push(Problem {
                message: format!("PgBouncer {name} has {} paused, and its clients wait", database.name),
                remedy: format!(
                    "run `RESUME {}` on its console, unless it is paused on purpose",
                    database.name.quoted()
                ),
                is_obstacle: true,
            });
        }
    }
    problems
}

fn find_in_settings(seen: &Snapshot, place: &PoolerPlace, settings: &Settings) -> Vec<Problem> {
    let name = &place.name;
    let mut problems = Vec::new();
    if settings.shares_port {
        problems.push(Problem {
            message: format!(
                "PgBouncer {name} has so_reuseport set: behind its port there may be processes that are not seen"
            ),
            remedy: "give each process a port of its own and name them all in spec.traffic.pgbouncer.hosts".to_owned(),
            is_obstacle: true,
        });
    }
    let budget = std::time::Duration::from(seen.migration.spec.switchover.budget);
    if let Some(wait) = settings.query_wait.filter(|wait| *wait < budget) {
        problems.push(Problem {
            message: format!(
                "PgBouncer {name} lets clients wait for {} s (query_wait_timeout), less than spec.switchover.budget",
                wait.as_secs_f64()
            ),
            remedy: format!("raise query_wait_timeout above {} s", budget.as_secs_f64()),
            is_obstacle: false,
        });
    }
    problems
}

/// What is wrong with PgBouncer, as findings; while a switchover pauses it, its being paused is none.
pub fn find_in_poolers(seen: &Snapshot) -> Vec<Finding> {
    let status = seen.migration.status.as_ref();
    let record = status.and_then(|status| status.switchover.as_ref());
    if record.is_some_and(SwitchoverStatus::is_under_way) {
        return Vec::new();
    }
    let findings = list_problems(seen)
        .into_iter()
        .map(|problem| Check::Pgbouncer.finding(None, problem.message, problem.remedy));
    findings.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::Step, decide::world::World};

    fn told(world: &World) -> Vec<String> {
        find_in_poolers(&world.seen)
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn a_pgbouncer_that_can_be_paused_has_no_finding() {
        let mut world = World::switching(Step::Gate);
        world.pool();
        assert_eq!(told(&world), Vec::<String>::new());
    }

    #[test]
    fn what_would_fail_statements_or_leave_clients_waiting_is_told_with_its_instance() {
        type Break = fn(&mut World);
        let breaks: [(&str, Break); 7] = [
            ("no pod of PgBouncer", |world| world.seen.traffic.poolers.clear()),
            ("pgbouncer-2 was not seen: gone", |world| {
                world.seen.traffic.poolers[1].sight = Err("gone".to_owned());
            }),
            ("pgbouncer-1 pools sessions of app", |world| {
                world.change_pooler(0, |instance| instance.settings.as_mut().unwrap().pools_sessions = true);
            }),
            ("pgbouncer-1 keeps servers of app", |world| {
                world.change_pooler(0, |instance| instance.databases[0].keeps_servers = true);
            }),
            ("pgbouncer-1 has app paused", |world| {
                world.change_pooler(0, |instance| instance.databases[0].paused = true);
            }),
            ("pgbouncer-1 has so_reuseport", |world| {
                world.change_pooler(0, |instance| instance.settings.as_mut().unwrap().shares_port = true);
            }),
            ("wait for 5 s (query_wait_timeout)", |world| {
                let wait = Some(std::time::Duration::from_secs(5));
                world.change_pooler(0, |instance| instance.settings.as_mut().unwrap().query_wait = wait);
            }),
        ];
        for (words, break_it) in breaks {
            let mut world = World::switching(Step::Gate);
            world.pool();
            break_it(&mut world);
            let told = told(&world);
            assert!(told.len() == 1 && told[0].contains(words), "{words}: {told:?}");
        }
    }

    #[test]
    fn a_database_that_nobody_named_is_left_alone() {
        let mut world = World::switching(Step::Gate);
        world.pool();
        let traffic = world.seen.migration.spec.traffic.as_mut().unwrap();
        traffic.pgbouncer.as_mut().unwrap().databases = vec!["other".to_owned()];
        assert_eq!(list_serving(&world.seen), []);
        assert_eq!(told(&world).len(), 2, "neither instance has a database other");
    }
}
