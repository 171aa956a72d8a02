//! Physical replication slots.

use std::time::Duration;

use super::{Error, Session, SlotName};

/// Makes a physical slot that keeps WAL from now on, unless it exists.
///
/// # Errors
/// The server refuses, for example because no slot is free.
pub async fn ensure_slot(session: &Session, slot: &SlotName) -> Result<(), Error> {
    let what = "making a replication slot";
    let sql = "SELECT count(pg_create_physical_replication_slot($1, true)) \
        WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)";
    // Two sessions at once: the second finds it made (42710), which is what was wanted.
    match session.row(what, Duration::from_secs(10), sql, &[&slot.as_str()]).await {
        Err(Error::Statement { because, .. }) if because.contains("42710") => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Drops a slot when it exists, ending its walsender if there is one.
///
/// # Errors
/// The server refuses; the slot is still there.
pub async fn drop_slot(session: &Session, slot: &SlotName) -> Result<(), Error> {
    let what = "dropping a replication slot";
    let end = "SELECT count(pg_terminate_backend(active_pid, 2000)) FROM pg_replication_slots \
        WHERE slot_name = $1 AND active_pid IS NOT NULL";
    session
        .row(what, Duration::from_secs(5), end, &[&slot.as_str()])
        .await?;
    let drop = "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE slot_name = $1";
    session
        .row(what, Duration::from_secs(10), drop, &[&slot.as_str()])
        .await
        .map(|_| ())
}
