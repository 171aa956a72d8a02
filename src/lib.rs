//! Mitosis moves a live PostgreSQL cluster from one data centre to another.
//!
//! A controller watches a [`api::ClusterMigration`] and brings it toward its desired phase in turns of four steps:
//! [`observe`] reads the world into a snapshot, [`decide`] makes one decision from it without touching anything,
//! [`act`] carries it out, [`report`] tells about it. [`reconcile`] is the driver.

pub mod act;
pub mod address;
pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod controller;
pub mod crash;
pub mod decide;
pub mod haproxy;
pub mod http;
pub mod lease;
pub mod observe;
pub mod pgbouncer;
pub mod postgres;
pub mod reconcile;
pub mod report;
pub mod resources;
pub mod telemetry;
