//! The control plane's keys: an authority, the API server's certificate, the key that signs ServiceAccount tokens.
//! Made anew for every lab; P-256 takes about a millisecond, where kube-apiserver's own RSA pair takes half a second.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// By which names clients call the API server.
const NAMES: [&str; 9] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    "10.0.0.10",
    "10.96.0.1",
    "2001:db8:10::10",
];

/// Writes `ca.crt`, `server.crt`, `server.key`, `kubelets.crt` and `kubelets.key` (with which the API server asks kubelets),
/// `accounts.key` and `accounts.pub`.
pub(crate) fn write(directory: &Path) -> Result<()> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::<String>::new())?;
    authority.distinguished_name.push(DnType::CommonName, "lab");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_certificate = authority.self_signed(&authority_key)?;

    let issuer = Issuer::from_params(&authority, &authority_key);
    let sign = |purpose, names: &[&str]| -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut certificate = CertificateParams::new(names)?;
        certificate.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        certificate.extended_key_usages = vec![purpose];
        Ok((certificate.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    let server = sign(ExtendedKeyUsagePurpose::ServerAuth, &NAMES)?;
    let kubelets = sign(ExtendedKeyUsagePurpose::ClientAuth, &[])?;

    // kube-apiserver reads private keys of this kind to sign with, but wants the public half to verify with.
    let accounts_key = KeyPair::generate()?;
    let files = [
        ("ca.crt", authority_certificate.pem()),
        ("server.crt", server.0),
        ("server.key", server.1),
        ("kubelets.crt", kubelets.0),
        ("kubelets.key", kubelets.1),
        ("accounts.key", accounts_key.serialize_pem()),
        ("accounts.pub", accounts_key.public_key_pem()),
    ];
    for (name, text) in files {
        fs::write(directory.join(name), text).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}
