//! Typed SQL: one file per subject. Knows no Kubernetes.

mod canary;
mod configuration;
mod connection;
mod conninfo;
mod inventory;
mod lsn;
mod name;
mod promotion;
mod rewind;
mod server;
mod slot;
mod standby;
mod stop;

pub use canary::{drop_canary, fetch_canary, write_canary, write_marker};
pub use configuration::{HBA_FILE, render_hba, render_postgresql};
pub use connection::{Error, Login, Session, Speaker};
pub use conninfo::Conninfo;
pub use inventory::{Collation, Inventory, Listing, fetch_listing};
pub use lsn::Lsn;
pub use name::{MemberName, SlotName, quote_configuration, quote_literal, quote_shell};
pub use promotion::{analyze_all, checkpoint, fetch_fork, promote, warm_up};
pub use rewind::{find_rewind_obstacle, rewind_by_sql};
pub use server::{
    Backup, Clients, Manager, PARITY, Server, Slot, Standby, fetch_identity, fetch_server, fetch_server_switching,
};
pub use slot::{drop_slot, ensure_slot};
pub use standby::{arm, detach, disarm, follow};
pub use stop::{
    SHUTDOWN_DEADLINE, end_silent_standbys, end_transactions, flush, let_sessions_leave, restart_by_sql,
    shut_down_by_sql, wait_for_the_end,
};
