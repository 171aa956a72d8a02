//! A server that diverged becomes the same as the primary again, and stays itself.

use mitosis::{
    address::Address,
    api::RewindStatus,
    decide::Action,
    postgres::{
        Conninfo, Lsn, Session, arm, ensure_slot, fetch_server, fetch_server_switching, follow, promote,
        restart_by_sql, rewind_by_sql,
    },
};

use crate::{
    acting::Place,
    conninfo, name, pair,
    servers::{Server, has_program},
    until,
};

/// A primary b1, and a standby a1 that went on writing after b1 had been promoted.
async fn diverged() -> (Server, Session, Server) {
    let (a1, on_a1, b1, on_b1) = pair().await;
    ensure_slot(&on_b1, &name("a1").slot()).await.unwrap();
    promote(&on_b1).await.unwrap();
    let late = a1.session_of("psql").await;
    late.batch_execute("CREATE TABLE only_here AS SELECT generate_series(1, 1000)")
        .await
        .unwrap();
    late.batch_execute("SELECT pg_create_physical_replication_slot('downstream', true)")
        .await
        .unwrap();
    std::fs::write(a1.output("data/server.key"), "its own").unwrap();
    follow(&on_a1, &conninfo(&b1, "a1"), &name("a1").slot()).await.unwrap();
    arm(&on_a1, "u-1").await.unwrap();
    let server = fetch_server_switching(&on_a1).await.unwrap();
    restart_by_sql(&on_a1, &server, None).await.unwrap();
    drop(on_a1);
    let again = a1.session().await;
    assert!(fetch_server(&again).await.unwrap().in_recovery);
    (a1, again, b1)
}

async fn held(on_a1: &Session) -> Lsn {
    fetch_server(on_a1).await.unwrap().received.unwrap()
}

fn rewind(upstream: Conninfo, discard: Lsn) -> Action {
    let begun = RewindStatus {
        member: upstream.standby.to_string(),
        discard: discard.to_string(),
        attempt: 1,
        timeline: 1,
        start_time: jiff::Timestamp::now(),
        server_started: 0,
        outcome: None,
        message: None,
    };
    Action::Rewind {
        begun: Box::new(begun),
        primary: name("b1"),
        upstream: Box::new(upstream),
    }
}

/// What lies beside the data and in it, that a rewind could leave behind.
fn leftovers(a1: &Server) -> Vec<&'static str> {
    let traces = ["data.mitosis-rewind", "data.mitosis-own", "data.mitosis-password"];
    traces.into_iter().filter(|name| a1.output(name).exists()).collect()
}

#[tokio::test]
async fn a_rewound_standby_follows_the_primary_without_what_it_alone_held_and_keeps_what_is_its_own() {
    let (a1, on_a1, b1) = diverged().await;
    let place = Place::of(&a1, &b1);
    let discard = held(&on_a1).await;
    let refusal = place.rewind(rewind(conninfo(&b1, "a1"), discard)).await;
    if !has_program("pg_rewind") {
        assert!(refusal.unwrap().contains("pg_rewind does not lie beside pg_ctl"));
        assert_eq!(held(&on_a1).await, discard, "it goes on as it was");
        return;
    }
    assert_eq!(refusal, None);
    drop(on_a1);
    let on_a1 = a1.session().await;
    let log = || std::fs::read_to_string(a1.output("data.mitosis-rewind.log")).unwrap_or_default();
    until("a1 follows b1", async || {
        let server = fetch_server(&on_a1).await.unwrap();
        (server.timeline == 2 && server.streams_within(3.0)).then_some(())
    })
    .await;
    let client = a1.session_of("psql").await;
    let row = client
        .query_one("SELECT to_regclass('only_here') IS NULL", &[])
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0), "{}", log());
    assert_eq!(
        std::fs::read_to_string(a1.output("data/server.key")).unwrap(),
        "its own"
    );
    assert!(
        fetch_server(&on_a1).await.unwrap().has_slot("downstream"),
        "its own standbys need their slots"
    );
    assert_eq!(leftovers(&a1), Vec::<&str>::new());
}

#[tokio::test]
async fn what_pg_rewind_refuses_starts_again_as_it_was() {
    let (a1, on_a1, b1) = diverged().await;
    if !has_program("pg_rewind") {
        return;
    }
    let place = Place::of(&a1, &b1);
    let discard = held(&on_a1).await;
    let nowhere = Conninfo {
        upstream: Address::new("127.0.0.1", 1).unwrap(),
        ..conninfo(&b1, "a1")
    };
    assert_eq!(place.rewind(rewind(nowhere, discard)).await, None);
    drop(on_a1);
    let server = fetch_server(&a1.session().await).await.unwrap();
    assert!(server.in_recovery && server.timeline == 1 && server.received == Some(discard));
    let log = std::fs::read_to_string(a1.output("data.mitosis-rewind.log")).unwrap();
    assert!(log.contains("port 1 failed"), "{log}");
    assert_eq!(leftovers(&a1), Vec::<&str>::new());
}

#[tokio::test]
async fn what_could_not_be_given_back_is_not_rewound() {
    let (a1, on_a1, b1) = diverged().await;
    let place = Place::of(&a1, &b1);
    let discard = held(&on_a1).await;
    let refusal = async |upstream, discard| place.rewind(rewind(upstream, discard)).await.unwrap_or_default();
    let to_b1 = || conninfo(&b1, "a1");
    assert_eq!(
        refusal(to_b1(), "0/1".parse().unwrap()).await,
        "it holds something else by now"
    );
    let primary = conninfo(&b1, "b1");
    assert!(refusal(primary, discard).await.starts_with("it is no standby"));
    std::fs::remove_file(a1.output("data/standby.signal")).unwrap();
    assert!(refusal(to_b1(), discard).await.starts_with("it is no standby"));
    assert!(fetch_server(&on_a1).await.unwrap().in_recovery, "it goes on as it was");
}

/// Between the last look and the stop.
#[tokio::test]
async fn a_server_that_would_not_come_back_as_a_standby_is_started_again_as_it_was() {
    let (a1, on_a1, b1) = diverged().await;
    if !has_program("pg_rewind") {
        return;
    }
    let server = fetch_server_switching(&on_a1).await.unwrap();
    a1.session_of("psql")
        .await
        .batch_execute("SELECT pg_promote()")
        .await
        .unwrap();
    rewind_by_sql(&on_a1, &server, &conninfo(&b1, "a1")).await.unwrap();
    drop(on_a1);
    let on_a1 = a1.session().await;
    assert!(!fetch_server(&on_a1).await.unwrap().in_recovery);
    assert_eq!(leftovers(&a1), Vec::<&str>::new());
}

#[tokio::test]
async fn without_the_lease_nothing_is_rewound() {
    let (a1, on_a1, b1) = diverged().await;
    let mut place = Place::of(&a1, &b1);
    let (before, discard) = (fetch_server(&on_a1).await.unwrap().started, held(&on_a1).await);
    place.lose_lease();
    let told = place.effects_of(rewind(conninfo(&b1, "a1"), discard)).await;
    assert!(told.is_err() || !has_program("pg_rewind"), "{told:?}");
    assert_eq!(fetch_server(&on_a1).await.unwrap().started, before);
    assert_eq!(leftovers(&a1), Vec::<&str>::new());
}
