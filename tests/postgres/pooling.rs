//! A real PgBouncer is paused and resumed by its console, and what it shows is understood.

use std::time::{Duration, Instant};

use mitosis::pgbouncer::{DatabaseName, count_logins, fetch_databases, fetch_settings, resume, wait_for_logins};
use tokio::time::timeout;

use crate::{
    pgbouncer::{Bed, show},
    servers::Server,
};

/// How long a login may take that a pause waits for.
const PATIENCE: Duration = Duration::from_secs(5);
const OTHER: &str = "other \"one\"; x";

/// Tells a PgBouncer to pause databases.
async fn pause(bed: &Bed, databases: &[DatabaseName]) {
    for database in databases {
        let console = bed.console().await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        wait_for_logins(&console, database, deadline).await.unwrap();
        mitosis::pgbouncer::pause(console, database).await.unwrap();
    }
}

fn names(texts: &[&str]) -> Vec<DatabaseName> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn clients_of_a_paused_database_wait_without_an_error_and_go_on_when_it_is_resumed() {
    let server = Server::primary();
    let bed = Bed::start(&server, "");
    let console = bed.console().await;
    // It stays: PgBouncer does not show a database that only `*` provides for long without a client.
    let _other = bed.client(OTHER).await;
    let client = bed.client("app").await;
    client.simple_query("SELECT 1").await.unwrap();
    assert_eq!(show(&console, "app").await.server_connections, 1);

    let began = Instant::now();
    pause(&bed, &names(&["app", OTHER])).await;
    println!("paused after {:?}", began.elapsed());
    let app = show(&console, "app").await;
    assert!(app.paused && app.server_connections == 0, "{app:?}");
    assert!(show(&console, OTHER).await.paused);
    let mut waiting = Box::pin(client.simple_query("SELECT 2"));
    assert!(
        timeout(Duration::from_millis(200), &mut waiting).await.is_err(),
        "it was not paused"
    );
    // Twice, as after a crash in between.
    pause(&bed, &names(&["app"])).await;

    resume(&console, &names(&["app", OTHER])).await.unwrap();
    timeout(Duration::from_secs(5), waiting)
        .await
        .expect("it goes on")
        .unwrap();
    assert!(!show(&console, "app").await.paused && !show(&console, OTHER).await.paused);
}

#[tokio::test]
async fn a_pause_waits_for_a_transaction_and_outlives_the_session_that_ordered_it() {
    let server = Server::primary();
    let bed = Bed::start(&server, "");
    let console = bed.console().await;
    // It stays: PgBouncer does not show a database that only `*` provides for long without a client.
    let _other = bed.client(OTHER).await;
    let client = bed.client("app").await;
    client.batch_execute("BEGIN; SELECT 1").await.unwrap();

    let began = Instant::now();
    pause(&bed, &names(&["app", OTHER])).await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "the order waited for the transaction"
    );
    let app = show(&console, "app").await;
    assert!(app.paused && app.server_connections == 1, "{app:?}");
    assert!(
        show(&console, OTHER).await.paused,
        "one that is busy keeps no other from being paused"
    );

    client
        .batch_execute("COMMIT")
        .await
        .expect("the transaction ends undisturbed");
    let deadline = Instant::now() + Duration::from_secs(5);
    while show(&console, "app").await.server_connections > 0 {
        assert!(Instant::now() < deadline, "its server connection is kept");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(show(&console, "app").await.paused);
    resume(&console, &names(&["app"])).await.unwrap();
    client.simple_query("SELECT 2").await.unwrap();
}

