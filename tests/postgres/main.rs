//! The SQL of the operator does on real servers what its names say.

mod acting;
mod inventory;
mod pgbouncer;
mod pooling;
mod rewinding;
mod servers;

use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use mitosis::postgres::{
    Conninfo, Lsn, Manager, MemberName, Session, analyze_all, arm, checkpoint, detach, disarm, drop_slot,
    end_transactions, ensure_slot, fetch_canary, fetch_fork, fetch_server, fetch_server_switching, follow, promote,
    restart_by_sql, shut_down_by_sql, write_canary, write_marker,
};
use servers::Server;

fn name(text: &str) -> MemberName {
    MemberName::try_from(text).unwrap()
}

fn conninfo(upstream: &Server, standby: &str) -> Conninfo {
    let login = Server::login();
    Conninfo {
        upstream: upstream.address(),
        user: login.user,
        password: Some(login.password),
        sslmode: "disable",
        sslrootcert: None,
        standby: name(standby),
    }
}

async fn until<T>(what: &str, mut seen: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = seen().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A primary a1 and a standby b1 that streams from it.
async fn pair() -> (Server, Session, Server, Session) {
    let a1 = Server::primary();
    let on_a1 = a1.session().await;
    let slot = name("b1").slot();
    ensure_slot(&on_a1, &slot).await.unwrap();
    ensure_slot(&on_a1, &slot).await.unwrap();
    let b1 = Server::standby_of(&a1).await;
    let on_b1 = b1.session().await;
    follow(&on_b1, &conninfo(&a1, "b1"), &slot).await.unwrap();
    until("b1 streams", async || {
        fetch_server(&on_b1).await.unwrap().streams_within(3.0).then_some(())
    })
    .await;
    (a1, on_a1, b1, on_b1)
}

async fn replayed(on: &Session, position: Lsn) {
    until("the position is replayed", async || {
        (fetch_server(on).await.unwrap().lsn >= Some(position)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_armed_primary_that_restarts_itself_comes_back_as_a_standby_and_nothing_is_missing_on_the_promoted_one() {
    let (a1, on_a1, b1, on_b1) = pair().await;
    let told = fetch_server(&on_b1).await.unwrap();
    assert_eq!(told.follows_as.as_deref(), Some("mitosis_b1"));
    assert_eq!(told.follows_port, Some(a1.port));
    ensure_slot(&on_b1, &name("a1").slot()).await.unwrap();
    let canary = write_canary(&on_a1, "attempt-1").await.unwrap();
    assert_eq!(
        write_canary(&on_a1, "attempt-1").await.unwrap().bytes_after(canary),
        0,
        "the canary is written once"
    );
    let marker = write_marker(&on_a1, "gate").await.unwrap();
    replayed(&on_b1, marker).await;
    assert!(fetch_canary(&on_b1, "attempt-1").await.unwrap());
    assert!(!fetch_canary(&on_b1, "attempt-2").await.unwrap());

    follow(&on_a1, &conninfo(&b1, "a1"), &name("a1").slot()).await.unwrap();
    arm(&on_a1, "attempt-1").await.unwrap();
    let armed = fetch_server(&on_a1).await.unwrap();
    assert!(
        armed.standby_signal && !armed.in_recovery,
        "an armed primary still serves"
    );
    checkpoint(&on_b1).await.unwrap();
    assert_eq!(
        fetch_server(&on_b1).await.unwrap().replayed_shutdown_checkpoint(),
        None,
        "a running primary proves nothing"
    );

    let running = fetch_server_switching(&on_b1).await.unwrap();
    assert!(running.last_record.is_some() && running.replayed_shutdown_checkpoint().is_none());

    restart_by_sql(&on_a1, &fetch_server_switching(&on_a1).await.unwrap(), None)
        .await
        .unwrap();
    let end = until(
        "the record itself shows that it was the shutdown checkpoint",
        async || {
            fetch_server_switching(&on_b1)
                .await
                .unwrap()
                .replayed_shutdown_checkpoint()
        },
    )
    .await;
    checkpoint(&on_b1).await.unwrap();
    assert_eq!(
        fetch_server(&on_b1).await.unwrap().replayed_shutdown_checkpoint(),
        Some(end),
        "the control file says the same"
    );
    assert!(end > marker);
    promote(&on_b1).await.unwrap();
    let primary = fetch_server(&on_b1).await.unwrap();
    assert!(!primary.in_recovery);
    assert_eq!(primary.timeline, 2);
    assert_eq!(
        fetch_fork(&on_b1, 2).await.unwrap(),
        end,
        "the new timeline forks off where the old primary ended"
    );

    let on_a1 = a1.session().await;
    until("a1 follows on the new timeline without pg_rewind", async || {
        let server = fetch_server(&on_a1).await.unwrap();
        (server.in_recovery && server.streams_within(3.0) && server.timeline == 2).then_some(())
    })
    .await;
    analyze_all(&Server::login(), &b1.address(), &on_b1).await.unwrap();
    drop_slot(&on_a1, &name("b1").slot()).await.unwrap();
    drop_slot(&on_a1, &name("b1").slot()).await.unwrap();
    assert!(!fetch_server(&on_a1).await.unwrap().has_slot("mitosis_b1"));
}

#[tokio::test]
async fn a_primary_that_was_killed_gives_no_proof() {
    let (a1, on_a1, _b1, on_b1) = pair().await;
    let marker = write_marker(&on_a1, "last").await.unwrap();
    replayed(&on_b1, marker).await;
    a1.stop_at_once();
    checkpoint(&on_b1).await.unwrap();
    assert_eq!(fetch_server(&on_b1).await.unwrap().replayed_shutdown_checkpoint(), None);
}

#[tokio::test]
async fn a_primary_that_was_killed_while_armed_comes_back_as_a_standby_and_the_other_one_gets_what_it_alone_had() {
    let (a1, on_a1, b1, on_b1) = pair().await;
    ensure_slot(&on_b1, &name("a1").slot()).await.unwrap();
    // The link stands still: what is written now is on a1 only.
    detach(&on_b1).await.unwrap();
    until("b1 does not stream", async || {
        fetch_server(&on_b1)
            .await
            .unwrap()
            .receiver_status
            .is_none()
            .then_some(())
    })
    .await;
    write_canary(&on_a1, "only-here").await.unwrap();
    follow(&on_a1, &conninfo(&b1, "a1"), &name("a1").slot()).await.unwrap();
    arm(&on_a1, "attempt-1").await.unwrap();
    let had = fetch_server_switching(&on_a1).await.unwrap().lsn.unwrap();
    a1.stop_at_once();
    assert!(
        fetch_server(&on_b1).await.unwrap().lsn < Some(had),
        "b1 lacks what a1 had"
    );
    a1.start_again();
    let on_a1 = a1.session().await;
    assert!(
        fetch_server(&on_a1).await.unwrap().in_recovery,
        "armed, it comes back as a standby"
    );
    follow(&on_b1, &conninfo(&a1, "b1"), &name("b1").slot()).await.unwrap();
    let end = until("both replayed the same", async || {
        let (old, new) = (
            fetch_server_switching(&on_a1).await.unwrap(),
            fetch_server_switching(&on_b1).await.unwrap(),
        );
        (old.streams_within(5.0) && old.lsn == new.lsn && new.lsn >= Some(had)).then_some(new.lsn)
    })
    .await;
    assert!(fetch_canary(&on_b1, "only-here").await.unwrap());
    promote(&on_b1).await.unwrap();
    assert_eq!(fetch_fork(&on_b1, 2).await.ok(), end);
}

#[tokio::test]
async fn long_transactions_are_ended_and_younger_ones_are_not() {
    let a1 = Server::primary();
    let session = a1.session().await;
    let idle = a1.idle_transaction().await;
    until("the transaction is seen", async || {
        (fetch_server(&session).await.unwrap().oldest_idle_transaction > 0.2).then_some(())
    })
    .await;
    assert_eq!(end_transactions(&session, Duration::from_secs(60)).await.unwrap(), 0);
    assert_eq!(end_transactions(&session, Duration::from_millis(100)).await.unwrap(), 1);
    drop(idle);
    until("it is gone", async || {
        (fetch_server(&session).await.unwrap().oldest_idle_transaction < 0.2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_manager_of_high_availability_is_recognised_by_its_sessions() {
    let a1 = Server::primary();
    let session = a1.session().await;
    assert_eq!(fetch_server(&session).await.unwrap().manager, None);
    for (application, manager) in [
        ("Patroni heartbeat", Manager::Patroni),
        ("repmgrd", Manager::Repmgr),
        ("pg_auto_failover_keeper", Manager::PgAutoFailover),
    ] {
        let theirs = a1.session_of(application).await;
        assert_eq!(fetch_server(&session).await.unwrap().manager, Some(manager));
        drop(theirs);
        until("it is gone", async || {
            fetch_server(&session).await.unwrap().manager.is_none().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_order_to_disarm_that_comes_late_leaves_a_server_armed_that_was_armed_anew() {
    let a1 = Server::primary();
    let session = a1.session().await;
    let slot = name("a1").slot();
    follow(&session, &conninfo(&a1, "a1"), &slot).await.unwrap();
    arm(&session, "attempt-2").await.unwrap();
    for late in [Some("attempt-1"), Some(""), None] {
        disarm(&session, late).await.unwrap();
        let server = fetch_server(&session).await.unwrap();
        assert_eq!(server.armed_by.as_deref(), Some("attempt-2"), "after {late:?}");
        assert!(server.follows_as.is_some(), "it would follow nobody, after {late:?}");
    }
}

#[tokio::test]
async fn a_disarmed_primary_stays_a_primary_when_it_restarts() {
    let a1 = Server::primary();
    let session = a1.session().await;
    follow(&session, &conninfo(&a1, "a1"), &name("a1").slot())
        .await
        .unwrap();
    arm(&session, "attempt-1").await.unwrap();
    let armed = fetch_server_switching(&session).await.unwrap();
    assert_eq!(armed.armed_by.as_deref(), Some("attempt-1"));
    disarm(&session, armed.armed_by.as_deref()).await.unwrap();
    disarm(&session, armed.armed_by.as_deref()).await.unwrap();
    let server = fetch_server(&session).await.unwrap();
    assert!(!server.standby_signal);
    assert_eq!(server.follows_as, None);
    restart_by_sql(&session, &fetch_server_switching(&session).await.unwrap(), None)
        .await
        .unwrap();
    assert!(!fetch_server(&a1.session().await).await.unwrap().in_recovery);
}

/// A `pg_ctl` that comes too late the first time: it found the server running, and its signal found none any more.
const LATE_PG_CTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
if [ ! -e was-late ]; then
    : > was-late
    while [ -e "$(cat data)/postmaster.pid" ]; do sleep 0.01; done
    echo "pg_ctl: could not send stop signal: No such process" >&2
    exit 1
fi
exec "$(cat programs)/pg_ctl" "$@"
"#;

#[tokio::test]
async fn a_server_that_stops_before_pg_ctl_signals_it_is_started_again_all_the_same() {
    let a1 = Server::primary();
    let session = a1.session().await;
    let mut server = fetch_server_switching(&session).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put("pg_ctl", LATE_PG_CTL);
    put("programs", &server.programs);
    put("data", &server.data_directory);
    for (path, mode) in [(folder.path().to_owned(), 0o777), (folder.path().join("pg_ctl"), 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    server.programs = folder.path().to_str().unwrap().to_owned();
    restart_by_sql(&session, &server, None).await.unwrap();
    let again = a1.session().await;
    assert!(folder.path().join("was-late").exists());
    assert!(!fetch_server(&again).await.unwrap().in_recovery);
}

#[tokio::test]
async fn a_session_that_does_not_end_keeps_an_armed_primary_from_shutting_down_for_some_seconds_only() {
    let (a1, on_a1, b1, _on_b1) = pair().await;
    let stuck = a1.session_of("app").await;
    let row = stuck.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
    let pid: i32 = row.get(0);
    follow(&on_a1, &conninfo(&b1, "a1"), &name("a1").slot()).await.unwrap();
    arm(&on_a1, "attempt-1").await.unwrap();
    let server = fetch_server_switching(&on_a1).await.unwrap();
    let stopped = std::process::Command::new("kill")
        .args(["-STOP", &pid.to_string()])
        .status();
    assert!(stopped.unwrap().success());
    restart_by_sql(&on_a1, &server, None).await.unwrap();
    let again = a1.session().await;
    assert!(fetch_server(&again).await.unwrap().in_recovery);
}

/// Longer than sessions have to end.
#[tokio::test]
async fn a_command_that_does_not_stop_the_server_costs_no_session() {
    let a1 = Server::primary();
    let (session, client) = (a1.session().await, a1.session_of("app").await);
    let server = fetch_server_switching(&session).await.unwrap();
    let late = restart_by_sql(&session, &server, Some("true")).await;
    assert!(late.is_err(), "the server is still there");
    client.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn the_container_of_a_member_waits_for_another_one_on_its_volume_and_starts_a_server_again_that_was_shut_down() {
    let a1 = Server::primary();
    a1.stop_at_once();
    let mut first = a1.serve("first");
    let session = a1.session().await;
    let mut second = a1.serve("second");
    until("the second waits", async || {
        let told = std::fs::read_to_string(a1.output("second")).unwrap_or_default();
        told.contains("another container still runs").then_some(())
    })
    .await;
    let before = fetch_server_switching(&session).await.unwrap().postmaster;
    shut_down_by_sql(&session, &fetch_server_switching(&session).await.unwrap())
        .await
        .unwrap();
    let again = a1.session().await;
    let after = fetch_server_switching(&again).await.unwrap().postmaster;
    assert_ne!(before, after, "started again by the first");
    assert!(second.try_wait().unwrap().is_none());
    terminate(&first);
    assert!(first.wait().unwrap().success());
    let taken = a1.session().await;
    assert_ne!(fetch_server_switching(&taken).await.unwrap().postmaster, after);
    terminate(&second);
    assert!(second.wait().unwrap().success());
}

fn terminate(process: &std::process::Child) {
    let told = std::process::Command::new("kill")
        .arg(process.id().to_string())
        .status();
    assert!(told.unwrap().success());
}

#[tokio::test]
async fn a_server_that_is_restarted_from_inside_inherits_no_open_files() {
    let a1 = Server::primary();
    let mut open = Vec::new();
    for _ in 0..4 {
        let session = a1.session().await;
        let server = fetch_server_switching(&session).await.unwrap();
        open.push(
            std::fs::read_dir(format!("/proc/{}/fd", server.postmaster))
                .unwrap()
                .count(),
        );
        restart_by_sql(&session, &server, None).await.unwrap();
    }
    // Each restart would add those of the session that ordered it, until no server starts any more.
    assert!(
        open[3] <= open[1],
        "open files of the postmaster after each restart: {open:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_restarted_from_inside_goes_on_with_its_log() {
    let a1 = Server::primary();
    let starts = || {
        let log = std::fs::read_to_string(a1.output("log")).unwrap();
        log.matches("database system is ready to accept connections").count()
    };
    let session = a1.session().await;
    let server = fetch_server_switching(&session).await.unwrap();
    let before = starts();
    restart_by_sql(&session, &server, None).await.unwrap();
    a1.session().await;
    assert_eq!(starts(), before + 1);
}

#[tokio::test]
async fn a_wrong_password_is_a_refusal_and_a_closed_port_is_not() {
    let a1 = Server::primary();
    let mut login = Server::login();
    login.password = "wrong".to_owned();
    let refused = login.connect(&a1.address()).await.err().unwrap();
    assert!(matches!(refused, mitosis::postgres::Error::Refused { .. }), "{refused}");
    assert!(
        refused.to_string().contains("password authentication failed"),
        "{refused}"
    );
    let address = a1.address();
    a1.stop_at_once();
    let gone = Server::login().connect(&address).await.err().unwrap();
    assert!(matches!(gone, mitosis::postgres::Error::Unreachable { .. }), "{gone}");
}
