//! Connections of the operator to servers: TLS, a deadline on everything, nothing that could be logged.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow, Statement, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{address::Address, api::TlsMode};

/// How long opening a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Settings of every session: names resolve to the system's own, and no statement of ours, which may hold a password,
/// reaches a log or the statistics of statements.
const SESSION_SETTINGS: &str = "SET search_path = pg_catalog; SET statement_timeout = '60s'; SET lock_timeout = '5s'; \
    SET default_transaction_read_only = off; SET synchronous_commit = local; SET client_min_messages = error";
const SUPERUSER_SETTINGS: &str = "SET log_statement = 'none'; SET log_min_duration_statement = -1; \
    SET log_min_error_statement = 'panic'; SET pg_stat_statements.track = 'none'";

/// Why a server could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers at the address, or not in time.
    #[error("{address} does not answer: {because}")]
    Unreachable {
        /// The address.
        address: Address,
        /// What the network said.
        because: String,
    },
    /// The server answers and refuses.
    #[error("{address} refuses the connection: {because}")]
    Refused {
        /// The address.
        address: Address,
        /// What the server or the TLS handshake said.
        because: String,
    },
    /// A statement failed.
    #[error("{what} failed: {because}")]
    Statement {
        /// What the statement was for.
        what: &'static str,
        /// What the server said.
        because: String,
    },
    /// A statement took too long; its outcome is unknown.
    #[error("{what} gave no answer within {seconds} s; its outcome is unknown")]
    Deadline {
        /// What the statement was for.
        what: &'static str,
        /// The deadline in seconds.
        seconds: u64,
    },
    /// A server's answer was not understood.
    #[error("{what} gave an answer that is not understood: {because}")]
    Answer {
        /// What the statement was for.
        what: &'static str,
        /// What was wrong.
        because: String,
    },
}

impl Error {
    pub(super) fn statement(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |error| Self::Statement {
            what,
            because: sentence(&error),
        }
    }
}

/// Who understands what is said in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// A PostgreSQL server.
    Server,
    /// The admin console of PgBouncer, whose `SET` changes the PgBouncer itself.
    Console,
}

/// A login and how its connections are protected.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Login {
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
    /// Database.
    pub database: String,
    /// TLS or none.
    pub tls: TlsMode,
    /// CA certificates (PEM) for `verify-full`.
    pub ca: Option<Vec<u8>>,
    /// Who is logged in to.
    pub speaker: Speaker,
}

impl Login {
    /// Opens a session.
    ///
    /// # Errors
    /// [`Error::Unreachable`] or [`Error::Refused`].
    pub async fn connect(&self, address: &Address) -> Result<Session, Error> {
        self.open(address, None, &self.database).await
    }

    /// Opens a session through a proxy that leads to the server of an address, as which the server must prove itself.
    ///
    /// # Errors
    /// [`Error::Unreachable`] or [`Error::Refused`].
    pub async fn connect_through(&self, proxy: SocketAddr, address: &Address) -> Result<Session, Error> {
        self.open(address, Some(proxy), &self.database).await
    }

    /// Opens a session in another database.
    ///
    /// # Errors
    /// [`Error::Unreachable`] or [`Error::Refused`].
    pub async fn connect_to(&self, address: &Address, database: &str) -> Result<Session, Error> {
        self.open(address, None, database).await
    }

    async fn open(&self, address: &Address, proxy: Option<SocketAddr>, database: &str) -> Result<Session, Error> {
        let mut config = tokio_postgres::Config::new();
        config.host(address.host.to_string());
        match proxy {
            Some(proxy) => config.hostaddr(proxy.ip()).port(proxy.port()),
            None => config.port(address.port.get()),
        };
        config
            .user(&self.user)
            .password(&self.password)
            .dbname(database)
            .application_name("mitosis")
            .connect_timeout(CONNECT_DEADLINE)
            .keepalives_idle(Duration::from_secs(5))
            .tcp_user_timeout(Duration::from_secs(10))
            .ssl_mode(match self.tls {
                TlsMode::VerifyFull => SslMode::Require,
                TlsMode::Disable => SslMode::Disable,
            });
        let refused = |because: String| Error::Refused {
            address: address.clone(),
            because,
        };
        let tls = match self.tls {
            TlsMode::VerifyFull => Some(self.tls_connector().map_err(refused)?),
            TlsMode::Disable => None,
        };
        let opened = timeout(CONNECT_DEADLINE, async {
            match tls {
                Some(tls) => config.connect(tls).await.map(|(client, connection)| {
                    tokio::spawn(connection);
                    client
                }),
                None => config.connect(NoTls).await.map(|(client, connection)| {
                    tokio::spawn(connection);
                    client
                }),
            }
        })
        .await;
        let client = match opened {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(classify(address, &error)),
            Err(_) => {
                return Err(Error::Unreachable {
                    address: address.clone(),
                    because: format!("no answer within {} s", CONNECT_DEADLINE.as_secs()),
                });
            }
        };
        let session = Session {
            client,
            prepared: Mutex::default(),
        };
        if self.speaker == Speaker::Server {
            session.batch("the session's settings", SESSION_SETTINGS).await?;
            // Fails without superuser rights, where there is nothing secret to say.
            let _ = session.batch("the session's logging", SUPERUSER_SETTINGS).await;
        }
        Ok(session)
    }

