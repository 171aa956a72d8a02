//! The whole scene: a real Kubernetes, a source site outside it, the operator installed by Helm from its own image, and load through
//! HAProxy with an outside witness. Demonstration, tests and benchmarks share it.

mod bench;
mod demo;
mod load;
mod migration;
mod servers;
mod stage;

pub use bench::seeding as bench_seeding;
pub use demo::run as demo;
pub use load::{WRITE_ADDRESS, carry, is_running as load_is_running};
pub use migration::{Migration, until};
pub use servers::{ServerState, Servers};
pub use stage::{NAMESPACE, Stage};
