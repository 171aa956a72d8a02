//! A real PgBouncer is paused and resumed by its console, and what it shows is understood.

use std::time::{Duration, Instant};

use mitosis::pgbouncer::{DatabaseName, fetch_databases, fetch_settings, resume};
use tokio::time::timeout;

use crate::{
    pgbouncer::{Bed, show},
    servers::Server,
};

const OTHER: &str = "other \"one\"; x";

/// Tells a PgBouncer to pause databases.
async fn pause(bed: &Bed, databases: &[DatabaseName]) {
    for database in databases {
        mitosis::pgbouncer::pause(&Bed::login(), &bed.address(), database)
            .await
            .unwrap();
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
