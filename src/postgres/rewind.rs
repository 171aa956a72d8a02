//! Rewinding a standby that diverged, from inside.

use super::{Conninfo, Error, Server, Session, quote_literal, quote_shell, stop::run_and_wait_for_the_end};

/// What runs on the standby's host.
const REWIND: &str = include_str!("rewind.sh");

/// Stops the standby that the session is connected to, makes it the same as the server at `upstream` with its own `pg_rewind`, starts it
/// again, and returns when the session ended. What pg_rewind cannot mend is started again as it was; the log is beside the data directory,
/// `DATA.mitosis-rewind.log`. `server` must have been read by [`super::fetch_server_switching`].
///
/// # Errors
/// pg_rewind is not there, the folder of the data directory cannot be written to, or the server still serves the session after 5 s.
pub async fn rewind_by_sql(session: &Session, server: &Server, upstream: &Conninfo) -> Result<(), Error> {
    let program = format!("{}/pg_rewind", server.programs);
    session
        .batch(
            "looking for pg_rewind on the server's host",
            &run("''", &format!("test -x {}", quote_shell(&program))),
        )
        .await?;
    let data = quote_shell(&server.data_directory);
    // On a command line everybody on the host could read it; COPY would escape a backslash.
    let password = format!(
        "translate(encode(convert_to({}, 'UTF8'), 'base64'), E'\\n', '')",
        quote_literal(upstream.password.as_deref().unwrap_or_default())
    );
    session
        .batch(
            "making room beside the data directory",
            &run(
                &password,
                &format!(
                    "umask 077; test ! -e {data}.mitosis-rewind && test ! -e {data}.mitosis-own && base64 -d > {data}.mitosis-password"
                ),
            ),
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
