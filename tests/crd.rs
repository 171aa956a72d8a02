//! The CustomResourceDefinition in crds/ is what the types say, and its rules refuse what they should.

use mitosis::api::{ClusterMigration, DesiredPhase, render_crd};

fn example() -> ClusterMigration {
    serde_saphyr::from_str(include_str!("../examples/clustermigration.yaml"))
        .expect("the example is a ClusterMigration")
}

#[test]
fn the_definition_in_crds_is_the_one_that_the_types_say() {
    let written = include_str!("../crds/clustermigrations.pgmitosis.dev.yaml");
    assert!(
        render_crd().unwrap() == written,
        "crds/ is not what src/api says: run `cargo run --bin mitosis -- crd > crds/clustermigrations.pgmitosis.dev.yaml`"
    );
}

#[test]
fn the_example_passes_every_rule() {
    example().validate_cel().unwrap();
}

#[test]
fn the_phase_cannot_go_back_to_planned() {
    let before = example();
    let mut after = before.clone();
    after.spec.phase = DesiredPhase::Planned;
    let refused = after.validate_cel_update(&before).unwrap_err();
    assert!(
        format!("{refused:?}").contains("cannot go back to Planned"),
        "{refused:?}"
    );
}

#[test]
fn pods_with_an_agent_do_not_become_pods_without_one() {
    let own = |text: &str| {
        let mut migration = example();
        let haproxy = &mut migration.spec.traffic.as_mut().unwrap().haproxy;
        haproxy.managed = None;
        haproxy.own = serde_json::from_str(text).unwrap();
        migration.validate_cel().unwrap();
        migration
    };
    let with_agent = own(r#"{"selector": {"app": "edge"}, "serviceAccountName": "edge"}"#);
    let mounted = own(r#"{"selector": {"app": "edge"}, "mounted": {}}"#);
    let placed =
        own(r#"{"selector": {"app": "edge"}, "mounted": {"configMap": {"name": "edge", "key": "haproxy.cfg"}}}"#);
    placed.validate_cel_update(&mounted).unwrap();
    let refused = mounted.validate_cel_update(&with_agent).unwrap_err();
    assert!(
        format!("{refused:?}").contains("cannot change between pods with an agent and mounted ones"),
        "{refused:?}"
    );
}

#[test]
fn source_members_are_frozen_once_seeding_began_and_free_before() {
    let mut before = example();
    let mut after = before.clone();
    after.spec.source.members[0].host = "10.20.0.99".to_owned();
    after.validate_cel_update(&before).unwrap();
    let began = mitosis::api::ClusterMigrationStatus {
        system_identifier: Some("7".to_owned()),
        ..Default::default()
    };
    before.status = Some(began.clone());
    after.status = Some(began);
    let refused = after.validate_cel_update(&before).unwrap_err();
    assert!(
        format!("{refused:?}").contains("frozen once seeding began"),
        "{refused:?}"
    );
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_remedy() {
    let refused = |change: fn(&mut ClusterMigration), remedy: &str| {
        let mut migration = example();
        change(&mut migration);
        let errors = format!("{:?}", migration.validate_cel().unwrap_err());
        assert!(errors.contains(remedy), "{remedy}: {errors}");
    };
    refused(
        |migration| migration.spec.switchover.budget = std::time::Duration::from_secs(1).into(),
        "write a duration between 2s and 10m",
    );
    refused(
        |migration| migration.spec.traffic.as_mut().unwrap().routes[0].postgres = None,
        "a route has one of postgres",
    );
    refused(
        |migration| migration.spec.traffic.as_mut().unwrap().haproxy.managed = None,
        "HAProxy is either managed, or own",
    );
    for neither_or_both in [
        r#"{"selector": {"app": "edge"}}"#,
        r#"{"selector": {"app": "edge"}, "serviceAccountName": "edge", "mounted": {}}"#,
    ] {
        let mut migration = example();
        let haproxy = &mut migration.spec.traffic.as_mut().unwrap().haproxy;
        haproxy.managed = None;
        haproxy.own = serde_json::from_str(neither_or_both).unwrap();
        let errors = format!("{:?}", migration.validate_cel().unwrap_err());
        assert!(errors.contains("or set mounted for pods without an agent"), "{errors}");
    }
    refused(
        |migration| {
            let nowhere = serde_json::json!({"credentials": {"secretName": "shop-pgbouncer"}});
            migration.spec.traffic.as_mut().unwrap().pgbouncer = serde_json::from_value(nowhere).unwrap();
        },
        "name the instances of PgBouncer by hosts, or their pods by selector",
    );
    refused(
        |migration| migration.spec.source.members[0].name = "A1".to_owned(),
        "a member's name starts with a lower-case letter",
    );
}
