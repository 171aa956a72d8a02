//! Decisions: a world in, one decision out. One test for each transition and each refusal.

use super::{
    Action, Decision, Effect,
    world::{World, server},
};
use crate::{
    agent::ReportState,
    api::{DesiredPhase, Exposure, OnPauseTimeout, Outcome, ProxyPolicy, Reason, Step, StepRecord},
    haproxy::State,
    observe::Lead,
};

fn actions(world: &World) -> Vec<Action> {
    match world.decide().decision {
        Decision::Act { actions, .. } => actions,
        other => panic!("no action but {other:?}"),
    }
}

fn waits(world: &World) -> String {
    match world.decide().decision {
        Decision::Wait { told, .. } => told.message,
        other => panic!("no waiting but {other:?}"),
    }
}

#[test]
fn a_clean_source_passes_preflight_and_planned_makes_nothing() {
    let world = World::new(DesiredPhase::Planned);
    assert!(world.decide().findings.is_empty(), "{:?}", world.decide().findings);
    assert!(waits(&world).contains("preflight passes"));
}

#[test]
fn identity_is_recorded_before_anything_is_made() {
    let world = World::new(DesiredPhase::Replicating);
    let first = actions(&world);
    assert!(
        matches!(first.as_slice(), [Action::BeginSeeding { system_identifier, clone_source }]
            if system_identifier == "7" && clone_source.as_str() == "a2"),
        "{first:?}"
    );
}

#[test]
fn two_primaries_stop_everything() {
    let mut world = World::new(DesiredPhase::Replicating);
    world.set("a3", server(false));
    assert!(world.halts().unwrap().contains("a1 and a3 both accept writes"));
}

#[test]
fn a_primary_of_another_cluster_is_no_rival_but_no_member_either() {
    let mut world = World::new(DesiredPhase::Replicating);
    let mut foreign = server(false);
    foreign.system_identifier = "8".to_owned();
    world.set("a3", foreign);
    assert!(world.halts().unwrap().contains("a3 is not part of the cluster"));
}

#[test]
fn each_thing_that_would_go_wrong_blocks_with_its_remedy() {
    type Break = fn(&mut World);
    let cases: [(Break, &str, &str); 8] = [
        (|world| world.lose("a3"), "a3", "spec.source.members"),
        (
            |world| world.change("a3", |a3| a3.system_identifier = "8".to_owned()),
            "not part of the cluster",
            "remove a3",
        ),
        (
            |world| world.change("a1", |a1| a1.superuser = false),
            "no superuser",
            "name a superuser",
        ),
        (
            |world| world.change("a2", |a2| a2.tablespaces.push("fast".to_owned())),
            "tablespaces",
            "pg_default",
        ),
        (
            |world| world.change("a1", |a1| a1.standby_signal = true),
            "standby.signal",
            "remove",
        ),
        (
            |world| world.change("a1", |a1| a1.database_bytes = 1 << 40),
            "storage.size",
            "at least",
        ),
        (
            |world| world.change("a2", |a2| a2.free_slots = 0),
            "0 free replication slots",
            "max_replication_slots",
        ),
        (
            |world| world.seen.migration.spec.target.exposure = Exposure::default(),
            "would not find shop-1",
            "exposure",
        ),
    ];
    for (break_it, fact, remedy) in cases {
        let mut world = World::new(DesiredPhase::Replicating);
        break_it(&mut world);
        let message = world
            .halts()
            .unwrap_or_else(|| panic!("{fact}: {:?}", world.decide().decision));
        assert!(
            message.contains(fact) && message.contains(remedy),
            "{fact} / {remedy}: {message}"
        );
    }
}

#[test]
fn routes_that_could_not_be_led_are_refused_before_anything_is_made() {
    let refused = |route: serde_json::Value, variables: bool| {
        let mut world = World::new(DesiredPhase::Replicating);
        let traffic = world.seen.migration.spec.traffic.as_mut().unwrap();
        traffic.routes = vec![serde_json::from_value(route).unwrap()];
        if variables {
            let own = serde_json::json!({"own": {"selector": {"app": "edge"}, "serviceAccountName": "edge", "form": "Variables"}});
            traffic.haproxy = serde_json::from_value(own).unwrap();
        }
        world.halts().unwrap_or_default()
    };
    let web =
        serde_json::json!({"name": "web", "port": 80, "static": {"source": ["a:80"], "target": ["b:80", "c:80"]}});
    assert!(refused(web.clone(), true).contains("web: a variable takes one address"));
    assert_eq!(refused(web, false), "");
    let read = |lag: &str| serde_json::json!({"name": "read", "port": 5433, "postgres": "Replicas", "maxLag": lag});
    assert!(refused(read("1Ki"), false).contains("write 1Mi at least"));
    assert_eq!(refused(read("1Mi"), false), "");
}

#[test]
fn a_switch_to_where_haproxy_could_not_lead_is_undone_before_clients_are_held() {
    let mut world = World::switching(Step::Arm);
    world.arm();
    world.seen.objects.cluster_ips.remove("shop-2");
    assert_eq!(world.advances_to(), Some(Step::Restore));
}

#[test]
fn a_host_that_could_reach_into_a_configuration_is_refused() {
    let mut world = World::new(DesiredPhase::Replicating);
    world.seen.migration.spec.source.members[0].host = "10.20.0.11\n  server evil".to_owned();
    assert!(world.halts().unwrap().contains("is no host"));
}

#[test]
fn a_fresh_resource_over_a_target_that_is_primary_already_keeps_it_and_leads_clients_there() {
    let mut world = World::new(DesiredPhase::Switched);
    world.set("a1", server(true));
    world.set("shop-1", server(false));
    let applied = actions(&world);
    let routing = applied
        .iter()
        .find_map(|action| match action {
            Action::Apply(object) if object.name == "shop-routing" => {
                Some(object.body["data"]["haproxy.cfg"].to_string())
            }
            _ => None,
        })
        .expect("the routing is applied");
    assert!(
        routing.contains("10.96.0.9:5432") && !routing.contains("10.20.0.11:5432\\n\\nfrontend fe_read"),
        "{routing}"
    );
}

#[test]
fn a_target_that_somebody_promoted_while_it_replicated_leads_no_client_anywhere() {
    let mut world = World::new(DesiredPhase::Switched);
    world.set("a1", server(true));
    world.set("shop-1", server(false));
    world.status().system_identifier = Some("7".to_owned());
    assert!(world.halts().unwrap().contains("promoted by somebody else"));
}

#[test]
fn whether_there_are_two_primaries_is_not_guessed_while_a_source_member_is_out_of_sight() {
    let mut world = World::new(DesiredPhase::Switched);
    world.lose("a1");
    world.set("shop-1", server(false));
    assert!(waits(&world).contains("whether a1 is primary too is not known"));
}

#[test]
fn hold_waits_for_every_pod_and_then_stops() {
    let mut world = World::switching(Step::Hold);
    assert!(matches!(actions(&world).as_slice(), [Action::Apply(object)] if object.name == "shop-routing"));
    world.route(false, 4, State::Held);
    assert_eq!(world.advances_to(), Some(Step::Stop));
    world.seen.traffic.pods[1].report = None;
    assert!(waits(&world).contains("does not hold"));
}

