//! Stopping the old primary cleanly, from inside.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Error, Session, quote_literal, quote_shell};

/// How long a session may outlive the order to restart its server.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// Restarts the server that the session is connected to, cleanly (fast mode), and returns when the session ended.
///
/// `command` is the user's own command line for a supervised server; without it the server's `pg_ctl` restarts it.
///
/// # Errors
/// The server refuses, or still serves the session after 5 s.
pub async fn restart_by_sql(session: &Session, data_directory: &str, command: Option<&str>) -> Result<(), Error> {
    let what = "restarting the old primary";
    let restart = command.map_or_else(
        || format!("pg_ctl -D {} -m fast -W restart", quote_shell(data_directory)),
        ToOwned::to_owned,
    );
    // In a session of its own, so that it outlives the server that starts it; PATH of the server may lack pg_ctl, which lies
    // beside the server's own program.
    let line = format!(
        "PATH=\"$(dirname \"$(readlink -f /proc/$PPID/exe)\"):$PATH\" setsid -f sh -c {} >/dev/null 2>&1 </dev/null",
        quote_shell(&restart)
    );
    session
        .batch(what, &format!("COPY (SELECT '') TO PROGRAM {}", quote_literal(&line)))
        .await?;
    let deadline = Instant::now() + SHUTDOWN_DEADLINE;
    while !session.is_closed() {
        if Instant::now() > deadline {
            return Err(Error::Deadline {
                what,
                seconds: SHUTDOWN_DEADLINE.as_secs(),
            });
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Ends walsenders whose standby has been silent for more than a second: a frozen one would delay the shutdown by its timeout.
///
/// # Errors
/// The server does not answer.
pub async fn end_silent_standbys(session: &Session) -> Result<i64, Error> {
    let what = "ending silent walsenders";
    session
        .row(
            what,
            Duration::from_secs(2),
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication WHERE reply_time < clock_timestamp() - interval '3 s'",
            &[],
        )
        .await?
        .try_get(0)
        .map_err(Error::statement(what))
}
