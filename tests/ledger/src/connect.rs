//! Connections to one endpoint, with the encryption modes of libpq.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How a connection is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    Disable,
    /// With any certificate.
    Require,
    /// With a certificate for the host's name, issued by the authority in this PEM file.
    VerifyFull(PathBuf),
}

/// Where and how to connect.
#[derive(Clone)]
pub struct Endpoint {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

/// An open session; the driver is ended with it.
pub(crate) struct Session {
    pub(crate) client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // A driver whose server is silent would keep the socket open for ever.
        self.driver.abort();
    }
}

impl Endpoint {
    /// Reads a connection string such as `host=10.20.0.11 port=5432 user=app password=... dbname=app`; `hostaddr` beside `host`
    /// connects to an address and verifies the name. `sslmode` and `sslrootcert` are given as `encryption` instead.
    pub fn new(connection: &str, encryption: &Encryption) -> Result<Self> {
        let mut config: Config = connection
            .parse()
            .context("the connection string is damaged; sslmode and sslrootcert are separate options")?;
        config.application_name("ledger");
        let tls = match encryption {
            Encryption::Disable => None,
            Encryption::Require => Some(any_certificate()?),
            Encryption::VerifyFull(file) => Some(verified(file)?),
        };
        config.ssl_mode(if tls.is_some() {
            SslMode::Require
        } else {
            SslMode::Disable
        });
        Ok(Self { config, tls })
    }

    /// Host, port and database, without secrets.
    #[must_use]
    pub fn name(&self) -> String {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            tokio_postgres::config::Host::Tcp(name) => name.clone(),
            tokio_postgres::config::Host::Unix(folder) => folder.display().to_string(),
        });
        let addresses = self.config.get_hostaddrs().iter().map(ToString::to_string);
        let host = hosts.chain(addresses).collect::<Vec<_>>().join("=");
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("{host}:{port}/{}", self.config.get_dbname().unwrap_or_default())
    }

    /// Connects; the deadline covers everything up to the ready session.
    pub(crate) async fn connect(&self, deadline: Duration) -> Result<Session> {
        let opened = tokio::time::timeout(deadline, self.open()).await;
        let Ok(session) = opened else { bail!(TimedOut) };
        Ok(session?)
    }

    async fn open(&self) -> Result<Session, tokio_postgres::Error> {
        Ok(if let Some(tls) = &self.tls {
            let (client, connection) = self.config.connect(tls.clone()).await?;
            Session {
                client,
                driver: tokio::spawn(async { drop(connection.await) }),
            }
        } else {
            let (client, connection) = self.config.connect(NoTls).await?;
            Session {
                client,
                driver: tokio::spawn(async { drop(connection.await) }),
            }
        })
    }
}

/// The deadline of a connection or statement passed.
#[derive(Debug)]
pub(crate) struct TimedOut;

impl std::fmt::Display for TimedOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("deadline passed")
    }
}

impl std::error::Error for TimedOut {}

fn verified(file: &Path) -> Result<MakeRustlsConnect> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).with_context(|| format!("cannot read {}", file.display()))? {
        roots
            .add(certificate?)
            .with_context(|| format!("{} is not the certificate of an authority", file.display()))?;
    }
    Ok(MakeRustlsConnect::new(
        builder()?.with_root_certificates(roots).with_no_client_auth(),
    ))
}

fn any_certificate() -> Result<MakeRustlsConnect> {
    let verifier = Arc::new(AnyCertificate(ring::default_provider()));
    Ok(MakeRustlsConnect::new(
        builder()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth(),
    ))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    Ok(
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?,
    )
}

/// `sslmode=require` of libpq: encrypted, whoever the server is.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
