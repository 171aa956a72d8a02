//! PgBouncer, by its admin console over SQL: what it has, and how it is paused and resumed.
//!
//! A database is paused from the moment of the command on, also when the session that gave it ends: the command's answer, which comes when
//! the last server connection is released, need not be waited for (seen with PgBouncer 1.18 and 1.24). `PAUSE` without a database is not
//! used: no view of 1.18 shows it.

mod name;

use std::time::Duration;

pub use name::DatabaseName;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::SimpleQueryRow;

use crate::postgres::{Error, Session};

/// Database of the console.
pub const CONSOLE: &str = "pgbouncer";
/// How long the console may take for an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long an answer to `PAUSE` is waited for; a database whose server connections are idle has paused by then.
const AT_ONCE: Duration = Duration::from_millis(20);
/// Between two looks at logins, which take 5 to 20 ms.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// What an instance of PgBouncer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its databases, without that of the console.
    pub databases: Vec<Database>,
    /// How it works, where that was asked.
    pub settings: Option<Settings>,
}

/// A database of PgBouncer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its name.
    pub name: DatabaseName,
    /// Whether its clients wait.
    pub paused: bool,
    /// Connections to servers: while it is paused, each that is left has a transaction.
    pub server_connections: u64,
    /// Whether servers are released at the end of a session only, where the database says how.
    pub pools_sessions: Option<bool>,
    /// Whether it keeps servers for clients to come (`min_pool_size`), for which it logs in while it is paused as well.
    pub keeps_servers: bool,
}

/// Settings of PgBouncer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether several processes share its port, of which a session reaches any.
    pub shares_port: bool,
    /// Whether servers are released at the end of a session only, where the database does not say how.
    pub pools_sessions: bool,
    /// How long a client waits for a server before it gets an error; none when it waits for ever.
    pub query_wait: Option<Duration>,
}

/// Whether a `pool_mode` keeps the server until the client leaves.
fn pools_sessions(mode: &str) -> bool {
    mode == "session"
}

/// Reads the databases. One whose name is none that the operator would say is left out: PgBouncer may list whatever a client asked for.
///
/// # Errors
/// The console does not answer, refuses, or says what is not understood.
pub async fn fetch_databases(console: &Session) -> Result<Vec<Database>, Error> {
    let what = "SHOW DATABASES";
    let rows = console.ask(what, ANSWER, what).await?;
    let named = rows.iter().filter_map(|row| {
        let name = row.try_get("name").ok().flatten()?;
        Some((row, name.parse().ok().filter(|_| name != CONSOLE)?))
    });
    named.map(|(row, name)| read_database(what, row, name)).collect()
}

fn read_database(what: &'static str, row: &SimpleQueryRow, name: DatabaseName) -> Result<Database, Error> {
    let unexpected = |because: String| Error::Answer { what, because };
    let field = |name: &str| {
        let value = row.try_get(name).ok().flatten();
        value.ok_or_else(|| unexpected(format!("a row has no column {name}")))
    };
    let connections = field("current_connections")?;
    Ok(Database {
        paused: field("paused")? == "1",
        server_connections: connections
            .parse()
            .map_err(|_| unexpected(format!("current_connections is {connections}")))?,
        pools_sessions: row
            .try_get("pool_mode")
            .ok()
            .flatten()
            .filter(|mode| !mode.is_empty())
            .map(pools_sessions),
        keeps_servers: row
            .try_get("min_pool_size")
            .ok()
            .flatten()
            .is_some_and(|size| size != "0"),
        name,
    })
}

/// Reads the settings.
///
/// # Errors
/// The console does not answer, refuses, or says what is not understood.
pub async fn fetch_settings(console: &Session) -> Result<Settings, Error> {
    let what = "SHOW CONFIG";
    let rows = console.ask(what, ANSWER, what).await?;
    let value = |key: &str| {
        let row = rows.iter().find(|row| row.try_get("key").ok().flatten() == Some(key));
        row.and_then(|row| row.try_get("value").ok().flatten())
    };
    let missing = |key: &str| Error::Answer {
        what,
        because: format!("{key} is missing"),
    };
    let wait = value("query_wait_timeout").ok_or_else(|| missing("query_wait_timeout"))?;
    let wait: f64 = wait.parse().map_err(|_| Error::Answer {
        what,
        because: format!("query_wait_timeout is {wait}"),
    })?;
    Ok(Settings {
        // Absent where the system cannot share ports.
        shares_port: value("so_reuseport").is_some_and(|value| value != "0"),
        pools_sessions: pools_sessions(value("pool_mode").ok_or_else(|| missing("pool_mode"))?),
        query_wait: Duration::try_from_secs_f64(wait).ok().filter(|wait| !wait.is_zero()),
    })
}

/// How many of PgBouncer's logins to a server of a database are under way.
///
/// # Errors
/// The console does not answer, refuses, or says what is not understood.
pub async fn count_logins(console: &Session, database: &DatabaseName) -> Result<u64, Error> {
    let what = "SHOW POOLS";
    let rows = console.ask(what, ANSWER, what).await?;
    let pools = rows
        .iter()
        .filter(|row| row.try_get("database").ok().flatten() == Some(database.as_str()));
    pools
        .map(|row| {
            let logins = row.try_get("sv_login").ok().flatten();
            logins
                .and_then(|logins| logins.parse::<u64>().ok())
                .ok_or_else(|| Error::Answer {
                    what,
                    because: format!("sv_login is {logins:?}"),
                })
        })
        .sum()
}

/// Waits until PgBouncer logs in to no server of a database, or until `deadline`: a login that takes longer is likely to fail anyway.
///
/// A pause ends a login that it meets, and PgBouncer takes that for a failed one: it turns clients away after it is resumed, until
/// `server_login_retry` is over (seen with PgBouncer 1.18 and 1.24).
///
/// # Errors
/// The console does not answer, refuses, or says what is not understood.
pub async fn wait_for_logins(console: &Session, database: &DatabaseName, deadline: Instant) -> Result<(), Error> {
    while count_logins(console, database).await? > 0 && Instant::now() < deadline {
        sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}

/// Tells an instance to pause a database. That its transactions end is observed, not waited for.
///
/// It takes the session: one that waits for its answer takes no further command.
///
/// # Errors
/// The console does not answer or refuses.
pub async fn pause(console: Session, database: &DatabaseName) -> Result<(), Error> {
    let command = format!("PAUSE {}", database.quoted());
    match timeout(AT_ONCE, console.ask("PAUSE", ANSWER, &command)).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Ok(()),
    }
}

/// Tells an instance to resume databases.
///
/// # Errors
/// The console does not answer, at which the others are not told, or refuses; they are told then.
pub async fn resume(console: &Session, databases: &[DatabaseName]) -> Result<(), Error> {
    let mut refused = Ok(());
    for database in databases {
        let command = format!("RESUME {}", database.quoted());
        match console.ask("RESUME", ANSWER, &command).await {
            Ok(_) => {}
            Err(error @ Error::Deadline { .. }) => return Err(error),
            Err(error) => refused = Err(error),
        }
    }
    refused
}
