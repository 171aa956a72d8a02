//! The whole scene: a real Kubernetes, a source site outside it, the operator installed by Helm from its own image, and load through
//! HAProxy with an outside witness. Demonstration, tests and benchmarks share it.

mod bench_routing;
mod bench_seeding;
mod bench_switchover;
mod demo;
mod figures;
mod ground;
mod load;
mod migration;
mod operator;
mod pgbouncer;
mod pgpool;
mod probing;
mod proxies;
mod servers;
mod stage;

pub use bench_routing::routing as bench_routing;
pub use bench_seeding::seeding as bench_seeding;
pub use bench_switchover::switchover as bench_switchover;
pub use demo::run as demo;
pub use ground::Ground;
pub use load::{Load, WRITE_ADDRESS, Way, carry, is_running as load_is_running};
pub use migration::{Migration, until};
pub use operator::{Operator, Trap};
pub use pgbouncer::{POOLED_ADDRESS, pgbouncer};
pub use pgpool::{POOLER_ADDRESSES, Pgpool};
pub use probing::Probing;
pub use proxies::{IDENTITY, PROXIES, pod_ips, through_haproxy, through_pods};
pub use servers::{ServerState, Servers};
pub use stage::{NAMESPACE, Stage, read_example};
