//! HAProxy: the configuration that leads clients, and the words to say to a running HAProxy.

mod configuration;
mod name;
mod parse;
mod process;
mod runtime;
mod statistics;
mod version;

pub use configuration::{Configuration, Route, RouteKind, State};
pub use name::RouteName;
pub use process::Processes;
pub use runtime::{Admin, Master, Reload, RuntimeError};
pub use statistics::{Frontend, Load, Server};
pub use version::Version;
