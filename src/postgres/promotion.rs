//! Checkpoints, promotion, and what is due after it.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Error, Login, Lsn, Session};
use crate::address::Address;

/// Asks for an immediate checkpoint; on a standby a restartpoint at the last checkpoint that was replayed.
///
/// # Errors
/// The server refuses or needs more than 60 s.
pub async fn checkpoint(session: &Session) -> Result<(), Error> {
    session.batch("a checkpoint", "CHECKPOINT").await
}

/// How long sessions in all databases may take.
const WARM_UP: Duration = Duration::from_secs(2);
/// How often it is looked whether a promotion is done.
const POLL: Duration = Duration::from_millis(2);
/// When the startup process is woken for the first time after it was told to promote; then each time after four times as long.
const WAKE: Duration = Duration::from_millis(10);
/// How long a promotion may take.
const PROMOTION: Duration = Duration::from_secs(30);

/// Promotes a standby and waits until it accepts writes, at most 30 s.
///
/// A startup process that notices the request while it gives up on its upstream sleeps for what is left of `wal_retrieve_retry_interval`
/// (5 s by default) before it acts on it: of 5 promotions on the test bed one took 196 ms longer at 200 ms. A reload ends that sleep.
///
/// # Errors
/// The server refuses or does not answer; whether it was promoted must be observed.
pub async fn promote(session: &Session) -> Result<(), Error> {
    let what = "the promotion";
    // pg_promote(true) would look every 100 ms only.
    session
        .row(what, Duration::from_secs(5), "SELECT pg_promote(false)", &[])
        .await?;
    let began = Instant::now();
    let mut wake = WAKE;
    while began.elapsed() < PROMOTION {
        let row = session
            .prepared_row(what, Duration::from_secs(5), "SELECT pg_is_in_recovery()", &[])
            .await?;
        if !row.try_get::<_, bool>(0).map_err(Error::statement(what))? {
            return Ok(());
        }
        if began.elapsed() > wake {
            session
                .row(what, Duration::from_secs(5), "SELECT pg_reload_conf()", &[])
                .await?;
            wake *= 4;
        }
        sleep(POLL).await;
    }
    Err(Error::Deadline {
        what,
        seconds: PROMOTION.as_secs(),
    })
}

/// Where the current timeline of a primary forked off its parent, read from the history file.
///
/// # Errors
/// The server does not answer or there is no history file.
pub async fn fetch_fork(session: &Session, timeline: u32) -> Result<Lsn, Error> {
    let what = "reading the timeline's history";
    let file = format!("pg_wal/{timeline:08X}.history");
    let row = session
        .row(what, Duration::from_secs(2), "SELECT pg_read_file($1)", &[&file])
        .await?;
    let text: String = row.try_get(0).map_err(Error::statement(what))?;
    text.lines()
        .rfind(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .and_then(|line| line.split('\t').nth(1))
        .ok_or_else(|| format!("{file} holds no switch point"))
        .and_then(str::parse)
        .map_err(|because| Error::Answer { what, because })
}

/// Renews the statistics of every database, which promotion starts from zero. At most 60 s a database.
///
/// # Errors
/// The first database that could not be analyzed.
pub async fn analyze_all(login: &Login, address: &Address, session: &Session) -> Result<(), Error> {
    for name in list_databases(session).await? {
        login
            .connect_to(address, &name)
            .await?
            .batch("renewing statistics", "ANALYZE")
            .await?;
    }
    Ok(())
}

/// Opens a session in every database of a standby, at most 2 s long: the first session in a database writes down what the next ones need
/// of the catalog (`pg_internal.init`). After a promotion all clients come at once, and each would do that work before its log-in ends:
/// 90 ms instead of 50 for the first `psql` on the test bed.
///
/// # Errors
/// The first database that could not be entered, or not in time.
pub async fn warm_up(login: &Login, address: &Address, session: &Session) -> Result<(), Error> {
    let visits = async {
        for name in list_databases(session).await? {
            login.connect_to(address, &name).await?;
        }
        Ok(())
    };
    timeout(WARM_UP, visits).await.unwrap_or(Err(Error::Deadline {
        what: "a session in every database",
        seconds: WARM_UP.as_secs(),
    }))
}

async fn list_databases(session: &Session) -> Result<Vec<String>, Error> {
    let what = "listing databases";
    let list =
        "SELECT coalesce(array_agg(datname::text), '{}') FROM pg_database WHERE datallowconn AND NOT datistemplate";
    session
        .row(what, Duration::from_secs(5), list, &[])
        .await?
        .try_get(0)
        .map_err(Error::statement(what))
}
