//! What is written on the primary to be found on the leader: markers in the WAL and canary rows.

use std::time::Duration;

use super::{Error, Lsn, Session};

/// Writes a marker into the WAL and tells the position right after it.
///
/// # Errors
/// The server is no primary or does not answer.
pub async fn write_marker(session: &Session, token: &str) -> Result<Lsn, Error> {
    let what = "writing a marker";
    // Transactional, so that the commit flushes it; read in a second statement, after that flush.
    session
        .row(
            what,
            Duration::from_secs(5),
            "SELECT pg_logical_emit_message(true, 'mitosis', $1)::text",
            &[&token],
        )
        .await?;
    current_lsn(session, what).await
}

/// Writes the canary row of a switchover, once, and tells the position right after it.
///
/// # Errors
/// The server is no primary or does not answer.
pub async fn write_canary(session: &Session, token: &str) -> Result<Lsn, Error> {
    let what = "writing the canary row";
    session
        .batch(
            what,
            "CREATE SCHEMA IF NOT EXISTS mitosis; \
             CREATE TABLE IF NOT EXISTS mitosis.canary (token text PRIMARY KEY, written timestamptz NOT NULL DEFAULT clock_timestamp())",
        )
        .await?;
    let sql = "WITH row AS (INSERT INTO mitosis.canary (token) VALUES ($1) ON CONFLICT (token) DO NOTHING RETURNING 1) \
        SELECT count(*) FROM row";
    session.row(what, Duration::from_secs(5), sql, &[&token]).await?;
    current_lsn(session, what).await
}

/// Removes the schema with the canary's table.
///
/// # Errors
/// The server is no primary or does not answer.
pub async fn drop_canary(session: &Session) -> Result<(), Error> {
    session
        .batch("removing the canary's schema", "DROP SCHEMA IF EXISTS mitosis CASCADE")
        .await
}

/// Whether the canary row of a switchover is there.
///
/// # Errors
/// The server does not answer, or has no canary's table.
pub async fn fetch_canary(session: &Session, token: &str) -> Result<bool, Error> {
    let what = "looking for the canary row";
    session
        .prepared_row(
            what,
            Duration::from_secs(2),
            "SELECT EXISTS (SELECT FROM mitosis.canary WHERE token = $1)",
            &[&token],
        )
        .await?
        .try_get(0)
        .map_err(Error::statement(what))
}

async fn current_lsn(session: &Session, what: &'static str) -> Result<Lsn, Error> {
    let row = session
        .row(
            what,
            Duration::from_secs(2),
            "SELECT pg_current_wal_flush_lsn()::text",
            &[],
        )
        .await?;
    let text: String = row.try_get(0).map_err(Error::statement(what))?;
    text.parse().map_err(|because| Error::Answer { what, because })
}
