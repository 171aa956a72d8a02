//! Actions on PgBouncer.

use futures::future::join_all;

use super::{Actor, Error};
use crate::{
    decide::PoolerOrder,
    pgbouncer::{pause, resume},
    postgres::Login,
};

impl Actor<'_> {
    fn console(&self) -> Result<&Login, Error> {
        let login = self.credentials.and_then(|credentials| credentials.pgbouncer.as_ref());
        login.ok_or_else(|| Error::Outdated("the Secret of PgBouncer is not usable any more".to_owned()))
    }

    /// Tells all instances at once. What one of them does not do is seen in the next look, and keeps nobody from telling the others.
    pub(super) async fn pause_poolers(&self, orders: &[PoolerOrder]) -> Result<(), Error> {
        let login = self.console()?;
        self.ensure_lease()?;
        let told = orders.iter().map(async |order| {
            if let Err(because) = pause(login, &order.address, &order.databases).await {
                tracing::warn!(pgbouncer = order.name, %because, "not paused");
            }
        });
        join_all(told).await;
        Ok(())
    }

    /// As for a pause.
    pub(super) async fn resume_poolers(&self, orders: &[PoolerOrder]) -> Result<(), Error> {
        let login = self.console()?;
        let told = orders.iter().map(async |order| {
            let resumed = async { resume(&*self.sessions.get(login, &order.address).await?, &order.databases).await };
            if let Err(because) = resumed.await {
                tracing::warn!(pgbouncer = order.name, %because, "not resumed");
            }
        });
        join_all(told).await;
        Ok(())
    }
}
