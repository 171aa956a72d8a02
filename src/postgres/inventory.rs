//! What a cluster uses of the machine it runs on: what an image for its copy must have.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Error, Login};
use crate::address::Address;

/// Time for the answer of one database.
const ANSWER: Duration = Duration::from_secs(5);
/// Version and databases. One whose DROP DATABASE was interrupted (-2) lets nobody in.
const DATABASES: &str = "SELECT json_build_array(current_setting('server_version_num')::int, coalesce(json_agg(datname ORDER BY datname), '[]')) \
    FROM pg_database WHERE datallowconn AND datconnlimit <> -2";
/// The question to PostgreSQL from 15 on.
static INVENTORY: LazyLock<String> = LazyLock::new(|| ask_with("pg_database_collation_actual_version(p.oid)"));
/// The same before, where a database's own collation tells no version; all of the C library have the same, but for C.UTF-8, which has none.
static INVENTORY_14: LazyLock<String> = LazyLock::new(|| {
    ask_with(
        "CASE WHEN datcollate NOT IN ('C', 'POSIX') AND datcollate NOT ILIKE 'C.%' \
         THEN (SELECT max(pg_collation_actual_version(oid)) FROM pg_collation WHERE collprovider = 'c') END",
    )
});

fn ask_with(version_of_database: &str) -> String {
    include_str!("inventory.sql").replace("{version_of_database}", version_of_database)
}

/// What a cluster uses of the machine it runs on, in all of its databases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Inventory {
    /// The processor, such as `x86_64`.
    pub platform: String,
    /// Sizes that its programs were built with, by their names in `pg_control_init()`.
    pub layout: BTreeMap<String, String>,
    /// Collations by which something is sorted on disk.
    pub collations: BTreeSet<Collation>,
    /// Locales of the C library that its databases cannot be opened without.
    pub locales: BTreeSet<String>,
    /// Extensions with the versions that databases have.
    pub extensions: BTreeMap<String, BTreeSet<String>>,
    /// Libraries of functions and those that are loaded at start, such as `$libdir/postgis-3`.
    pub libraries: BTreeSet<String>,
    /// Time zones by name.
    pub time_zones: BTreeSet<String>,
}

/// A collation by which something is sorted on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Collation {
    /// `c` for the C library, `i` for ICU, `b` for PostgreSQL's own.
    pub provider: String,
    /// Its locale, such as `de_DE.UTF-8`.
    pub locale: String,
    /// Version of the rules by which the provider sorts now; nothing where it has none.
    pub version: Option<String>,
}

/// The inventory, and what a copy of the cluster has otherwise. Of each kind eight of a database are named at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Listing {
    /// What it uses of its machine.
    #[serde(flatten)]
    pub inventory: Inventory,
    /// Unlogged tables, which are empty in a copy.
    pub unlogged: Vec<String>,
    /// Subscriptions of logical replication.
    pub subscriptions: Vec<String>,
    /// Databases and collations by which something was sorted with other rules than the libraries have now.
    pub stale_collations: Vec<String>,
}

impl Listing {
    fn add(&mut self, database: Self) {
        let (mine, its) = (&mut self.inventory, database.inventory);
        mine.platform = its.platform;
        mine.layout = its.layout;
        mine.collations.extend(its.collations);
        mine.locales.extend(its.locales);
        for (name, versions) in its.extensions {
            mine.extensions.entry(name).or_default().extend(versions);
        }
        mine.libraries.extend(its.libraries);
        mine.time_zones.extend(its.time_zones);
        self.unlogged.extend(database.unlogged);
        self.subscriptions.extend(database.subscriptions);
        self.stale_collations.extend(database.stale_collations);
    }
}

/// Asks every database of a server what it uses. Reads catalogs only.
///
/// # Errors
/// A database does not let the login in, does not answer within 5 s, or not as PostgreSQL 14 to 18 do.
pub async fn fetch_listing(login: &Login, address: &Address) -> Result<Listing, Error> {
    let what = "listing the databases";
    let session = login.connect(address).await?;
    let row = session.prepared_row(what, ANSWER, DATABASES, &[]).await?;
    let answer: serde_json::Value = row.try_get(0).map_err(Error::statement(what))?;
    let (version, databases): (u32, Vec<String>) = understand(what, answer)?;
    let question: &'static str = if version < 150_000 { &INVENTORY_14 } else { &INVENTORY };
    let mut listing = Listing::default();
    for database in databases {
        let what = "reading what a database uses";
        let session = login.connect_to(address, &database).await?;
        let row = session.prepared_row(what, ANSWER, question, &[]).await?;
        let answer: serde_json::Value = row.try_get(0).map_err(Error::statement(what))?;
        listing.add(understand(what, answer)?);
    }
    Ok(listing)
}

fn understand<T: serde::de::DeserializeOwned>(what: &'static str, answer: serde_json::Value) -> Result<T, Error> {
    serde_json::from_value(answer).map_err(|error| Error::Answer {
        what,
        because: error.to_string(),
    })
}
