//! An outside witness of lost transactions.
//!
//! Clients insert numbered rows through one endpoint, one row per transaction, and write down every acknowledgement. Afterwards the
//! rows of any server are compared with what was written down: an acknowledged row that is missing is lost.
//!
//! The table is `ledger(run, client, seq, at)`. `run` is the microsecond at which a recording began, so recordings never collide, and a
//! row that a lossy switch swallowed is never written again by a later recording, which would hide the loss. A number is never used twice:
//! after any error a client goes on with the next one.

mod check;
mod client;
mod connect;
mod errors;
mod gap;
mod log;
mod probe;
mod record;
mod report;
mod table;

pub use check::{Comparison, Row};
pub use connect::{Encryption, Endpoint};
pub use gap::{Gap, Gaps, Window};
pub use log::{Entry, Log, Outcome, RunLog};
pub use probe::{Probe, Verdict, Write};
pub use record::{Options, Summary, record};
pub use report::{Report, ServerReport, check};
