//! The site's certificate authority.

use std::fs;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::state::State;

const VALID_YEARS: i32 = 10;

/// A certificate of the site's authority with its private key, both as PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

/// Makes the authority on first use and returns its certificate as PEM.
pub(crate) fn authority(state: &State) -> Result<String> {
    let (file, key_file) = (state.path("ca.crt"), state.path("ca.key"));
    if key_file.exists() {
        return fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()));
    }
    let key = KeyPair::generate()?;
    let certificate = authority_parameters()?.self_signed(&key)?.pem();
    fs::write(&file, &certificate)?;
    fs::write(&key_file, key.serialize_pem())?;
    Ok(certificate)
}

/// Issues a certificate for clients and servers; each subject alternative name is an IP address or a DNS name.
pub(crate) fn issue(state: &State, common_name: &str, names: &[String]) -> Result<Certificate> {
    authority(state)?;
    let authority_key = KeyPair::from_pem(&fs::read_to_string(state.path("ca.key"))?)?;
    let mut parameters = CertificateParams::new(names.to_vec())
        .context("a subject alternative name is neither an IP address nor a DNS name")?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters.use_authority_key_identifier_extension = true;
    limit_validity(&mut parameters);
    let key = KeyPair::generate()?;
    let certificate = parameters.signed_by(&key, &Issuer::new(authority_parameters()?, authority_key))?;
    Ok(Certificate {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn authority_parameters() -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, "Mitosis test site");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit_validity(&mut parameters);
    Ok(parameters)
}

/// Whole years, counted from the start of this one in UTC.
fn limit_validity(parameters: &mut CertificateParams) {
    let year = i32::from(jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).year());
    parameters.not_before = date_time_ymd(year, 1, 1);
    parameters.not_after = date_time_ymd(year + VALID_YEARS, 1, 1);
}
