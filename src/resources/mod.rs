//! Pure builders of the Kubernetes objects that a migration needs, one subject a file. Knows no client.
//!
//! Nothing here is owner-referenced to the `ClusterMigration` but throw-away Jobs: deleting it keeps data, pods and traffic.

mod haproxy;
mod member;
mod probe;
mod seeding;
mod wanted;

pub use haproxy::{
    build_haproxy, build_routing, haproxy_name, haproxy_selector, listen_port, render_selector, routing_name,
};
pub use member::{
    CA_FILE, Plan, SOURCE_CA_FILE, build_claim, build_configuration, build_role_services, build_services,
    build_stateful_set, external_name, member_host,
};
pub use probe::{build_probe, probe_name};
pub use seeding::{SeedingPlan, build_seeding, seeding_name};
pub use wanted::{Kind, Wanted};
