//! Metrics for Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::api::{ClusterMigrationStatus, Phase, Side};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Turn {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Migration {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Seeding {
    namespace: String,
    name: String,
    member: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InPhase {
    namespace: String,
    name: String,
    phase: &'static str,
}

/// Everything that is measured.
pub struct Metrics {
    registry: Registry,
    turns: Family<Turn, Counter>,
    phase: Family<InPhase, Gauge>,
    lag: Family<Migration, Gauge>,
    held: Family<Migration, Gauge<f64, AtomicU64>>,
    repairs: Family<Migration, Counter>,
    seeded: Family<Seeding, Gauge>,
    to_seed: Family<Seeding, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mitosis");
        let metrics = Self {
            turns: Family::default(),
            phase: Family::default(),
            lag: Family::default(),
            held: Family::default(),
            repairs: Family::default(),
            seeded: Family::default(),
            to_seed: Family::default(),
            registry: Registry::default(),
        };
        registry.register(
            "reconcile",
            "Turns by outcome; alert on a rising rate of error",
            metrics.turns.clone(),
        );
        registry.register(
            "migration_phase",
            "1 for the observed phase of a migration, 0 for the others",
            metrics.phase.clone(),
        );
        registry.register_with_unit(
            "replication_lag",
            "Distance of the target's leader behind the primary",
            Unit::Bytes,
            metrics.lag.clone(),
        );
        registry.register_with_unit(
            "switchover_held",
            "Time for which clients were held in the last switchover",
            Unit::Seconds,
            metrics.held.clone(),
        );
        registry.register(
            "routing_repairs",
            "Changes of the routing by others that were put right; alert on a rising one",
            metrics.repairs.clone(),
        );
        registry.register_with_unit(
            "seeding_sent",
            "What a clone has received; its rate tells how fast it is",
            Unit::Bytes,
            metrics.seeded.clone(),
        );
        registry.register_with_unit(
            "seeding_total",
            "What a clone will have received, as its source estimates it",
            Unit::Bytes,
            metrics.to_seed.clone(),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts one turn.
    pub fn count_turn(&self, outcome: &'static str) {
        self.turns.get_or_create(&Turn { outcome }).inc();
    }

    /// Takes what a status says.
    pub fn take_status(&self, namespace: &str, name: &str, status: &ClusterMigrationStatus) {
        for phase in Phase::ALL {
            let labels = InPhase {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                phase: phase.as_str(),
            };
            self.phase.get_or_create(&labels).set(i64::from(status.phase == phase));
        }
        let labels = Migration {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let lag = status
            .members
            .iter()
            .find(|member| member.side == Side::Target)
            .and_then(|member| member.lag_bytes);
        if let Some(bytes) = lag {
            self.lag
                .get_or_create(&labels)
                .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        for seeding in &status.seeding {
            let labels = Seeding {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                member: seeding.member.clone(),
            };
            let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            self.seeded.get_or_create(&labels).set(bytes(seeding.bytes_done));
            self.to_seed.get_or_create(&labels).set(bytes(seeding.bytes_total));
        }
        let repairs = status.routing_drift.as_ref().map_or(0, |drift| drift.repairs);
        self.repairs
            .get_or_create(&labels)
            .inner()
            .store(repairs, Ordering::Relaxed);
        let certificate = status
            .switchover
            .as_ref()
            .and_then(|record| record.certificate.as_ref());
        if let Some(certificate) = certificate {
            let seconds = std::time::Duration::from_millis(u64::try_from(certificate.held_milliseconds).unwrap_or(0));
            self.held.get_or_create(&labels).set(seconds.as_secs_f64());
        }
    }

    /// Everything in the text format of OpenMetrics.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
