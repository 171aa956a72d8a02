//! Rewinding a standby that diverged, from inside.

use std::time::Duration;

use super::{Conninfo, Error, Server, Session, quote_literal, quote_shell, stop::run_and_wait_for_the_end};

/// What runs on the standby's host.
const REWIND: &str = include_str!("rewind.sh");

/// Why a standby cannot be rewound, as far as its host can tell; nothing when it can. Changes nothing. `server` must have been read by
/// [`super::fetch_server_switching`].
///
/// # Errors
/// The server does not answer.
pub async fn find_rewind_obstacle(session: &Session, server: &Server) -> Result<Option<&'static str>, Error> {
    let what = "looking for what keeps a server from being rewound";
    let logical = session
        .row(
            what,
            Duration::from_secs(2),
            "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_type = 'logical')",
            &[],
        )
        .await?;
    if logical.try_get(0).map_err(Error::statement(what))? {
        return Ok(Some(
            "it has logical slots, which belong to the history that is given up: drop them",
        ));
    }
    let program = quote_shell(&format!("{}/pg_rewind", server.programs));
    let data = quote_shell(&server.data_directory);
    let conditions = [
        (format!("test -x {program}"), "pg_rewind does not lie beside pg_ctl"),
        (
            format!("test -w \"$(dirname {data})\""),
            "the server's user cannot write to the folder above the data directory",
        ),
        (
            format!("test ! -e {data}.mitosis-rewind && test ! -e {data}.mitosis-own"),
            "an earlier rewind did not end (data directory + .mitosis-rewind or .mitosis-own)",
        ),
        (
            format!(
                "test {} != 1 && case $(cat /proc/1/comm) in tini|docker-init|dumb-init|catatonit|sh|bash|dash|postgres) false ;; esac",
                server.postmaster
            ),
            "it is what its container runs, which would end half-way",
        ),
    ];
    for (condition, obstacle) in conditions {
        // A program that ends before it was written to fails the statement as well, and says nothing of the condition.
        match session
            .batch(what, &run("''", &format!("cat >/dev/null; {condition}")))
            .await
        {
            Ok(()) => {}
            Err(Error::Statement { because, .. }) if because.ends_with("(38000)") => return Ok(Some(obstacle)),
            Err(unknown) => return Err(unknown),
        }
    }
    Ok(None)
}

/// Stops the standby that the session is connected to, makes it the same as the server at `upstream` with its own `pg_rewind`, starts it
/// again, and returns when the session ended. What pg_rewind cannot mend is started again as it was; the log is beside the data directory,
/// `DATA.mitosis-rewind.log`. `server` must have been read by [`super::fetch_server_switching`].
///
/// # Errors
/// The server refuses, or still serves the session after 5 s.
pub async fn rewind_by_sql(session: &Session, server: &Server, upstream: &Conninfo) -> Result<(), Error> {
    let data = quote_shell(&server.data_directory);
    // On a command line or in the environment others could read it. As libpq reads a password file; COPY would escape a backslash.
    let password = upstream.password.as_deref().unwrap_or_default();
    let entry = format!("*:*:*:*:{}", password.replace('\\', "\\\\").replace(':', "\\:"));
    let entry = format!(
        "translate(encode(convert_to({}, 'UTF8'), 'base64'), E'\\n', '')",
        quote_literal(&entry)
    );
    session
        .batch(
            "writing a password file beside the data directory",
            &run(&entry, &format!("umask 077; base64 -d > {data}.mitosis-password")),
        )
        .await?;
    let public = Conninfo {
        password: None,
        ..upstream.clone()
    };
    let conninfo = format!("{} dbname=postgres", public.render());
    run_and_wait_for_the_end(
        session,
        &format!(
            "exec sh -c {} rewind {data} {} {} {}",
            quote_shell(REWIND),
            quote_shell(&server.programs),
            quote_shell(&conninfo),
            server.timeline
        ),
    )
    .await
}

/// A statement that gives the value of an expression to a program on the server's host.
fn run(expression: &str, program: &str) -> String {
    format!("COPY (SELECT {}) TO PROGRAM {}", expression, quote_literal(program))
}
