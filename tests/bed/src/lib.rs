//! The test bed of Mitosis: a real one-node Kubernetes on one Debian host, without a container engine or an image registry.
//!
//! Everything is made from packages: the Kubernetes components from Go modules, the node's software and the container images from
//! Debian packages. What is costly to make is kept in a [`Cache`] outside the checkout; what runs is kept in a [`State`] folder.
//!
//! ```no_run
//! use std::time::Duration;
//! use mitosis_bed::{Bed, Image};
//!
//! # fn main() -> anyhow::Result<()> {
//! let bed = Bed::lock("my test", Duration::from_mins(1))?; // one bed per host; released when dropped
//! let cluster = bed.up(&[Image::Postgres(15), Image::Haproxy("2.6")])?;
//! cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: mine}}")?;
//! println!("{}", cluster.kubectl(&["get", "pods", "--all-namespaces"])?);
//! bed.down()?;
//! # Ok(())
//! # }
//! ```
//!
//! The calls block; from asynchronous code, use a thread for them.

pub mod bed;
pub mod binaries;
pub mod cache;
pub mod cluster;
pub mod command;
pub mod host;
pub mod images;
pub mod lock;
pub mod progress;
pub mod wait;

mod components;
mod configuration;
mod containers;
mod iptables;
mod mounts;
mod network;
mod pki;
mod process;
mod state;
mod teardown;

pub use bed::Bed;
pub use cache::Cache;
pub use cluster::Cluster;
pub use images::Image;
pub use progress::Progress;
pub use state::State;
