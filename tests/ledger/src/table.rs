//! The table in the database.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{TryStreamExt, pin_mut};

use crate::check::Row;
use crate::connect::Endpoint;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS ledger (run bigint, client int, seq bigint, \
                      at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (run, client, seq))";
/// Without indexes the table itself is read, so a row that is there twice or that an index does not know is seen.
const READ_THE_TABLE_ITSELF: &str =
    "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off";
const READ: &str = "SELECT run, client, seq FROM ledger WHERE run = ANY($1)";
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const READ_DEADLINE: Duration = Duration::from_mins(2);

/// Makes the table if need be.
pub(crate) async fn create(endpoint: &Endpoint) -> Result<()> {
    let session = endpoint
        .connect(CONNECT_DEADLINE)
        .await
        .with_context(|| format!("cannot connect to {}", endpoint.name()))?;
    let created = tokio::time::timeout(CONNECT_DEADLINE, session.client.batch_execute(CREATE)).await;
    created
        .context("making the table ledger took too long: look for a lock")?
        .context("cannot make the table ledger")
}

/// The statement that writes one row. As text, so that it is one round trip and suits every pooler.
pub(crate) fn insert(run: i64, client: u32, seq: i64) -> String {
    format!("INSERT INTO ledger (run, client, seq) VALUES ({run}, {client}, {seq})")
}

/// All rows of some runs.
pub(crate) async fn rows(endpoint: &Endpoint, runs: &[i64]) -> Result<Vec<Row>> {
    let session = endpoint
        .connect(CONNECT_DEADLINE)
        .await
        .with_context(|| format!("cannot connect to {}", endpoint.name()))?;
    let reading = async {
        session.client.batch_execute(READ_THE_TABLE_ITSELF).await?;
        let found = session.client.query_raw(READ, [runs]).await?;
        pin_mut!(found);
        let mut rows = Vec::new();
        while let Some(row) = found.try_next().await? {
            let client: i32 = row.try_get(1)?;
            rows.push(Row {
                run: row.try_get(0)?,
                client: client.cast_unsigned(),
                seq: row.try_get(2)?,
            });
        }
        Ok::<_, tokio_postgres::Error>(rows)
    };
    let rows = tokio::time::timeout(READ_DEADLINE, reading).await;
    rows.context("reading the table ledger took too long")?
        .with_context(|| format!("cannot read the table ledger of {}", endpoint.name()))
}
