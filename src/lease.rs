//! Who acts: only the holder of the Lease. A Lease does not fence, so every effect is recorded and checked at its site as well.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{api::coordination::v1::Lease as LeaseObject, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::{Api, Client};
use kube_lease_manager::LeaseManagerBuilder;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, interval, timeout},
};

use crate::config::OperatorArgs;

/// How often it is confirmed that the Lease is renewed.
const CONFIRM: Duration = Duration::from_secs(1);

/// The right to act.
#[derive(Clone)]
pub struct Lease {
    held: watch::Receiver<bool>,
    renewal: Arc<Mutex<Renewal>>,
    /// How long after its last renewal was seen this process still acts.
    patience: Duration,
}

/// The newest renewal of the Lease by this process, and when it was first seen, by a clock that a frozen process cannot miss.
#[derive(Default)]
struct Renewal {
    time: Option<MicroTime>,
    seen: Option<Instant>,
}

impl Lease {
    /// Starts to compete for the Lease. The task ends when the competition cannot go on.
    ///
    /// # Errors
    /// The API server refuses access to the Lease.
    pub async fn compete(
        client: Client,
        args: &OperatorArgs,
    ) -> Result<(Self, JoinHandle<()>), kube_lease_manager::LeaseManagerError> {
        let grace = args.lease_seconds / 3;
        let manager = LeaseManagerBuilder::new(client.clone(), &args.lease)
            .with_namespace(&args.namespace)
            .with_identity(&args.pod)
            .with_duration(args.lease_seconds)
            .with_grace(grace)
            .build()
            .await?;
        let (held, task) = manager.watch().await;
        let task = tokio::spawn(async move {
            match task.await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::error!(%error, "the Lease cannot be kept"),
                Err(error) => tracing::error!(%error, "the Lease's task ended"),
            }
        });
        let lease = Self {
            held,
            renewal: Arc::default(),
            // It is renewed when `grace` seconds are left, and seen at most a confirmation later.
            patience: Duration::from_secs(args.lease_seconds).saturating_sub(CONFIRM * 2),
        };
        let api: Api<LeaseObject> = Api::namespaced(client, &args.namespace);
        tokio::spawn(confirm(
            api,
            args.lease.clone(),
            args.pod.clone(),
            Arc::downgrade(&lease.renewal),
        ));
        Ok((lease, task))
    }

    /// A right to act that ends after a while and is renewed by nobody: for acting where no API server is, as the tests do.
    #[must_use]
    pub fn for_now(patience: Duration) -> Self {
        let renewal = Renewal {
            time: None,
            seen: Some(Instant::now()),
        };
        Self {
            held: watch::channel(true).1,
            renewal: Arc::new(Mutex::new(renewal)),
            patience,
        }
    }

    /// Whether this process holds the Lease now: its renewal was seen so lately that nobody else can have taken it since.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        *self.held.borrow() && renewal.seen.is_some_and(|seen| seen.elapsed() < self.patience)
    }

    /// Waits until this process holds the Lease, or until nobody can tell any more.
    pub async fn acquired(&mut self) -> bool {
        if self.held.wait_for(|held| *held).await.is_err() {
            return false;
        }
        while !self.is_held() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }

    /// Waits until this process lost the Lease.
    pub async fn lost(&mut self) {
        // An error means that the competition ended, which is a loss as well.
        let _ = self.held.wait_for(|held| !*held).await;
    }
}

/// Looks at the Lease itself, uncached, for as long as somebody asks for it.
async fn confirm(api: Api<LeaseObject>, name: String, identity: String, renewal: std::sync::Weak<Mutex<Renewal>>) {
    let mut ticks = interval(CONFIRM);
    loop {
        ticks.tick().await;
        // What is seen is at least as old as the question.
        let asked = Instant::now();
        let answer = timeout(CONFIRM * 3, api.get(&name)).await;
        let Some(renewal) = renewal.upgrade() else { return };
        let Ok(Ok(found)) = answer else { continue };
        let spec = found.spec.unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&identity) {
            continue;
        }
        let mut renewal = renewal.lock().unwrap_or_else(PoisonError::into_inner);
        if renewal.time != spec.renew_time {
            renewal.time = spec.renew_time;
            renewal.seen = Some(asked);
        }
    }
}
