//! Logins from Secrets. An unreadable Secret is not an empty one.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client};

use super::Error;
use crate::{
    api::{ClusterMigration, CredentialsRef, Side, TlsMode},
    pgbouncer::CONSOLE,
    postgres::{Login, Speaker},
};

/// Logins for both sides.
#[derive(Clone)]
pub struct Credentials {
    /// For the source.
    pub source: Login,
    /// For the target: the same user, whose role was cloned, verified by the target's CA.
    pub target: Login,
    /// For the consoles of PgBouncer; else what is missing, which keeps nobody from looking at servers.
    pub pgbouncer: Result<Login, String>,
}

impl Credentials {
    /// The login for a side.
    #[must_use]
    pub const fn of(&self, side: Side) -> &Login {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }
}

/// Reads the Secrets that a migration names.
///
/// # Errors
/// The API server does not answer. A Secret that is missing or lacks a key is no error but a sentence for the user.
pub async fn fetch_credentials(
    client: &Client,
    migration: &ClusterMigration,
) -> Result<Result<Credentials, String>, Error> {
    let namespace = migration.metadata.namespace.as_deref().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let source = &migration.spec.source;
    let name = &source.credentials.secret_name;
    let tls_name = &migration.spec.target.tls.secret_name;
    let (login, tls) = (
        super::within(secrets.get_opt(name)).await?,
        super::within(secrets.get_opt(tls_name)).await?,
    );
    let console = match migration.spec.pgbouncer() {
        Some(pgbouncer) => super::within(secrets.get_opt(&pgbouncer.credentials.secret_name)).await?,
        None => None,
    };
    Ok(read(migration, login, tls, console))
}

fn read(
    migration: &ClusterMigration,
    login: Option<Secret>,
    tls: Option<Secret>,
    console: Option<Secret>,
) -> Result<Credentials, String> {
    let source = &migration.spec.source;
    let source_login = read_login(
        login,
        &source.credentials,
        "spec.source",
        source.tls,
        &source.maintenance_database,
        Speaker::Server,
    )?;
    let pgbouncer = migration
        .spec
        .pgbouncer()
        .ok_or("spec.traffic.pgbouncer is not set".to_owned());
    let pgbouncer = pgbouncer.and_then(|pgbouncer| {
        read_login(
            console,
            &pgbouncer.credentials,
            "spec.traffic.pgbouncer",
            pgbouncer.tls,
            CONSOLE,
            Speaker::Console,
        )
    });
    let tls_name = &migration.spec.target.tls.secret_name;
    let tls = tls
        .ok_or_else(|| format!("Secret {tls_name} (spec.target.tls) does not exist: create it with the keys tls.crt, tls.key and ca.crt"))?
        .data
        .unwrap_or_default();
    for key in ["tls.crt", "tls.key", "ca.crt"] {
        text(&tls, tls_name, key)?;
    }
    Ok(Credentials {
        target: Login {
            tls: TlsMode::VerifyFull,
            ca: tls.get("ca.crt").map(|value| value.0.clone()),
            ..source_login.clone()
        },
        source: source_login,
        pgbouncer,
    })
}

/// The login in a Secret that a part of the specification names.
fn read_login(
    secret: Option<Secret>,
    named: &CredentialsRef,
    part: &str,
    tls: TlsMode,
    database: &str,
    speaker: Speaker,
) -> Result<Login, String> {
    let name = &named.secret_name;
    let data = secret
        .ok_or_else(|| {
            format!("Secret {name} ({part}.credentials) does not exist: create it with the keys username and password")
        })?
        .data
        .unwrap_or_default();
    let ca = data.get("ca.crt").map(|value| value.0.clone());
    if tls == TlsMode::VerifyFull && ca.is_none() {
        return Err(format!(
            "Secret {name} has no key ca.crt: add the CA certificate (PEM), or set {part}.tls to disable"
        ));
    }
    Ok(Login {
        user: text(&data, name, "username")?,
        password: text(&data, name, "password")?,
        database: database.to_owned(),
        tls,
        ca,
        speaker,
    })
}

/// A value as text, without the line end that editors add.
fn text(data: &BTreeMap<String, ByteString>, secret: &str, key: &str) -> Result<String, String> {
    let value = data
        .get(key)
        .ok_or_else(|| format!("Secret {secret} has no key {key}: add it"))?;
    let text = std::str::from_utf8(&value.0)
        .map_err(|_| format!("key {key} of Secret {secret} is no text: write it as UTF-8"))?
        .trim_end_matches(['\n', '\r']);
    if text.is_empty() || (!key.contains('.') && text.contains(['\n', '\r', '\0'])) {
        return Err(format!(
            "key {key} of Secret {secret} is empty or has several lines: correct it"
        ));
    }
    Ok(text.to_owned())
}
