//! Actions on PgBouncer.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::{Actor, Error};
use crate::{
    decide::PoolerOrder,
    pgbouncer::{pause, resume, wait_for_logins},
    postgres::{self, Login},
};

impl Actor<'_> {
    fn console(&self) -> Result<&Login, Error> {
        let login = self.credentials.map(|credentials| credentials.pgbouncer.as_ref());
        match login {
            Some(Ok(login)) => Ok(login),
            Some(Err(because)) => Err(Error::Outdated(because.clone())),
            None => Err(Error::Outdated("the Secrets are not usable any more".to_owned())),
        }
    }

    /// Tells all instances at once. What one of them does not do is seen in the next look, and keeps nobody from telling the others.
    pub(super) async fn pause_poolers(&self, orders: &[PoolerOrder]) -> Result<(), Error> {
        let login = self.console()?;
        let pgbouncer = self.seen.migration.spec.pgbouncer();
        // The other half is for the transactions.
        let patience = pgbouncer.map_or(Duration::ZERO, |pgbouncer| Duration::from(pgbouncer.pause_timeout) / 2);
        let deadline = Instant::now() + patience;
        let told = orders.iter().map(async |order| {
            for database in &order.databases {
                let ready = async {
                    let console = login.connect(&order.address).await?;
                    wait_for_logins(&console, database, deadline).await?;
                    Ok::<_, postgres::Error>(console)
                };
                let ready = ready.await;
                // Nobody would let those go on whom a process that was frozen pauses later.
                self.ensure_lease()?;
                let paused = async { pause(ready?, database).await };
                if let Err(because) = paused.await {
                    tracing::warn!(pgbouncer = order.name, %database, %because, "not paused");
                }
            }
            Ok(())
        });
        join_all(told).await.into_iter().collect()
    }

    /// Tells all instances at once.
    pub(super) async fn resume_poolers(&self, orders: &[PoolerOrder]) -> Result<(), Error> {
        let login = self.console()?;
        let told = orders.iter().map(async |order| {
            let resumed = async { resume(&*self.sessions.get(login, &order.address).await?, &order.databases).await };
            resumed.await.map_err(|because| Error::Postgres {
                member: format!("PgBouncer {}", order.name),
                because,
            })
        });
        join_all(told).await.into_iter().collect()
    }
}