#[tokio::test]
async fn a_pause_waits_for_a_login_to_a_server_and_turns_no_client_away_after_it() {
    let server = Server::primary();
    let bed = Bed::start(&server, "");
    let console = bed.console().await;
    let (first, second) = (bed.client("app").await, bed.client("app").await);
    first.batch_execute("BEGIN").await.unwrap();
    // The next login takes a second.
    let direct = server.session_of("settings").await;
    for statement in ["ALTER SYSTEM SET post_auth_delay = 1", "SELECT pg_reload_conf()"] {
        direct.batch_execute(statement).await.unwrap();
    }
    let asking = tokio::spawn(async move { second.simple_query("SELECT 1").await.map(|_| second) });
    let app = &names(&["app"])[0];
    let deadline = Instant::now() + Duration::from_secs(5);
    while count_logins(&console, app).await.unwrap() == 0 {
        assert!(Instant::now() < deadline, "no login begins");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    pause(&bed, &names(&["app"])).await;
    assert_eq!(count_logins(&console, app).await.unwrap(), 0);
    let second = timeout(PATIENCE, asking).await.expect("it was served before the pause");
    let second = second.unwrap().unwrap();

    first.batch_execute("COMMIT").await.unwrap();
    let app = show(&console, "app").await;
    assert!(app.paused, "{app:?}");

    resume(&console, &names(&["app"])).await.unwrap();
    second.simple_query("SELECT 2").await.expect("it is not turned away");
    bed.client("app").await.simple_query("SELECT 3").await.unwrap();
}

#[tokio::test]
async fn what_is_not_paused_keeps_no_other_from_being_resumed_and_no_name_is_a_command() {
    let server = Server::primary();
    let bed = Bed::start(&server, "");
    let console = bed.console().await;
    // It stays: PgBouncer does not show a database that only `*` provides for long without a client.
    let _other = bed.client(OTHER).await;
    pause(&bed, &names(&["app"])).await;
    assert!(resume(&console, &names(&[OTHER, "app"])).await.is_err());
    assert!(!show(&console, "app").await.paused);
    // Words of a name are no words of a command.
    let name = names(&["app\"; PAUSE \"app"]);
    let _named = bed.client(name[0].as_str()).await;
    pause(&bed, &name).await;
    assert!(!show(&console, "app").await.paused && show(&console, name[0].as_str()).await.paused);
}

#[tokio::test]
async fn settings_that_a_switchover_depends_on_are_read() {
    let server = Server::primary();
    let bed = Bed::start(&server, "so_reuseport = 1\nquery_wait_timeout = 7\n");
    let settings = fetch_settings(&bed.console().await).await.unwrap();
    assert!(settings.shares_port && !settings.pools_sessions);
    assert_eq!(settings.query_wait, Some(Duration::from_secs(7)));

    let bed = Bed::start(&server, "pool_mode = session\nquery_wait_timeout = 0\n");
    let console = bed.console().await;
    let settings = fetch_settings(&console).await.unwrap();
    assert!(!settings.shares_port && settings.pools_sessions);
    assert_eq!(settings.query_wait, None);
    let databases = fetch_databases(&console).await.unwrap();
    assert_eq!(databases.len(), 1, "the console's own is none of them: {databases:?}");
}

#[tokio::test]
async fn a_database_that_keeps_servers_is_told_of_and_turns_no_client_away_once_it_keeps_none() {
    let server = Server::primary();
    let bed = Bed::start(&server, "min_pool_size = 1\n");
    let console = bed.console().await;
    let client = bed.client("app").await;
    client.simple_query("SELECT 1").await.unwrap();
    assert!(show(&console, "app").await.keeps_servers);

    let (what, remedy) = ("settings", "SET min_pool_size = 0");
    console.ask(what, PATIENCE, remedy).await.unwrap();
    assert!(!show(&console, "app").await.keeps_servers);
    pause(&bed, &names(&["app"])).await;
    // Servers are kept up by rounds that come three times a second.
    let rounds = timeout(Duration::from_secs(1), client.simple_query("SELECT 2"));
    assert!(rounds.await.is_err(), "it is not paused");
    resume(&console, &names(&["app"])).await.unwrap();
    let again = bed.client("app").await;
    let answered = timeout(PATIENCE, again.simple_query("SELECT 3")).await;
    answered.expect("a login is not waited for").unwrap();
}
