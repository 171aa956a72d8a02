//! The source site of the test bed: three PostgreSQL servers outside Kubernetes, each in a "virtual machine" made of Linux namespaces,
//! and the link that joins the site with the host.
//!
//! ```text
//!   mitosis-a1  10.20.0.11 ─┐
//!   mitosis-a2  10.20.0.12 ─┤ bridge (namespace mitosis-wan) ── the link ── host, pods and NodePorts
//!   mitosis-a3  10.20.0.13 ─┘ 10.20.0.1          10.21.0.2          10.21.0.1
//! ```
//!
//! Everything needs root. Functions block; an asynchronous caller wraps them in `spawn_blocking`. The names of the namespaces are fixed,
//! so one site can be up on a host at a time.

mod certificate;
mod command;
mod configuration;
mod delay;
mod link;
mod machine;
mod member;
mod network;
mod pgbench;
mod process;
mod provision;
mod server;
mod site;
mod small_disk;
mod state;

pub use certificate::Certificate;
pub use link::{Direction, Link};
pub use machine::Machine;
pub use member::Member;
pub use network::{HOST_ADDRESS, LINK_DEVICE, POD_NETWORK, SITE_GATEWAY, SITE_NETWORK, WAN_ADDRESS, WAN_NAMESPACE};
pub use pgbench::{Pgbench, PgbenchCounts, PgbenchOptions};
pub use server::StopMode;
pub use site::{Config, Site};
pub use small_disk::SmallDisk;
pub use state::{Credentials, default_state};
