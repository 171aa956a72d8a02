//! Logins from Secrets. An unreadable Secret is not an empty one.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client};

use super::Error;
use crate::{
    api::{ClusterMigration, Side, TlsMode},
    postgres::Login,
};

/// Logins for both sides.
#[derive(Clone)]
pub struct Credentials {
    /// For the source.
    pub source: Login,
    /// For the target: the same user, whose role was cloned, verified by the target's CA.
    pub target: Login,
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
    Ok(read(migration, login, tls))
}

fn read(migration: &ClusterMigration, login: Option<Secret>, tls: Option<Secret>) -> Result<Credentials, String> {
    let source = &migration.spec.source;
    let name = &source.credentials.secret_name;
    let login = login
        .ok_or_else(|| {
            format!(
                "Secret {name} (spec.source.credentials) does not exist: create it with the keys username and password"
            )
        })?
        .data
        .unwrap_or_default();
    let user = text(&login, name, "username")?;
    let password = text(&login, name, "password")?;
    let ca = login.get("ca.crt").map(|value| value.0.clone());
    if source.tls == TlsMode::VerifyFull && ca.is_none() {
        return Err(format!(
            "Secret {name} has no key ca.crt: add the CA certificate (PEM) of the source, or set spec.source.tls to disable"
        ));
    }
    let tls_name = &migration.spec.target.tls.secret_name;
    let tls = tls
        .ok_or_else(|| format!("Secret {tls_name} (spec.target.tls) does not exist: create it with the keys tls.crt, tls.key and ca.crt"))?
        .data
        .unwrap_or_default();
    for key in ["tls.crt", "tls.key", "ca.crt"] {
        text(&tls, tls_name, key)?;
    }
    let database = source.maintenance_database.clone();
    Ok(Credentials {
        source: Login {
            user: user.clone(),
            password: password.clone(),
            database: database.clone(),
            tls: source.tls,
            ca,
        },
        target: Login {
            user,
            password,
            database,
            tls: TlsMode::VerifyFull,
            ca: tls.get("ca.crt").map(|value| value.0.clone()),
        },
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
