//! HAProxy: the configuration that leads clients, and the words to say to a running HAProxy.

mod block;
mod configuration;
mod name;
mod parse;
mod process;
mod runtime;
mod statistics;
mod version;

pub use block::replace_block;
use configuration::MAXCONN;
pub use configuration::{Configuration, Form, MARK, REPORT_PORT, Route, RouteKind, State};
pub use name::RouteName;
pub use process::Processes;
pub use runtime::{Admin, Lead, Master, Reload, RuntimeError, Service};
pub use statistics::{Load, Running, Server, Session};
pub use version::Version;
