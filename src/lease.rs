//! Who acts: only the holder of the Lease. A Lease does not fence, so every effect is recorded and checked at its site as well.

use kube::Client;
use kube_lease_manager::LeaseManagerBuilder;
use tokio::{sync::watch, task::JoinHandle};

use crate::config::OperatorArgs;

/// For how many seconds the Lease is valid after it was renewed.
const DURATION: u64 = 15;
/// How many seconds before its end it is renewed, and acting stops when it is not.
const GRACE: u64 = 5;

/// The right to act.
#[derive(Clone)]
pub struct Lease {
    held: watch::Receiver<bool>,
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
        let manager = LeaseManagerBuilder::new(client, &args.lease)
            .with_namespace(&args.namespace)
            .with_identity(&args.pod)
            .with_duration(DURATION)
            .with_grace(GRACE)
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
        Ok((Self { held }, task))
    }

    /// Whether this process holds the Lease now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    /// Waits until this process holds the Lease, or until nobody can tell any more.
    pub async fn acquired(&mut self) -> bool {
        self.held.wait_for(|held| *held).await.is_ok()
    }

    /// Waits until this process lost the Lease.
    pub async fn lost(&mut self) {
        // An error means that the competition ended, which is a loss as well.
        let _ = self.held.wait_for(|held| !*held).await;
    }
}