#[test]
fn hold_goes_on_without_a_pod_that_does_not_answer_only_where_it_may_and_another_one_holds() {
    let mut world = World::switching(Step::Hold);
    world.route(false, 4, State::Held);
    world.seen.traffic.pods[0].report = None;
    assert!(waits(&world).contains("haproxy-1 does not answer"));
    let haproxy = &mut world.seen.migration.spec.traffic.as_mut().unwrap().haproxy;
    haproxy.policy = ProxyPolicy::BestEffort;
    begun(&mut world, Step::Hold);
    assert!(
        waits(&world).contains("haproxy-1 does not answer"),
        "one miss is no silence"
    );
    world.pass(2);
    world.seen.traffic.pods[0].was_asked = false;
    assert!(
        waits(&world).contains("haproxy-1 does not answer"),
        "a new pod was not asked yet"
    );
    world.seen.traffic.pods[0].was_asked = true;
    assert_eq!(world.advances_to(), Some(Step::Stop));
    world.seen.traffic.pods[1].report.as_mut().unwrap().state = ReportState::Failed;
    assert!(waits(&world).contains("haproxy-2"), "one that answers is waited for");
    world.seen.traffic.pods[1].report = None;
    assert!(waits(&world).contains("does not answer"), "nobody holds any client");
}

/// A step begins now.
fn begun(world: &mut World, step: Step) {
    let start_time = world.seen.now;
    world.status().switchover.as_mut().unwrap().steps.push(StepRecord {
        step,
        start_time,
        because: String::new(),
    });
}

