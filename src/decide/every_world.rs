//! Every world that the switchover can come upon, made from what each part of it can look like: one answer each, and never a wrong one.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    Action, Answer, Decision, TABLE,
    world::{World, server},
};
use crate::{
    api::{DesiredPhase, LongTransactions, Marker, Side, Step},
    haproxy::State,
    observe::Placed,
};

/// What one part of the world looks like.
type Look = (&'static str, fn(&mut World));

const OLD: [Look; 6] = [
    ("old unseen", |world| world.lose("a1")),
    ("old serves", |world| world.set("a1", server(false))),
    ("old armed", |world| {
        world.set("a1", server(false));
        world.arm();
    }),
    ("old standby", |world| world.set("a1", server(true))),
    ("old standby that does not replay", |world| {
        world.set("a1", server(true));
        world.change("a1", |a1| a1.replay_paused = true);
    }),
    ("old standby with the same end", |world| {
        world.set("a1", server(true));
        world.change("a1", |a1| a1.lsn = "0/5000178".parse().ok());
    }),
];

const NEW: [Look; 5] = [
    ("new unseen", |world| world.lose("shop-1")),
    ("new standby", |_| {}),
    ("new standby with the same end", |world| {
        world.seen.canary_replayed = true;
        world.change("shop-1", |new| new.lsn = "0/5000178".parse().ok());
    }),
    ("new proven", World::prove),
    ("new serves", |world| {
        let mut primary = server(false);
        primary.timeline = 2;
        primary.slots.clear();
        world.set("shop-1", primary);
        world
            .seen
            .objects
            .pod_roles
            .insert("shop-1".to_owned(), Some("primary".to_owned()));
        world.seen.canary_replayed = true;
        world.seen.fork = "0/5000178".parse().ok();
        world.status().switchover.as_mut().unwrap().end_of_wal = Some("0/5000178".to_owned());
    }),
];

const PROXIES: [Look; 10] = [
    ("untold", |_| {}),
    ("mounted", World::mount),
    ("mounted without a place", |world| {
        world.mount();
        world.seen.traffic.placed = Placed::Missing;
    }),
    ("mounted and turned over", |world| {
        world.mount();
        world.route(true, 5, State::Open);
        world.place_routing();
    }),
    ("no routes", |world| world.seen.migration.spec.traffic = None),
    ("held", |world| world.route(false, 4, State::Held)),
    ("held late", |world| {
        world.route(false, 4, State::Held);
        world.seen.traffic.pods[0].report = None;
    }),
    ("turned over", |world| world.route(true, 5, State::Open)),
    ("turned back", |world| world.route(false, 5, State::Open)),
    ("released late", |world| {
        let to_new = world
            .seen
            .migration
            .status
            .as_ref()
            .unwrap()
            .switchover
            .as_ref()
            .unwrap()
            .step
            == Step::Route;
        world.route(to_new, 5, State::Open);
        world.seen.traffic.pods[0].report = None;
    }),
];

const REST: [Look; 28] = [
    ("nothing else", |_| {}),
    ("deleted", |world| {
        world.seen.migration.metadata.deletion_timestamp = Some(Time(world.seen.now));
    }),
    ("called off", |world| {
        world.seen.migration.spec.phase = DesiredPhase::Replicating;
    }),
    ("over budget", |world| world.pass(31)),
    ("long after", |world| world.pass(3600)),
    ("address outside unknown", |world| {
        for member in &mut world.seen.members {
            member.outside = None;
        }
    }),
    ("no ClusterIP", |world| world.seen.objects.cluster_ips.clear()),
    ("fork elsewhere", |world| world.seen.fork = "0/5000000".parse().ok()),
    ("history unread", |world| world.seen.fork = None),
    ("everybody on the new timeline", |world| {
        for name in ["a1", "a2", "a3", "shop-2", "shop-3"] {
            world.change(name, |server| server.timeline = 2);
        }
    }),
    ("labels due", |world| {
        world
            .seen
            .objects
            .pod_roles
            .insert("shop-2".to_owned(), Some("primary".to_owned()));
    }),
    ("analyzed", |world| {
        world.status().switchover.as_mut().unwrap().analyzed = true;
    }),
    ("writes confirmed", World::confirm),
    ("no canary", |world| world.seen.migration.spec.switchover.canary = false),
    ("a route that leads nowhere", |world| {
        let traffic = world.seen.migration.spec.traffic.as_mut();
        if let Some(route) = traffic.and_then(|traffic| traffic.routes.first_mut()) {
            route.postgres = None;
            route.fixed = Some(crate::api::StaticRoute {
                source: vec!["nowhere".to_owned()],
                target: Vec::new(),
                drain: std::time::Duration::ZERO.into(),
            });
        }
    }),
    ("alarmed before", |world| {
        world.status().switchover.as_mut().unwrap().alarm = Some("two primaries".to_owned());
        proven(world);
    }),
    ("proof on record", proven),
    ("stopped long ago", |world| world.pass(1)),
    ("PgBouncer serves", pooled),
    ("PgBouncer is paused", |world| {
        pooled(world);
        pause(world, 0);
    }),
    ("PgBouncer is paused with transactions", |world| {
        pooled(world);
        pause(world, 1);
    }),
    ("PgBouncer is paused with transactions for long", |world| {
        pooled(world);
        pause(world, 1);
        world.pass(3);
    }),
    ("PgBouncer is away", |world| {
        pooled(world);
        for pooler in &mut world.seen.traffic.poolers {
            pooler.sight = Err("no route to host".to_owned());
        }
    }),
    ("PgBouncer is away, writes confirmed", |world| {
        pooled(world);
        for pooler in &mut world.seen.traffic.poolers {
            pooler.sight = Err("no route to host".to_owned());
        }
        world.confirm();
    }),
    ("PgBouncer is back and paused", |world| {
        pooled(world);
        pause(world, 0);
        world.status().switchover.as_mut().unwrap().unresumed = vec!["pgbouncer-1".to_owned()];
    }),
    ("gate open", World::open_gate),
    ("gate open and prepared", |world| {
        prepare(world);
        world.seen.canary_replayed = true;
    }),
    ("gate open, canary on its way", prepare),
];

/// The proof is on record, as it is from the step Promote on.
fn proven(world: &mut World) {
    let record = world.status().switchover.as_mut().unwrap();
    record.end_of_wal = Some("0/5000178".to_owned());
    record.proof = Some(crate::api::Proof::ShutdownCheckpoint);
}

/// PgBouncer stands before HAProxy, where there are routes.
fn pooled(world: &mut World) {
    if world.seen.migration.spec.traffic.is_some() {
        world.pool();
    }
}

fn pause(world: &mut World, server_connections: u64) {
    if world.seen.migration.spec.traffic.is_some() {
        world.pause(server_connections);
    }
}

/// The gate is open and everything behind it was prepared.
fn prepare(world: &mut World) {
    world.open_gate();
    world.change("shop-1", |new| {
        new.slots =
            serde_json::from_str(r#"[{"name": "mitosis_a1", "active": true, "wal_status": "reserved"}]"#).unwrap();
    });
    let now = world.seen.now;
    world.status().marker = Some(Marker {
        lsn: "0/5000080".to_owned(),
        time: now,
        replayed_time: None,
    });
}

fn worlds() -> impl Iterator<Item = (String, Step, World)> {
    let steps = Step::ALL.into_iter().filter(|step| !step.is_terminal());
    steps.flat_map(|step| {
        let begun = std::rc::Rc::new(World::switching(step));
        OLD.iter().flat_map(move |old| {
            let begun = std::rc::Rc::clone(&begun);
            NEW.iter().flat_map(move |new| {
                let begun = std::rc::Rc::clone(&begun);
                PROXIES.iter().flat_map(move |proxies| {
                    let begun = std::rc::Rc::clone(&begun);
                    REST.iter().map(move |rest| {
                        let mut world = World::clone(&begun);
                        let began = world.seen.now;
                        let record = world.status().switchover.as_mut().unwrap();
                        record.steps.push(crate::api::StepRecord {
                            step,
                            start_time: began,
                            because: String::new(),
                        });
                        for look in [old, new, proxies, rest] {
                            (look.1)(&mut world);
                        }
                        let name = format!("{} {}, {}, {}, {}", step.as_str(), old.0, new.0, proxies.0, rest.0);
                        (name, step, world)
                    })
                })
            })
        })
    })
}

fn serves(world: &World, name: &str) -> bool {
    world
        .seen
        .member(name)
        .and_then(|member| member.server())
        .is_some_and(|server| !server.in_recovery)
}

#[test]
fn every_world_has_one_answer_from_the_table_and_every_row_is_met() {
    let mut met = BTreeSet::new();
    let mut count = 0;
    for (name, step, world) in worlds() {
        count += 1;
        let record = world
            .seen
            .migration
            .status
            .as_ref()
            .unwrap()
            .switchover
            .clone()
            .unwrap();
        let (seen, decision) = super::switchover::look(&world.seen, &record);
        let row = TABLE.iter().find(|row| row.step == step && row.seen == seen);
        let row = row.unwrap_or_else(|| panic!("{name}: {seen:?} has no row"));
        met.insert(format!("{step:?} {seen:?}"));
        match (row.answer, &decision) {
            (Answer::Enter(to), Decision::Advance(advance)) => assert_eq!(to, advance.to, "{name}"),
            (Answer::Do(effect), Decision::Act { effect: Some(done), .. }) => assert_eq!(effect, *done, "{name}"),
            (Answer::Wait, Decision::Wait { .. }) | (Answer::Halt, Decision::Halt { .. }) => {}
            (answer, decision) => panic!("{name}: {answer:?} became {decision:?}"),
        }
    }
    // The gate for long transactions needs a policy of its own.
    let mut world = World::switching(Step::Gate);
    prepare(&mut world);
    world.change("a1", |a1| a1.oldest_transaction = 60.0);
    world.seen.migration.spec.switchover.long_transactions = LongTransactions::Terminate;
    let record = world
        .seen
        .migration
        .status
        .as_ref()
        .unwrap()
        .switchover
        .clone()
        .unwrap();
    let (seen, _) = super::switchover::look(&world.seen, &record);
    met.insert(format!("{:?} {seen:?}", Step::Gate));
    let rows: BTreeSet<String> = TABLE
        .iter()
        .map(|row| format!("{:?} {:?}", row.step, row.seen))
        .collect();
    let unmet: Vec<_> = rows.difference(&met).collect();
    assert!(unmet.is_empty(), "rows that no world meets: {unmet:?}");
    println!("{count} worlds, {} rows", rows.len());
}

#[test]
fn in_no_world_is_a_server_promoted_beside_a_primary_or_before_the_proof_is_recorded() {
    for (name, step, world) in worlds() {
        let Decision::Act { actions, .. } = world.decide().decision else {
            continue;
        };
        for action in actions {
            let (member, only_in) = match action {
                Action::Promote { member, .. } => (member, Step::Promote),
                Action::Reinstate { member, .. } => (member, Step::Restore),
                _ => continue,
            };
            let others = world.seen.members.iter().filter(|other| other.name != member);
            for other in others {
                assert!(
                    !serves(&world, other.name.as_str()),
                    "{name}: {member} beside {}",
                    other.name
                );
            }
            assert_eq!(step, only_in, "{name}");
        }
    }
}

#[test]
fn in_no_world_do_clients_reach_a_side_that_is_not_the_primary() {
    for (name, step, world) in worlds() {
        let Decision::Act { actions, .. } = world.decide().decision else {
            continue;
        };
        for action in &actions {
            if let Action::Place(placement) = action {
                assert!(
                    matches!(step, Step::Gate | Step::Route | Step::Release),
                    "{name}: clients are led in {step:?}"
                );
                let target = placement.text.contains("10.96.0.9:5432");
                assert_eq!(target, step == Step::Route, "{name}");
            }
            let Action::Apply(object) = action else { continue };
            if object.name != "shop-routing" || object.body["data"]["state"] == "held" {
                continue;
            }
            assert!(
                matches!(step, Step::Gate | Step::Route | Step::Release),
                "{name}: clients are released in {step:?}"
            );
            let target = object.body["data"]["haproxy.cfg"]
                .to_string()
                .contains("10.96.0.9:5432");
            assert_eq!(target, step == Step::Route, "{name}");
        }
    }
}

#[test]
fn the_way_back_is_the_same_with_the_sides_exchanged() {
    for (there, back) in [(Side::Target, Side::Source), (Side::Source, Side::Target)] {
        assert_eq!(there.other(), back);
    }
    let mut world = World::switching(Step::Promote);
    let record = world.status().switchover.as_mut().unwrap();
    record.to = Side::Source;
    record.old_primary = "shop-1".to_owned();
    record.new_primary = "a1".to_owned();
    record.end_of_wal = Some("0/5000178".to_owned());
    record.proof = Some(crate::api::Proof::ShutdownCheckpoint);
    world.seen.migration.spec.phase = DesiredPhase::RolledBack;
    let Decision::Act { actions, .. } = world.decide().decision else {
        panic!("nothing is done")
    };
    assert!(matches!(actions.as_slice(), [Action::Promote { member, .. }] if member.as_str() == "a1"));
}
