//! Physical replication slots.

use std::time::Duration;

use super::{Error, Session, SlotName, quote_literal};

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
/// A standby that loses its walsender connects again at once and takes the slot before a second statement could drop it, so both are
/// tried in one statement until the slot is gone, for at most 5 s.
///
/// # Errors
/// The server refuses; the slot is still there.
pub async fn drop_slot(session: &Session, slot: &SlotName) -> Result<(), Error> {
    let name = quote_literal(slot.as_str());
    let sql = format!(
        "DO $drop$ BEGIN FOR attempt IN 1..1000 LOOP
            PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = {name} AND active_pid IS NOT NULL;
            BEGIN
                PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {name};
                RETURN;
            EXCEPTION WHEN object_in_use THEN
                PERFORM pg_sleep(0.005);
            END;
        END LOOP; RAISE EXCEPTION 'replication slot % stays in use', {name}; END $drop$"
    );
    session.batch("dropping a replication slot", &sql).await
}