/// The names of the instances that are told to go on.
fn resumed(world: &World) -> Vec<String> {
    match world.decide().decision {
        Decision::Act { actions, .. } => match actions.as_slice() {
            [Action::ResumePoolers(orders)] => orders.iter().map(|order| order.name.clone()).collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

#[test]
fn pgbouncer_is_not_kept_waiting_by_a_haproxy_pod_that_lags_while_another_one_leads_to_the_primary() {
    for (step, to_new) in [(Step::Route, true), (Step::Release, false)] {
        let mut world = World::switching(step);
        begun(&mut world, step);
        world.pool();
        world.pause(0);
        world.route(to_new, 5, State::Open);
        world.seen.traffic.pods[0].report = None;
        world.pass(1);
        assert!(resumed(&world).is_empty(), "{step:?}: all pods are waited for at first");
        world.pass(2);
        assert_eq!(resumed(&world), ["pgbouncer-1", "pgbouncer-2"], "{step:?}");
        world.seen.traffic.pods[1].report = None;
        assert!(resumed(&world).is_empty(), "{step:?}: no pod leads anywhere");
    }
}

#[test]
fn a_pgbouncer_that_was_away_when_clients_were_released_goes_on_when_it_is_back_unless_that_is_long_ago() {
    let mut world = World::switching(Step::Release);
    begun(&mut world, Step::Release);
    world.pool();
    world.route(false, 5, State::Open);
    world.seen.traffic.poolers[1].sight = Err("no route to host".to_owned());
    assert!(waits(&world).contains("pgbouncer-2: no route to host"));
    world.pass(11);
    let Decision::Advance(advance) = world.decide().decision else {
        panic!("it waits for ever")
    };
    assert_eq!(
        (advance.to, advance.record.unresumed.as_slice()),
        (Step::Aborted, &["pgbouncer-2".to_owned()][..])
    );

    world.status().switchover = Some(*advance.record);
    world.pool();
    world.pause(0);
    assert_eq!(
        resumed(&world),
        ["pgbouncer-2"],
        "the other one is paused by somebody else"
    );
    world.pass(3601);
    assert!(resumed(&world).is_empty());
}

#[test]
fn what_is_released_comes_after_what_was_held_also_where_somebody_wrote_in_between() {
    let mut world = World::switching(Step::Hold);
    world.route(false, 6, State::Held);
    let Decision::Advance(advance) = world.decide().decision else {
        panic!("clients are held");
    };
    assert_eq!((advance.to, advance.record.generation), (Step::Stop, 6));

    // Agents that know the number with something else in it follow the next one only.
    let mut world = World::switching(Step::Route);
    world.route(true, 5, State::Open);
    let report = world.seen.traffic.pods[1].report.as_mut().unwrap();
    (report.state, report.conflict) = (crate::agent::ReportState::Held, true);
    let [Action::Apply(routing)] = &actions(&world)[..] else {
        panic!("it is written anew");
    };
    assert_eq!(routing.body["data"]["generation"], "7");
}

#[test]
fn pgbouncer_is_paused_before_haproxy_is_told_and_resumed_after_it_leads_to_the_primary() {
    let effect = |world: &World| match world.decide().decision {
        Decision::Act { effect, .. } => effect,
        other => panic!("no effect but {other:?}"),
    };
    let mut world = World::switching(Step::Hold);
    world.pool();
    assert_eq!(effect(&world), Some(Effect::Pause));
    world.pause(1);
    assert!(waits(&world).contains("pgbouncer-1: 1 server connections of app"));
    world.pause(0);
    assert_eq!(effect(&world), Some(Effect::Hold));

    let mut world = World::switching(Step::Route);
    world.pool();
    world.pause(0);
    assert_eq!(effect(&world), Some(Effect::TurnOver));
    world.route(true, 5, State::Open);
    assert_eq!(effect(&world), Some(Effect::Resume));
}

#[test]
fn transactions_that_outlast_the_pause_undo_the_attempt_unless_it_shall_proceed() {
    let mut world = World::switching(Step::Hold);
    begun(&mut world, Step::Hold);
    world.pool();
    world.pause(1);
    world.pass(1);
    assert!(waits(&world).contains("have not ended yet"));
    world.pass(2);
    assert_eq!(world.advances_to(), Some(Step::Restore));
    let traffic = world.seen.migration.spec.traffic.as_mut().unwrap();
    traffic.pgbouncer.as_mut().unwrap().on_timeout = OnPauseTimeout::Proceed;
    assert!(matches!(
        world.decide().decision,
        Decision::Act {
            effect: Some(Effect::Hold),
            ..
        }
    ));
}

#[test]
fn arm_is_done_until_it_is_seen_and_only_then_are_clients_to_be_held() {
    let mut world = World::switching(Step::Arm);
    assert!(
        matches!(actions(&world).as_slice(), [Action::Arm { member, slot, .. }] if member.as_str() == "a1" && slot.as_str() == "mitosis_a1")
    );
    world.arm();
    assert_eq!(world.advances_to(), Some(Step::Hold));
}

/// The file of another attempt, or the empty one of an order that did not fit on a full disk.
#[test]
fn what_this_attempt_did_not_write_arms_nothing() {
    for armed_by in ["u-0", ""] {
        let mut world = World::switching(Step::Arm);
        world.arm();
        world.change("a1", |a1| a1.armed_by = Some(armed_by.to_owned()));
        assert!(
            matches!(actions(&world).as_slice(), [Action::Arm { token, .. }] if token == "u-1"),
            "{armed_by:?}"
        );
        let mut world = World::switching(Step::Stop);
        world.change("a1", |a1| a1.armed_by = Some(armed_by.to_owned()));
        assert_eq!(world.advances_to(), Some(Step::Restore), "{armed_by:?}");
    }
}

#[test]
fn stop_is_over_when_the_old_primary_serves_no_more_and_the_proof_decides_what_that_means() {
    let mut world = World::switching(Step::Stop);
    assert!(matches!(actions(&world).as_slice(), [Action::Stop { member, .. }] if member.as_str() == "a1"));
    world.lose("a1");
    assert_eq!(world.advances_to(), Some(Step::Prove));
}

#[test]
fn without_the_shutdown_checkpoint_or_the_canary_or_after_another_record_nothing_is_promoted() {
    type Break = fn(&mut World);
    let breaks: [(&str, Break); 9] = [
        ("no shutdown checkpoint", |world| {
            world.change("shop-1", |leader| leader.redo = "0/5000000".parse().unwrap());
        }),
        ("a record after it", |world| {
            world.change("shop-1", |leader| leader.lsn = "0/50001A0".parse().ok());
        }),
        ("no canary", |world| world.seen.canary_replayed = false),
        ("before the canary", |world| {
            world.status().switchover.as_mut().unwrap().canary_lsn = Some("0/6000000".to_owned());
        }),
        ("nothing after the canary", |world| {
            world.status().switchover.as_mut().unwrap().canary_lsn = Some("0/5000178".to_owned());
        }),
        ("more on the old primary, which is back as a standby", |world| {
            world.set("a1", server(true));
            world.change("a1", |old| old.lsn = "0/5000180".parse().ok());
        }),
        ("a checkpoint from before it was armed", |world| {
            world.status().switchover.as_mut().unwrap().armed_lsn = Some("0/5000178".to_owned());
        }),
        ("another timeline", |world| {
            world.change("shop-1", |leader| leader.timeline = 2);
        }),
        ("another cluster", |world| {
            world.change("shop-1", |leader| leader.system_identifier = "8".to_owned());
        }),
    ];
    for (what, break_it) in breaks {
        let mut world = World::switching(Step::Prove);
        world.lose("a1");
        world.prove();
        assert_eq!(world.advances_to(), Some(Step::Promote), "whole, it is promoted");
        break_it(&mut world);
        assert_ne!(world.advances_to(), Some(Step::Promote), "{what}");
    }
}

#[test]
fn a_crashed_old_primary_proves_the_end_only_as_a_standby_of_the_same_cluster_that_streams_and_holds_exactly_the_same()
{
    type Break = fn(&mut crate::postgres::Server);
    let breaks: [(&str, Break); 6] = [
        ("no standby.signal", |old| old.standby_signal = false),
        ("no stream", |old| old.receiver_silence = Some(10.0)),
        ("another timeline", |old| old.timeline = 2),
        ("another cluster", |old| old.system_identifier = "8".to_owned()),
        ("more", |old| old.lsn = "0/5000180".parse().ok()),
        ("less", |old| old.lsn = "0/5000170".parse().ok()),
    ];
    for (what, break_it) in breaks {
        let mut world = World::switching(Step::Prove);
        world.seen.canary_replayed = true;
        for name in ["a1", "shop-1"] {
            world.change(name, |server| {
                server.standby_signal = true;
                server.lsn = "0/5000178".parse().ok();
            });
        }
        let Decision::Advance(advance) = world.decide().decision else {
            panic!("the same on both is no proof")
        };
        assert_eq!(advance.to, Step::Promote);
        assert_eq!(advance.record.proof, Some(crate::api::Proof::SameEnd));
        assert_eq!(advance.record.end_of_wal.as_deref(), Some("0/5000178"));
        world.change("a1", break_it);
        assert_ne!(world.advances_to(), Some(Step::Promote), "{what}");
    }
}

#[test]
fn the_last_record_is_given_a_moment_before_a_checkpoint_is_asked_for() {
    let after = |milliseconds: i64| {
        let mut world = World::switching(Step::Prove);
        let began = world.seen.now;
        world
            .status()
            .switchover
            .as_mut()
            .unwrap()
            .steps
            .push(crate::api::StepRecord {
                step: Step::Prove,
                start_time: began,
                because: String::new(),
            });
        world.seen.now = began + jiff::SignedDuration::from_millis(milliseconds);
        turn(&world)
    };
    assert!(after(0).starts_with("waits: the last records"), "{}", after(0));
    assert!(after(300).starts_with("Some(Checkpoint"), "{}", after(300));
}

#[test]
fn an_old_primary_that_serves_again_ends_the_attempt_even_with_a_proof() {
    let mut world = World::switching(Step::Prove);
    world.prove();
    world.set("a1", server(false));
    assert_eq!(world.advances_to(), Some(Step::Restore));
}

#[test]
fn over_budget_every_step_before_promotion_is_undone_and_none_after_it() {
    for step in Step::ALL.into_iter().filter(|step| !step.is_terminal()) {
        let mut world = World::switching(step);
        world.pass(31);
        let undone = world.advances_to() == Some(Step::Restore);
        let before = matches!(step, Step::Arm | Step::Hold | Step::Stop | Step::Prove);
        assert_eq!(undone, before, "{step:?}");
    }
}

#[test]
fn a_deletion_before_promotion_undoes_and_after_it_finishes() {
    let deleted = |step| {
        let mut world = World::switching(step);
        world.seen.migration.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.seen.now));
        world
    };
    assert_eq!(deleted(Step::Arm).advances_to(), Some(Step::Restore));
    let mut after = deleted(Step::Promote);
    after.set("shop-1", server(false));
    assert_eq!(after.advances_to(), Some(Step::Route));
}

#[test]
fn promotion_whose_outcome_is_unknown_is_looked_at_and_never_undone() {
    let mut world = World::switching(Step::Promote);
    assert!(matches!(actions(&world).as_slice(), [Action::Promote { .. }]));
    world.lose("shop-1");
    assert!(waits(&world).contains("whether it was promoted is not known"));
    world.set("shop-1", server(false));
    assert_eq!(world.advances_to(), Some(Step::Route));
}

#[test]
fn clients_are_released_only_when_every_pod_leads_to_the_new_primary() {
    let mut world = World::switching(Step::Route);
    world.route(true, 5, State::Open);
    world.confirm();
    assert_eq!(world.advances_to(), Some(Step::Follow));
    world.seen.traffic.pods[0].report.as_mut().unwrap().generation = Some(3);
    assert!(waits(&world).contains("haproxy-1"));
    world.seen.traffic.pods.clear();
    assert!(waits(&world).contains("no HAProxy pod"));
}

#[test]
fn a_row_on_the_new_primary_shows_that_writes_are_taken_again_and_is_not_waited_for_beyond_the_budget() {
    let mut world = World::switching(Step::Route);
    assert!(
        matches!(actions(&world).as_slice(), [Action::Apply(_)]),
        "not before clients are released"
    );
    world.route(true, 5, State::Open);
    assert!(
        matches!(actions(&world).as_slice(), [Action::ConfirmWrites { on, token }] if on.as_str() == "shop-1" && token == "u-1-after")
    );
    world.pass(31);
    assert_eq!(world.advances_to(), Some(Step::Follow));
}

/// The new primary serves and everybody follows it.
fn followed() -> World {
    let mut world = World::switching(Step::Follow);
    world.route(true, 5, State::Open);
    for name in ["a1", "a2", "a3", "shop-2", "shop-3"] {
        world.change(name, |server| {
            server.timeline = 2;
            server.in_recovery = true;
            server.receiver_status = Some("streaming".to_owned());
        });
    }
    let mut primary = server(false);
    primary.timeline = 2;
    world.set("shop-1", primary);
    world
        .seen
        .objects
        .pod_roles
        .insert("shop-1".to_owned(), Some("primary".to_owned()));
    world.status().switchover.as_mut().unwrap().end_of_wal = Some("0/5000178".to_owned());
    world.seen.fork = "0/5000178".parse().ok();
    world
}

#[test]
fn the_new_primary_is_reached_through_every_haproxy_before_the_switch_is_done_unless_that_takes_too_long() {
    let mut world = followed();
    let now = world.seen.now;
    let steps = &mut world.status().switchover.as_mut().unwrap().steps;
    steps.push(crate::api::StepRecord {
        step: Step::Follow,
        start_time: now,
        because: String::new(),
    });
    let reached = |world: &World| match world.decide().decision {
        Decision::Advance(advance) => advance
            .record
            .certificate
            .map(|certificate| certificate.routes[1].reached),
        _ => None,
    };
    world.status().switchover.as_mut().unwrap().proof = Some(crate::api::Proof::ShutdownCheckpoint);
    assert_eq!(reached(&world), Some(true));
    world.seen.traffic.pods[1].lead = Lead::Elsewhere("it leads to a standby".to_owned());
    assert!(waits(&world).contains("haproxy-2"), "{}", waits(&world));
    world.pass(10);
    assert_eq!(reached(&world), Some(false));
}

#[test]
fn the_gate_stays_closed_while_a_haproxy_does_not_lead_to_the_primary() {
    let mut world = World::switching(Step::Gate);
    world.open_gate();
    world.seen.traffic.pods[0].lead = Lead::Elsewhere("connection refused".to_owned());
    assert!(waits(&world).contains("haproxy-1 does not lead to the primary: connection refused"));
}

#[test]
fn a_fork_that_is_not_where_the_old_primary_ended_raises_an_alarm() {
    let mut world = followed();
    assert_eq!(world.advances_to(), Some(Step::Finish));
    world.seen.fork = "0/5000000".parse().ok();
    assert!(world.halts().unwrap().contains("somebody else wrote or promoted"));
}

#[test]
fn a_switch_ends_when_the_old_slot_is_known_to_be_gone_everywhere_or_a_member_does_not_answer_for_long() {
    let mut world = followed();
    let now = world.seen.now;
    let record = world.status().switchover.as_mut().unwrap();
    record.step = Step::Finish;
    record.analyzed = true;
    record.steps = [Step::Follow, Step::Finish]
        .map(|step| crate::api::StepRecord {
            step,
            start_time: now,
            because: String::new(),
        })
        .into();
    let mut lost = world.clone();
    assert_eq!(world.advances_to(), Some(Step::Done));
    world.change("a2", |a2| {
        a2.slots = vec![crate::postgres::Slot {
            name: "mitosis_shop_1".to_owned(),
            active: false,
            wal_status: None,
            logical: false,
            retained: None,
        }];
    });
    assert!(matches!(actions(&world).as_slice(), [Action::DropSlot { on, .. }] if on.as_str() == "a2"));
    lost.lose("a2");
    assert!(waits(&lost).contains("a2"), "{}", waits(&lost));
    lost.pass(61);
    assert_eq!(lost.advances_to(), Some(Step::Done));
}

#[test]
fn the_resource_is_not_ready_before_its_switch_has_come_to_its_end() {
    let ready = |step: Step| {
        let mut world = followed();
        world.status().switchover.as_mut().unwrap().step = step;
        let status = crate::report::build_status(&world.seen, &world.decide(), &crate::act::Effects::default());
        let found = crate::api::find_condition(&status.conditions, crate::api::ConditionType::Ready);
        found.map(|condition| condition.status.clone())
    };
    assert_eq!(ready(Step::Finish).as_deref(), Some("False"));
    assert_eq!(ready(Step::Done).as_deref(), Some("True"));
}

#[test]
fn an_undone_attempt_makes_the_old_primary_writable_then_releases_clients_then_is_recorded() {
    let mut world = World::switching(Step::Restore);
    world.change("a1", |a1| a1.in_recovery = true);
    assert!(
        matches!(actions(&world).as_slice(), [Action::Reinstate { member, timeline: 1 }] if member.as_str() == "a1")
    );
    world.change("a1", |a1| {
        a1.in_recovery = false;
        a1.standby_signal = true;
    });
    assert!(matches!(actions(&world).as_slice(), [Action::Disarm { .. }]));
    world.change("a1", |a1| a1.standby_signal = false);
    assert_eq!(world.advances_to(), Some(Step::Release));
    world.lose("a1");
    assert!(waits(&world).contains("start the old primary"));

    let mut world = World::switching(Step::Release);
    world.route(false, 5, State::Open);
    assert_eq!(world.advances_to(), Some(Step::Aborted));
}

#[test]
fn the_old_primary_is_not_promoted_again_once_the_leader_is_primary() {
    let mut world = World::switching(Step::Restore);
    world.change("a1", |a1| a1.in_recovery = true);
    world.set("shop-1", server(false));
    assert!(world.halts().unwrap().contains("somebody else promoted"));
}

/// What a turn tells or does, in a few words.
fn turn(world: &World) -> String {
    match world.decide().decision {
        Decision::Act { actions, .. } => format!("{:?}", actions.first()),
        Decision::Advance(advance) => advance.to.as_str().to_owned(),
        Decision::Wait { told, .. } => format!("waits: {}", told.message),
        Decision::Halt { told } => format!("halts: {}", told.message),
    }
}

#[test]
fn a_promotion_depends_on_what_both_sides_are_seen_to_be() {
    type Change = fn(&mut World);
    let alarmed = |world: &mut World| world.status().switchover.as_mut().unwrap().alarm = Some("two".to_owned());
    let both: Change = |world| {
        world.set("a1", server(false));
        world.set("shop-1", server(false));
    };
    let cases: [(&str, Change, &str); 5] = [
        ("both serve", both, "halts: both sides accept writes"),
        (
            "the old one serves",
            |world| world.set("a1", server(false)),
            "halts: somebody else made the old primary writable",
        ),
        ("the old one is a standby", |_| {}, "Some(Promote"),
        ("the old one is not seen", |world| world.lose("a1"), "Some(Promote"),
        (
            "the new one is not seen",
            |world| world.lose("shop-1"),
            "waits: whether it was promoted is not known",
        ),
    ];
    for (what, change, told) in cases {
        let mut world = World::switching(Step::Promote);
        change(&mut world);
        assert!(turn(&world).starts_with(told), "{what}: {}", turn(&world));
    }
    let mut world = World::switching(Step::Promote);
    alarmed(&mut world);
    assert!(turn(&world).starts_with("Some(Promote"), "seen as a standby again");
    world.lose("a1");
    assert!(
        turn(&world).starts_with("waits: the old primary was seen as primary"),
        "{}",
        turn(&world)
    );
}

#[test]
fn an_old_primary_is_put_back_depending_on_what_both_sides_are_seen_to_be() {
    type Change = fn(&mut World);
    let cases: [(&str, Change, &str); 9] = [
        ("a standby", |_| {}, "Some(Reinstate"),
        (
            "and the other side is not seen",
            |world| world.lose("shop-1"),
            "Some(Reinstate",
        ),
        (
            "a standby, the other side serves",
            |world| world.set("shop-1", server(false)),
            "halts: somebody else promoted the other side",
        ),
        (
            "both serve",
            |world| {
                world.set("a1", server(false));
                world.set("shop-1", server(false));
            },
            "halts: both sides accept writes",
        ),
        (
            "it serves, with what would make it a standby",
            |world| {
                world.set("a1", server(false));
                world.change("a1", |a1| {
                    (a1.standby_signal, a1.follows_as) = (true, None);
                });
            },
            "Some(Disarm",
        ),
        (
            "it serves, told to follow",
            |world| {
                world.set("a1", server(false));
                world.change("a1", |a1| {
                    (a1.standby_signal, a1.follows_as) = (false, Some("mitosis_a1".to_owned()));
                });
            },
            "Some(Disarm",
        ),
        (
            "it serves, told to follow by somebody else",
            |world| {
                world.set("a1", server(false));
                world.change("a1", |a1| {
                    (a1.standby_signal, a1.follows_as) = (false, Some("a1".to_owned()));
                });
            },
            "Release",
        ),
        (
            "another member of the other side serves",
            |world| world.set("shop-2", server(false)),
            "halts: somebody else promoted the other side",
        ),
        (
            "a member of another cluster serves",
            |world| {
                world.set("shop-2", server(false));
                world.change("shop-2", |other| other.system_identifier = "8".to_owned());
            },
            "Some(Reinstate",
        ),
    ];
    for (what, change, told) in cases {
        let mut world = World::switching(Step::Restore);
        world.change("a1", |a1| a1.in_recovery = true);
        change(&mut world);
        assert!(turn(&world).starts_with(told), "{what}: {}", turn(&world));
    }
    let mut world = World::switching(Step::Restore);
    world.change("a1", |a1| a1.in_recovery = true);
    world.status().switchover.as_mut().unwrap().alarm = Some("two".to_owned());
    assert!(turn(&world).starts_with("Some(Reinstate"), "seen as a standby again");
    world.lose("shop-1");
    assert!(
        turn(&world).starts_with("waits: the other side was seen as primary"),
        "{}",
        turn(&world)
    );
}

#[test]
fn a_standby_that_lags_just_as_much_as_allowed_keeps_nobody_from_beginning() {
    for (end, closed) in [("0/5100100", false), ("0/5100101", true)] {
        let mut world = World::switching(Step::Gate);
        world.change("a1", |a1| a1.lsn = end.parse().ok());
        let obstacles = waits(&world);
        assert_eq!(obstacles.contains("maxLag"), closed, "{end}: {obstacles}");
    }
}

#[test]
fn the_gate_stays_closed_for_each_thing_that_would_fail_behind_it() {
    type Break = fn(&mut World);
    let breaks: [(&str, Break); 7] = [
        ("was not seen", |world| world.lose("a3")),
        ("prepared transactions", |world| {
            world.change("a1", |a1| a1.prepared_transactions = 1);
        }),
        ("a transaction on a1", |world| {
            world.change("a1", |a1| a1.oldest_transaction = 3600.0);
        }),
        ("not heard of its upstream", |world| {
            world.change("shop-1", |leader| leader.receiver_silence = Some(10.0));
        }),
        ("replay is paused on shop-1", |world| {
            world.change("shop-1", |leader| leader.replay_paused = true);
        }),
        ("max_connections is 50", |world| {
            world.change("shop-1", |leader| {
                leader.settings.insert("max_connections".to_owned(), "50".to_owned());
            });
        }),
        ("bytes behind", |world| {
            world.change("a1", |a1| a1.lsn = "1/0".parse().ok());
        }),
    ];
    for (words, break_it) in breaks {
        let mut world = World::switching(Step::Gate);
        break_it(&mut world);
        let message = waits(&world);
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn a_transaction_just_as_old_as_allowed_keeps_nobody_from_beginning() {
    for (age, closed) in [(10.0, false), (10.1, true)] {
        let mut working = World::switching(Step::Gate);
        working.change("a1", |a1| a1.oldest_transaction = age);
        let mut idle = World::switching(Step::Gate);
        idle.change("a1", |a1| a1.oldest_idle_transaction = age);
        for world in [working, idle] {
            let obstacles = waits(&world);
            assert_eq!(obstacles.contains("longTransactions"), closed, "{age} s: {obstacles}");
        }
    }
}

#[test]
fn an_undone_attempt_is_not_tried_again_before_its_number_is_raised_even_after_another_one() {
    let mut world = switched();
    let begins = |world: &World| {
        let primary = world.seen.member("shop-1").unwrap();
        let pair = super::way_back::find_way_back(&world.seen, primary).unwrap();
        match super::begin_unless_consumed(&world.seen, &pair) {
            Decision::Advance(advance) => format!("{:?} {}", advance.to, advance.record.attempt),
            Decision::Wait { told, .. } => told.message,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(begins(&world), "Gate 1");
    let now = world.seen.now;
    world.status().attempts = [2, 1]
        .map(|attempt| crate::api::Attempt {
            attempt,
            outcome: Outcome::Aborted,
            message: "the budget of 30s was over".to_owned(),
            end_time: now,
        })
        .to_vec();
    assert_eq!(
        begins(&world),
        "attempt 1 was undone: the budget of 30s was over; raise spec.switchover.attempt to try again"
    );
    world.seen.migration.spec.switchover.attempt = 3;
    assert_eq!(begins(&world), "Gate 3");
}

/// A target that was switched to, and the old side follows it.
fn switched() -> World {
    let mut world = World::switching(Step::Done);
    let now = world.seen.now;
    let record = world.status().switchover.as_mut().unwrap();
    record.steps.push(crate::api::StepRecord {
        step: Step::Done,
        start_time: now,
        because: String::new(),
    });
    let mut primary = server(false);
    primary.timeline = 2;
    world.set("shop-1", primary);
    for name in ["a1", "a2", "a3", "shop-2", "shop-3"] {
        world.change(name, |standby| standby.timeline = 2);
    }
    world.arm();
    world.seen.fork = "0/5000178".parse().ok();
    world
}

#[test]
fn the_way_back_is_there_while_the_old_side_follows_and_says_why_when_not() {
    type Break = fn(&mut World);
    use super::way_back::find_way_back;
    let why = |world: &World| {
        let primary = world.seen.member("shop-1").unwrap();
        find_way_back(&world.seen, primary).map(|pair| pair.follower.to_string())
    };
    assert_eq!(why(&switched()).ok().as_deref(), Some("a1"));
    let breaks: [(Reason, Break); 5] = [
        (Reason::OldSideBehind, |world| world.lose("a2")),
        (Reason::OldSideBehind, |world| {
            world.change("a2", |a2| a2.receiver_status = None);
        }),
        (Reason::OldSideBehind, |world| {
            world.change("a1", |a1| a1.follows_host = Some("elsewhere".to_owned()));
        }),
        (Reason::Diverged, |world| {
            world.change("a1", |a1| {
                a1.timeline = 1;
                a1.received = "0/5000200".parse().ok();
            });
        }),
        (Reason::Expired, |world| world.pass(73 * 3600)),
    ];
    for (reason, break_it) in breaks {
        let mut world = switched();
        break_it(&mut world);
        assert_eq!(why(&world).err().map(|(reason, _)| reason), Some(reason));
    }
}

/// The old primary holds WAL that the new one does not have.
fn diverged() -> World {
    let mut world = switched();
    world.change("a1", |a1| {
        a1.timeline = 1;
        a1.standby_signal = true;
        a1.received = "0/5000200".parse().ok();
        a1.settings.insert("wal_log_hints".to_owned(), "on".to_owned());
        a1.settings.insert("full_page_writes".to_owned(), "on".to_owned());
    });
    world
}

#[test]
fn pg_rewind_is_offered_for_a_diverged_server_only_where_it_works() {
    type Change = fn(&mut World);
    let by_hand = "pg_rewind --target-pgdata=/data --source-server='host=10.244.0.1 port=30001";
    let cases: [(Change, &str); 7] = [
        (|world| world.change("a1", |a1| a1.standby_signal = false), by_hand),
        (
            |world| world.change("a1", |a1| a1.timeline = 3),
            "spec.rollback.rewind: {member: a1, discard: 0/5000200}",
        ),
        (|_| {}, "spec.rollback.rewind: {member: a1, discard: 0/5000200}"),
        (
            |world| {
                world.change("a1", |a1| {
                    a1.settings.insert("wal_log_hints".to_owned(), "off".to_owned());
                });
            },
            "clone it anew; pg_rewind cannot mend it",
        ),
        (
            |world| world.change("a1", |a1| a1.supervisor = Some("postgresql@15-main.service".to_owned())),
            by_hand,
        ),
        (
            |world| world.seen.migration.spec.source.stop.restart_command = Some("restart".to_owned()),
            by_hand,
        ),
        (
            |world| world.change("a1", |a1| a1.tablespaces = vec!["/fast".to_owned()]),
            by_hand,
        ),
    ];
    for (change, told) in cases {
        let mut world = diverged();
        change(&mut world);
        let primary = world.seen.member("shop-1").unwrap();
        let (reason, message) = super::way_back::find_way_back(&world.seen, primary).err().unwrap();
        assert_eq!(reason, crate::api::Reason::Diverged);
        assert!(message.contains(told), "{message}");
        world.ask_to_rewind("0/5000200");
        let begins = super::rewind::decide_rewind(&world.seen, world.seen.member("shop-1").unwrap()).is_some();
        assert_eq!(begins, told.starts_with("spec."), "{message}");
    }
}

#[test]
fn a_diverged_server_is_rewound_once_when_a_person_names_what_is_given_up() {
    use crate::api::RewindOutcome;
    let decides = |world: &World| super::rewind::decide_rewind(&world.seen, world.seen.member("shop-1").unwrap());
    let recorded = |world: &World| match decides(world) {
        Some(Decision::Act { actions, .. }) => match actions.into_iter().next() {
            Some(Action::RecordRewind(rewind)) => *rewind,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let mut world = diverged();
    assert!(decides(&world).is_none(), "nobody asked");
    world.ask_to_rewind("0/5000180");
    assert!(decides(&world).is_none(), "it holds something else");
    world.ask_to_rewind("0/5000200");
    let begun = recorded(&world);
    assert_eq!((begun.timeline, begun.outcome), (1, None));
    world.status().rewind = Some(begun);
    assert!(matches!(decides(&world), Some(Decision::Act { actions, .. })
        if matches!(actions.as_slice(), [Action::Rewind { begun, primary, upstream }]
            if begun.discard == "0/5000200" && primary.as_str() == "shop-1" && upstream.standby.as_str() == "a1")));
    let mut refused = world.clone();
    world.lose("a1");
    assert!(matches!(decides(&world), Some(Decision::Wait { .. })));
    // Started again, it first replays from before the fork, and tells the timeline of that.
    let mut back = server(true);
    (back.timeline, back.started, back.receiver_status) = (1, 1, None);
    back.received = "0/5000190".parse().ok();
    world.set("a1", back);
    assert!(matches!(decides(&world), Some(Decision::Wait { .. })));
    let mut back = server(true);
    (back.timeline, back.started) = (2, 1);
    world.set("a1", back);
    let ended = recorded(&world);
    assert_eq!(ended.outcome, Some(RewindOutcome::Rewound));
    world.status().rewind = Some(ended);
    assert!(decides(&world).is_none(), "once");

    refused.change("a1", |a1| a1.started = 1);
    let ended = recorded(&refused);
    assert_eq!(ended.outcome, Some(RewindOutcome::Refused));
    refused.status().rewind = Some(ended);
    assert!(decides(&refused).is_none(), "once");
    let primary = refused.seen.member("shop-1").unwrap();
    let (_, message) = super::way_back::find_way_back(&refused.seen, primary).err().unwrap();
    assert!(message.contains("/data.mitosis-rewind.log says why"), "{message}");
    refused.seen.migration.spec.rollback.rewind.as_mut().unwrap().attempt = 2;
    assert_eq!(recorded(&refused).attempt, 2, "again with another number");
}

#[test]
fn the_end_of_the_way_back_is_announced_before_it_comes() {
    let status = |hours: i64| {
        let mut world = switched();
        world.status().phase = crate::api::Phase::Switched;
        world.pass(hours * 3600);
        crate::report::build_status(&world.seen, &world.decide(), &crate::act::Effects::default())
    };
    let reason = |status: &crate::api::ClusterMigrationStatus| {
        let found = crate::api::find_condition(&status.conditions, crate::api::ConditionType::RollbackAvailable);
        found
            .map(|condition| (condition.status.clone(), condition.reason.clone()))
            .unwrap()
    };
    let (early, late, later, over) = (status(60), status(66), status(67), status(73));
    assert_eq!(reason(&early), ("True".to_owned(), "OldSideFollows".to_owned()));
    assert_eq!(reason(&late), ("True".to_owned(), "EndsSoon".to_owned()));
    assert_eq!(reason(&over), ("False".to_owned(), "Expired".to_owned()));
    let told = |before, after| -> Vec<String> {
        let events = crate::report::describe_change(before, after);
        events
            .into_iter()
            .map(|event| event.reason)
            .filter(|reason| reason.starts_with("Rollback"))
            .collect()
    };
    assert_eq!(told(&early, &late), ["RollbackEndsSoon"]);
    assert_eq!(told(&late, &later), [""; 0], "once");
    assert_eq!(told(&late, &over), ["RollbackExpired"]);
}

#[test]
fn a_routing_that_somebody_changed_is_put_right_and_told_of_for_a_while() {
    let mut world = World::new(DesiredPhase::Replicating);
    world.status().system_identifier = Some("7".to_owned());
    world.route(false, 3, State::Open);
    let written = world.seen.traffic.routing.clone().unwrap();
    let hash = crate::resources::build_routing(&world.seen.migration, &written).hash;
    let key = (crate::resources::Kind::ConfigMap, "shop-routing".to_owned());
    world.seen.objects.applied.insert(key, hash);
    let report = |world: &World| {
        let status = crate::report::build_status(&world.seen, &world.decide(), &crate::act::Effects::default());
        let kind = crate::api::ConditionType::RoutingOwned;
        let owned = crate::api::find_condition(&status.conditions, kind).unwrap().clone();
        (status, owned)
    };
    let (before, owned) = report(&world);
    assert_eq!((owned.status.as_str(), before.routing_drift.is_none()), ("True", true));

    let changed = world.seen.traffic.routing.as_mut().unwrap();
    changed.configuration = changed.configuration.replace("10.20.0.11", "10.20.0.99");
    world.seen.traffic.editor = Some("argocd-controller".to_owned());
    let due = actions(&world);
    assert!(due.iter().any(|action| matches!(action, Action::Apply(object)
        if object.name == "shop-routing" && object.body["data"]["generation"] == "4")));
    let (after, owned) = report(&world);
    assert_eq!(
        (owned.status.as_str(), owned.reason.as_str()),
        ("False", "RoutingDrift")
    );
    assert!(owned.message.contains("ignoreDifferences"), "{}", owned.message);
    assert_eq!(after.routing_drift.as_ref().unwrap().repairs, 1);
    let told = crate::report::describe_change(&before, &after);
    assert!(told.iter().any(|event| event.reason == "RoutingDrift"));

    *world.status() = after.clone();
    world.seen.traffic.routing = Some(written);
    world.pass(599);
    assert_eq!(report(&world).1.status, "False", "still told of");
    assert!(
        crate::report::describe_change(&after, &report(&world).0).is_empty(),
        "once"
    );
    world.pass(2);
    assert_eq!(report(&world).1.status, "True");
}

#[test]
fn a_routing_that_somebody_changes_during_a_switch_is_put_right_beyond_what_the_agents_saw() {
    for (step, state, leader) in [(Step::Hold, State::Held, false), (Step::Route, State::Open, true)] {
        let mut world = World::switching(step);
        world.route(!leader, 99, State::Open);
        let due = actions(&world);
        assert!(
            matches!(due.as_slice(), [Action::Apply(object)]
                if object.body["data"]["generation"] == "100" && object.body["data"]["state"] == state.as_str()),
            "{step:?}: {due:?}"
        );
        world.route(leader, 100, state);
        let next = world.decide().decision;
        let goes_on = match (&next, step) {
            (Decision::Advance(advance), Step::Hold) => advance.to == Step::Stop,
            (Decision::Act { actions, .. }, _) => matches!(actions.as_slice(), [Action::ConfirmWrites { .. }]),
            _ => false,
        };
        assert!(goes_on, "{step:?}: {next:?}");
    }
}

#[test]
fn an_expired_way_back_is_given_up_and_rolled_back_is_refused_then() {
    let mut world = switched();
    world.change("shop-1", |primary| {
        primary.slots =
            serde_json::from_str(r#"[{"name": "mitosis_a1", "active": true, "wal_status": "reserved"}]"#).unwrap();
    });
    world.pass(73 * 3600);
    let given_up = super::way_back::decide_completion(&world.seen, world.seen.member("shop-1").unwrap());
    let Some(Decision::Act { actions, .. }) = given_up else {
        panic!("the way back is kept: {given_up:?}")
    };
    assert!(
        matches!(actions.as_slice(), [Action::Detach { member }, Action::DropSlot { on, .. }]
        if member.as_str() == "a1" && on.as_str() == "shop-1")
    );
}

#[test]
fn a_phase_that_cannot_follow_is_refused_with_what_can() {
    let mut world = World::switching(Step::Aborted);
    world.seen.migration.spec.phase = DesiredPhase::RolledBack;
    let home = super::switchover::home_phase(&world.seen);
    assert_eq!(home, crate::api::Phase::Replicating);
    // The source is primary and nothing was switched: the objects come first, then the refusal.
    let mut switched = switched();
    assert_eq!(
        super::switchover::home_phase(&switched.seen),
        crate::api::Phase::Switched
    );
    switched.status().switchover.as_mut().unwrap().to = crate::api::Side::Source;
    assert_eq!(
        super::switchover::home_phase(&switched.seen),
        crate::api::Phase::RolledBack
    );
}

#[test]
fn a_rehearsal_restarts_a_standby_once_and_tells_how_it_went() {
    use super::rehearsal::decide_rehearsal;
    let mut world = World::new(DesiredPhase::Replicating);
    assert!(decide_rehearsal(&world.seen).is_none());
    world.seen.migration.spec.source.stop.rehearse_on = Some("a3".to_owned());
    let recorded = |world: &World| match decide_rehearsal(&world.seen) {
        Some(Decision::Act { actions, .. }) => match actions.into_iter().next() {
            Some(Action::RecordRehearsal(rehearsal)) => *rehearsal,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let begun = recorded(&world);
    world.status().rehearsal = Some(begun);
    assert!(
        matches!(decide_rehearsal(&world.seen), Some(Decision::Act { actions, .. })
        if matches!(actions.as_slice(), [Action::Rehearse { member, .. }] if member.as_str() == "a3"))
    );
    world.lose("a3");
    assert!(matches!(decide_rehearsal(&world.seen), Some(Decision::Wait { .. })));
    let mut restarted = server(true);
    restarted.started = 7;
    world.set("a3", restarted);
    world.pass(2);
    let ended = recorded(&world);
    assert_eq!(
        (ended.outcome, ended.seconds),
        (Some(crate::api::RehearsalOutcome::Passed), Some(2))
    );
    world.status().rehearsal = Some(ended);
    assert!(decide_rehearsal(&world.seen).is_none());
}

#[test]
fn a_server_under_systemd_is_found_before_the_night() {
    let mut world = World::new(DesiredPhase::Planned);
    world.change("a1", |a1| a1.supervisor = Some("postgresql@15-main.service".to_owned()));
    let findings = world.decide().findings;
    assert!(findings.iter().any(|finding| {
        finding
            .remedy
            .contains("sudo -n systemctl restart postgresql@15-main.service")
    }));
    world.seen.migration.spec.source.stop.restart_command =
        Some("sudo -n systemctl restart postgresql@15-main".to_owned());
    assert!(world.decide().findings.is_empty());
}

#[test]
fn a_person_who_stops_the_old_primary_is_asked_when_it_is_time() {
    let mut world = World::switching(Step::Stop);
    world.seen.migration.spec.source.stop.method = crate::api::StopMethod::Manual;
    assert!(waits(&world).contains("stop a1 cleanly now"));
}

#[test]
fn suspended_means_nothing_new_but_a_running_switchover_goes_on() {
    let mut world = World::new(DesiredPhase::Replicating);
    world.seen.migration.spec.suspend = true;
    assert!(matches!(world.decide().decision, Decision::Wait { told, .. } if told.reason == Reason::Suspended));
    let mut world = World::switching(Step::Stop);
    world.seen.migration.spec.suspend = true;
    world.lose("a1");
    assert_eq!(world.advances_to(), Some(Step::Prove));
}

#[test]
fn decide_names_no_client_no_runtime_and_no_clock() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/decide");
    let files = [folder.to_owned(), format!("{folder}/switchover")];
    let files = files.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    for path in files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["tokio", "kube::Client", "SystemTime", "Timestamp::now", "Instant::now"] {
            let named = path.file_name().is_some_and(|name| name != "tests.rs") && text.contains(word);
            assert!(!named, "{} names {word}", path.display());
        }
    }
}

fn refreshed(actions: &[Action]) -> Vec<&str> {
    let pods = actions.iter().filter_map(|action| match action {
        Action::Refresh { pods } => Some(pods),
        _ => None,
    });
    pods.flatten().map(String::as_str).collect()
}

fn placed(actions: &[Action]) -> Option<&super::Placement> {
    actions.iter().find_map(|action| match action {
        Action::Place(placement) => Some(&**placement),
        _ => None,
    })
}

#[test]
fn without_an_agent_nobody_is_held_and_the_routing_is_placed_and_the_kubelet_asked_until_each_pod_runs_it() {
    let mut world = World::switching(Step::Hold);
    world.mount();
    assert_eq!(world.advances_to(), Some(Step::Stop), "there is nobody who could hold");

    let mut world = World::switching(Step::Route);
    world.mount();
    world.route(false, 3, State::Open);
    let due = actions(&world);
    let [Action::Apply(routing), Action::Place(_), Action::Refresh { .. }] = &due[..] else {
        panic!("{due:?}");
    };
    let text = &placed(&due).unwrap().text;
    let written = routing.body["data"]["haproxy.cfg"].as_str().unwrap();
    assert_eq!(
        *text,
        format!("global\n# BEGIN mitosis shop\n{written}# END mitosis shop\n")
    );
    assert_eq!(refreshed(&due), ["haproxy-1", "haproxy-2"]);

    // Written and asked, but the kubelet had looked just before.
    let turned = World::clone(&world);
    world.route(true, 5, State::Open);
    world.place_routing();
    let now = world.seen.now;
    for pod in &mut world.seen.traffic.pods {
        pod.refreshed = Some(now);
    }
    world.seen.traffic.pods[1].report = turned.seen.traffic.pods[1].report.clone();
    assert!(waits(&world).contains("haproxy-2 answers with generation 3"));
    world.pass(1);
    assert_eq!(refreshed(&actions(&world)), ["haproxy-2"]);
    assert!(placed(&actions(&world)).is_none());
}

#[test]
fn an_attempt_that_is_undone_without_an_agent_leaves_the_routing_as_it_was() {
    let mut world = World::switching(Step::Release);
    world.mount();
    world.route(false, 3, State::Open);
    world.place_routing();
    assert_eq!(world.advances_to(), Some(Step::Aborted));
}

#[test]
fn an_attempt_is_undone_to_its_end_also_where_the_users_configmap_has_no_place_any_more() {
    let mut world = World::switching(Step::Release);
    world.mount();
    world.seen.traffic.placed = crate::observe::Placed::Missing;
    assert_eq!(world.advances_to(), Some(Step::Aborted));
}

#[test]
fn pgbouncer_waits_for_every_pod_without_an_agent_since_a_late_one_leads_to_the_old_side() {
    let mut world = World::switching(Step::Route);
    begun(&mut world, Step::Route);
    world.mount();
    world.pool();
    world.pause(0);
    world.route(true, 5, State::Open);
    world.place_routing();
    let now = world.seen.now;
    for pod in &mut world.seen.traffic.pods {
        pod.refreshed = Some(now + jiff::SignedDuration::from_secs(9));
    }
    world.seen.traffic.pods[1].report.as_mut().unwrap().wanted = 3;
    world.pass(9);
    assert!(
        waits(&world).contains("haproxy-2"),
        "a minute is not too long for a kubelet"
    );
    world.pass(2);
    let told = match world.decide().decision {
        Decision::Act { actions, told, .. } if !refreshed(&actions).is_empty() => told,
        other => panic!("{other:?}"),
    };
    assert_eq!(told.reason, Reason::Switching);
    world.seen.traffic.pods[1].refreshed = Some(world.seen.now);
    match world.decide().decision {
        // Status is written for it: nobody is told otherwise why clients do not come back.
        Decision::Wait { told, .. } => assert_eq!(told.reason, Reason::NeedsAttention),
        other => panic!("{other:?}"),
    }
}

#[test]
fn while_the_gate_waits_the_routing_is_placed_and_put_right_all_the_same() {
    let mut world = World::switching(Step::Gate);
    world.mount();
    world.route(false, 3, State::Open);
    world.change("a1", |a1| a1.prepared_transactions = 1);
    world.place("    maxconn 1\n");
    let due = actions(&world);
    assert_eq!(placed(&due).unwrap().generation, 4);
    world.place_routing();
    assert!(waits(&world).contains("prepared"), "{}", waits(&world));
}

#[test]
fn a_switch_does_not_begin_its_stop_where_the_users_configmap_has_no_place_for_the_routing() {
    let mut world = World::switching(Step::Arm);
    world.set("a1", server(false));
    world.arm();
    world.mount();
    assert_eq!(world.advances_to(), Some(Step::Hold));
    world.seen.traffic.placed = crate::observe::Placed::Missing;
    assert_eq!(world.advances_to(), Some(Step::Restore));
}

#[test]
fn a_block_that_somebody_changed_is_put_right_and_told_of() {
    let mut world = World::new(DesiredPhase::Replicating);
    world.status().system_identifier = Some("7".to_owned());
    world.mount();
    world.route(false, 3, State::Open);
    world.place_routing();
    let written = world.seen.traffic.routing.clone().unwrap();
    let hash = crate::resources::build_routing(&world.seen.migration, &written).hash;
    let key = (crate::resources::Kind::ConfigMap, "shop-routing".to_owned());
    world.seen.objects.applied.insert(key, hash);
    assert_eq!(super::find_drift(&world.seen), None);
    world.place("    maxconn 1\n");
    let due = actions(&world);
    assert_eq!(placed(&due).unwrap().resource_version, "12");
    // By a number that no HAProxy runs: the present one may stand for what somebody wrote.
    assert_eq!(placed(&due).unwrap().generation, 4);
    let drift = super::find_drift(&world.seen).unwrap();
    assert_eq!((drift.by, drift.config_map), ("somebody", Some("edge")));
    let status = crate::report::build_status(&world.seen, &world.decide(), &crate::act::Effects::default());
    let kind = crate::api::ConditionType::RoutingOwned;
    let owned = crate::api::find_condition(&status.conditions, kind).unwrap();
    assert!(owned.message.contains("in ConfigMap edge"), "{}", owned.message);
}

#[test]
fn each_quarter_of_the_clones_is_told_once() {
    let at = |done: u64| crate::api::ClusterMigrationStatus {
        seeding: vec![crate::api::SeedingStatus {
            member: "shop-1".to_owned(),
            from: "a2".to_owned(),
            bytes_done: done,
            bytes_total: 100,
            complete: false,
            bytes_per_second: Some(3 << 20),
            remaining_seconds: None,
            sample: None,
            last_failure: None,
        }],
        ..Default::default()
    };
    let told = |before: u64, after: u64| -> Vec<String> {
        let events = crate::report::describe_change(&at(before), &at(after));
        events.into_iter().filter_map(|event| event.note).collect()
    };
    assert_eq!(told(10, 24), [""; 0]);
    assert_eq!(told(24, 30), ["25 % of the clones; shop-1 from a2 at 3 MiB/s"]);
    assert_eq!(told(30, 49), [""; 0]);
    assert!(told(30, 80)[0].starts_with("75 %"));
}
