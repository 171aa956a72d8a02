//! Certificates and keys of the cluster.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use crate::network::{API_SERVICE, GATEWAY, NODE};
use crate::state::State;

/// Makes the certificates unless they are there. They appear all at once.
pub(crate) fn make(state: &State) -> Result<()> {
    let folder = state.path("pki");
    if folder.exists() {
        return Ok(());
    }
    let partial = state.path("pki.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir(&partial)?;
    write_all(&partial)?;
    Ok(fs::rename(partial, folder)?)
}

fn write_all(folder: &Path) -> Result<()> {
    let mut authority = named("mitosis-bed", None);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    fs::write(folder.join("ca.crt"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);

    let api_names = [
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    let api_addresses = ["127.0.0.1".parse()?, GATEWAY, API_SERVICE];
    certificate(
        folder,
        "apiserver",
        named("kube-apiserver", None),
        &api_names,
        &api_addresses,
        &issuer,
    )?;
    certificate(
        folder,
        "admin",
        named("admin", Some("system:masters")),
        &[],
        &[],
        &issuer,
    )?;
    for (file, user) in [
        ("controllers", "system:kube-controller-manager"),
        ("scheduler", "system:kube-scheduler"),
        ("proxy", "system:kube-proxy"),
    ] {
        certificate(folder, file, named(user, None), &[], &[], &issuer)?;
    }
    let kubelet = named(&format!("system:node:{NODE}"), Some("system:nodes"));
    certificate(folder, "kubelet", kubelet, &[NODE], &[GATEWAY], &issuer)?;

    // Signs service account tokens.
    let accounts = KeyPair::generate()?;
    write_secret(&folder.join("sa.key"), &accounts.serialize_pem())?;
    Ok(fs::write(folder.join("sa.pub"), accounts.public_key_pem())?)
}

fn named(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        parameters
            .distinguished_name
            .push(DnType::OrganizationName, organization);
    }
    parameters
}

/// Writes the certificate and key of one component, which is a server at the names and addresses and a client everywhere.
fn certificate(
    folder: &Path,
    file: &str,
    mut parameters: CertificateParams,
    names: &[&str],
    addresses: &[IpAddr],
    issuer: &Issuer<KeyPair>,
) -> Result<()> {
    for name in names {
        parameters.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
    }
    parameters
        .subject_alt_names
        .extend(addresses.iter().copied().map(SanType::IpAddress));
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    fs::write(
        folder.join(format!("{file}.crt")),
        parameters.signed_by(&key, issuer)?.pem(),
    )?;
    write_secret(&folder.join(format!("{file}.key")), &key.serialize_pem())
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
