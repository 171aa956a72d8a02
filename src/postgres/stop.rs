//! Stopping the old primary cleanly, from inside.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Error, Server, Session, quote_literal, quote_shell};

/// How long a session may outlive the order to restart its server.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);
/// The same after an answer that may be a refusal.
const REFUSAL: Duration = Duration::from_secs(2);
/// How long a server may take to stop before nobody waits to start it again.
const LONGEST_SHUTDOWN: Duration = Duration::from_mins(10);

/// How long a server that was stopped stays so: a start takes processor, disk and the new primary's attention, and so do the standbys that come
/// back to it. Clients that come to the new primary at this time go first.
const PAUSE: Duration = Duration::from_millis(500);

/// Restarts the server that the session is connected to, cleanly (fast mode), and returns when the session ended.
///
/// `command` is the user's own command line for a supervised server; without it the server's `pg_ctl` restarts it, and what is started logs
/// where the stopped one did. `server` must have been read by [`super::fetch_server_switching`].
///
/// # Errors
/// The server refuses, or still serves the session after 5 s.
pub async fn restart_by_sql(session: &Session, server: &Server, command: Option<&str>) -> Result<(), Error> {
    let own = || {
        let control = format!(
            "{} -D {}",
            quote_shell(&format!("{}/pg_ctl", server.programs)),
            quote_shell(&server.data_directory)
        );
        let (patience, pause) = (LONGEST_SHUTDOWN.as_secs(), PAUSE.as_secs_f64());
        // `stop` waits for the end of what was told to stop already. `restart` starts a server that does not run, with the options that it had.
        format!(
            "kill -INT {}; {control} -m fast -t {patience} stop; sleep {pause} || sleep 1; {control} status || {control} -W restart",
            server.postmaster
        )
    };
    let command = command.map_or_else(own, ToOwned::to_owned);
    run_and_wait_for_the_end(session, &format!("{}{command}", end_stuck_sessions(server))).await
}

/// Shuts the server that the session is connected to down, cleanly (fast mode), and returns when the session ended. `server` must have
/// been read by [`super::fetch_server_switching`].
///
/// # Errors
/// The server refuses, or still serves the session after 5 s.
pub async fn shut_down_by_sql(session: &Session, server: &Server) -> Result<(), Error> {
    let command = format!("{}kill -INT {}", end_stuck_sessions(server), server.postmaster);
    run_and_wait_for_the_end(session, &command).await
}

/// Seconds that sessions have to end when their server shuts down.
const SESSIONS_END: u64 = 3;

/// Kills, by and by, what keeps a server from shutting down. A fast shutdown waits for every session, without an end and without a way back:
/// one that holds a lock of its libc while the signal to end meets it (seen when its client had just gone: "connection to client lost") or
/// that is in a library's function for hours would keep the old primary away from both sides. The server then ends as in a crash, and comes
/// back as the standby that it was armed to be. What a shutdown itself needs, until its checkpoint is written and sent, is left alone.
fn end_stuck_sessions(server: &Server) -> String {
    // The program runs in the data directory, where the server says that it is stopping. Another one that was started since is left alone.
    format!(
        "(sleep {SESSIONS_END}; [ \"$(head -n 1 postmaster.pid)\" = {postmaster} ] && grep -q ^stopping postmaster.pid || exit 0; \
         for status in /proc/[0-9]*/stat; do \
           [ \"$(sed 's/.*) . \\([0-9]*\\) .*/\\1/' $status)\" = {postmaster} ] || continue; process=${{status%/stat}}; \
           case $(tr '\\0' ' ' <$process/cmdline) in \
             *checkpointer*|*walsender*|*archiver*|*logger*|*startup*|*'io worker'*|*'stats collector'*) ;; \
             postgres:*) kill -KILL ${{process#/proc/}} ;; \
           esac; done) 2>/dev/null & ",
        postmaster = server.postmaster
    )
}