    fn tls_connector(&self) -> Result<MakeRustlsConnect, String> {
        let ca = self.ca.as_deref().ok_or(
            "tls is verify-full but the Secret has no key ca.crt: add the CA certificate (PEM), or set tls: disable",
        )?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            let certificate = certificate.map_err(|error| format!("ca.crt is not PEM: {error}"))?;
            roots
                .add(certificate)
                .map_err(|error| format!("ca.crt holds an unusable certificate: {error}"))?;
        }
        if roots.is_empty() {
            return Err("ca.crt holds no certificate: put the CA certificate (PEM) there".to_owned());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(MakeRustlsConnect::new(config))
    }
}

/// A server that answers and refuses says something else than one that is not there.
fn classify(address: &Address, error: &tokio_postgres::Error) -> Error {
    let because = sentence(error);
    let address = address.clone();
    // 57P03 (starting up, shutting down) and 53300 (no free connection) pass by themselves.
    let passing = error
        .code()
        .is_some_and(|code| matches!(code.code(), "57P03" | "57P01" | "57P02" | "53300"));
    let answered = error.code().is_some() || because.contains("certificate") || because.contains("TLS");
    if answered && !passing {
        Error::Refused { address, because }
    } else {
        Error::Unreachable { address, because }
    }
}

/// What went wrong, with its causes, without the query.
fn sentence(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// An open session.
pub struct Session {
    client: Client,
    /// Statements that were prepared, by their text: planning one costs more than running it.
    prepared: Mutex<HashMap<&'static str, Statement>>,
}

impl Session {
    /// Whether the connection ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements that give no rows, within 60 s.
    pub(super) async fn batch(&self, what: &'static str, sql: &str) -> Result<(), Error> {
        self.within(what, Duration::from_secs(60), self.client.batch_execute(sql))
            .await
    }

    /// Says something in the simple protocol, the only one that a console speaks, and gives the rows of its answer.
    ///
    /// # Errors
    /// [`Error::Statement`] or [`Error::Deadline`].
    pub async fn ask(
        &self,
        what: &'static str,
        deadline: Duration,
        command: &str,
    ) -> Result<Vec<SimpleQueryRow>, Error> {
        let messages = self.within(what, deadline, self.client.simple_query(command)).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Runs one statement that gives one row, within a deadline.
    pub(super) async fn row(
        &self,
        what: &'static str,
        deadline: Duration,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<tokio_postgres::Row, Error> {
        self.within(what, deadline, self.client.query_one(sql, parameters))
            .await
    }

    /// Runs one statement that gives one row, within a deadline; prepared once for the session.
    pub(super) async fn prepared_row(
        &self,
        what: &'static str,
        deadline: Duration,
        sql: &'static str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<tokio_postgres::Row, Error> {
        let work = async {
            let known = self.lock().get(sql).cloned();
            let statement = if let Some(statement) = known {
                statement
            } else {
                let statement = self.client.prepare(sql).await?;
                self.lock().insert(sql, statement.clone());
                statement
            };
            self.client.query_one(&statement, parameters).await
        };
        self.within(what, deadline, work).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Statement>> {
        // A panic while the map was locked leaves it whole: it only holds handles.
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn within<T>(
        &self,
        what: &'static str,
        deadline: Duration,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        match timeout(deadline, work).await {
            Ok(result) => result.map_err(Error::statement(what)),
            Err(_) => Err(Error::Deadline {
                what,
                seconds: deadline.as_secs(),
            }),
        }
    }
}
