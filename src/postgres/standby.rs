//! Pointing a standby at its upstream, and arming a primary so that it comes back as a standby.

use std::time::Duration;

use super::{Conninfo, Error, Session, SlotName, quote_literal};

/// Points a standby at an upstream and a slot there; takes effect at once, without a restart. On a primary it only waits for the day when that
/// is a standby.
///
/// # Errors
/// The server refuses or does not answer.
pub async fn follow(session: &Session, conninfo: &Conninfo, slot: &SlotName) -> Result<(), Error> {
    let what = "pointing the server at its upstream";
    point(session, what, Some((conninfo, slot))).await
}

/// Arms a running primary that was pointed at its upstream: whatever restarts it from now on brings it back as a standby. `standby.signal`, of
/// which PostgreSQL only looks whether it is there, then says by whose order: a token without spaces and backslashes.
///
/// # Errors
/// The server refuses or does not answer.
pub async fn arm(session: &Session, token: &str) -> Result<(), Error> {
    let what = "arming the old primary";
    // The server runs the program in its data directory. On disk before anything is stopped: after a loss of power it still counts.
    let sql = format!(
        "COPY (SELECT {}) TO PROGRAM 'cat > standby.signal && sync standby.signal .'",
        quote_literal(token)
    );
    session.batch(what, &sql).await
}

/// Takes the arming of a running primary back, the one that was seen there (`armed_by`): an order that comes late must not disarm a server
/// that somebody armed anew, which would come back as a second primary.
///
/// # Errors
/// The server refuses or does not answer.
pub async fn disarm(session: &Session, armed_by: Option<&str>) -> Result<(), Error> {
    let what = "disarming the primary";
    if let Some(token) = armed_by {
        // The server runs the program in its data directory.
        let sql = format!(
            "COPY (SELECT {}) TO PROGRAM \
             'read -r token; [ \"$(head -n 1 standby.signal 2>/dev/null)\" != \"$token\" ] || rm -f standby.signal'",
            quote_literal(token)
        );
        session.batch(what, &sql).await?;
    }
    let row = session
        .row(
            what,
            Duration::from_secs(5),
            "SELECT (pg_stat_file('standby.signal', true)).size IS NOT NULL",
            &[],
        )
        .await?;
    if row.try_get(0).map_err(Error::statement(what))? {
        return Ok(());
    }
    point(session, what, None).await
}

/// Lets a standby follow nobody any more. It stays a standby.
///
/// # Errors
/// The server refuses or does not answer.
pub async fn detach(session: &Session) -> Result<(), Error> {
    point(session, "letting the standby go", None).await
}

/// Each ALTER SYSTEM is a statement of its own, since it must not run inside a transaction block.
async fn point(session: &Session, what: &'static str, upstream: Option<(&Conninfo, &SlotName)>) -> Result<(), Error> {
    let (conninfo, slot) = match upstream {
        Some((conninfo, slot)) => (
            format!(
                "ALTER SYSTEM SET primary_conninfo = {}",
                quote_literal(&conninfo.render())
            ),
            format!("ALTER SYSTEM SET primary_slot_name = {}", quote_literal(slot.as_str())),
        ),
        None => (
            "ALTER SYSTEM RESET primary_conninfo".to_owned(),
            "ALTER SYSTEM RESET primary_slot_name".to_owned(),
        ),
    };
    session.batch(what, &conninfo).await?;
    session.batch(what, &slot).await?;
    session
        .row(what, Duration::from_secs(5), "SELECT pg_reload_conf()", &[])
        .await
        .map(|_| ())
}
