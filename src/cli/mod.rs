//! The user's verbs.

mod report;

pub use report::{ReportArgs, report};