/// Gives sessions whose client has just gone the time to notice it, some milliseconds: a signal to end that comes meanwhile can make them
/// hang (see above). Returns as soon as their number does not fall any more.
///
/// # Errors
/// The server does not answer.
pub async fn let_sessions_leave(session: &Session) -> Result<(), Error> {
    let what = "looking for sessions that end";
    let mut last = i64::MAX;
    loop {
        let row = session
            .prepared_row(
                what,
                Duration::from_secs(2),
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
                &[],
            )
            .await?;
        let count: i64 = row.try_get(0).map_err(Error::statement(what))?;
        if count == 0 || count >= last {
            break;
        }
        last = count;
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Brings on disk what was committed asynchronously: it is not lost where the server ends as in a crash.
///
/// # Errors
/// The server does not answer.
pub async fn flush(session: &Session) -> Result<(), Error> {
    let what = "flushing what was committed";
    let flush = "SELECT pg_logical_emit_message(true, 'mitosis', 'stop')::text";
    session.row(what, Duration::from_secs(2), flush, &[]).await.map(drop)
}

/// Closes what the program inherited. Before version 16 PostgreSQL hands the open files of the session that runs a program on to it, and the
/// server that it starts would hand them on to its own sessions: each restart from inside would leave less (36 files each in tests/postgres),
/// until none would start any more ("insufficient file descriptors"). Other shells than bash know numbers of one digit only.
const CLOSE: &str = "for fd in /proc/self/fd/*; do fd=${fd##*/}; \
    case $fd in [012]) ;; [3-9]) eval \"exec $fd>&-\" ;; *) [ -z \"$BASH_VERSION\" ] || eval \"exec $fd>&-\" ;; esac; done; ";

/// Whatever the command starts goes on with the server's log where that is a file or the journal's socket. A pipe leads to the server's own
/// logging process, which would wait for its end.
const LOG: &str = "[ -f /proc/self/fd/2 ] || [ -S /proc/self/fd/2 ] || exec 2>/dev/null; ";

pub(super) async fn run_and_wait_for_the_end(session: &Session, command: &str) -> Result<(), Error> {
    let what = "telling the server to stop";
    // In a session of its own, so that it outlives the server that starts it; in the background by the shell, since not every setsid can do
    // that. By bash where there is one: see CLOSE. A log whose reader is gone must not end the command half-way.
    let line = format!(
        "{LOG}setsid $(command -v bash || echo sh) -c {} >&2 </dev/null &",
        quote_shell(&format!("trap '' PIPE; {CLOSE}{command}"))
    );
    let told = session
        .batch(what, &format!("COPY (SELECT '') TO PROGRAM {}", quote_literal(&line)))
        .await;
    match told {
        Ok(()) => wait_for_the_end(session, SHUTDOWN_DEADLINE).await,
        // The shutdown may end this very statement before it has answered, by admin_shutdown or by what becomes of the program.
        Err(Error::Statement { because, .. }) if because.ends_with("(57P01)") => {
            wait_for_the_end(session, SHUTDOWN_DEADLINE).await
        }
        // Whether it was heard shows in the end of the session.
        Err(refused) => wait_for_the_end(session, REFUSAL).await.map_err(|_| refused),
    }
}

/// Waits until the server has ended the session.
///
/// # Errors
/// It still serves the session after `patience`; whether it will stop is unknown.
pub async fn wait_for_the_end(session: &Session, patience: Duration) -> Result<(), Error> {
    let what = "stopping the old primary";
    let deadline = Instant::now() + patience;
    while !session.is_closed() {
        if Instant::now() > deadline {
            return Err(Error::Deadline {
                what,
                seconds: patience.as_secs(),
            });
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Ends transactions that are older than a time, whether they work or idle, and tells how many.
///
/// # Errors
/// The server refuses or does not answer.
pub async fn end_transactions(session: &Session, older_than: Duration) -> Result<i64, Error> {
    let what = "ending long transactions";
    session
        .row(
            what,
            Duration::from_secs(2),
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                AND pid <> pg_backend_pid() AND application_name <> 'mitosis' \
                AND xact_start < clock_timestamp() - make_interval(secs => $1)",
            &[&older_than.as_secs_f64()],
        )
        .await?
        .try_get(0)
        .map_err(Error::statement(what))
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
