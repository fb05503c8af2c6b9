//! A small certificate authority for the folder, and certificates for the servers and the proxy.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::error::{Error, Result};
use crate::files;

/// Makes `ca.pem`, `server-cert.pem`, `server-key.pem`, `proxy-cert.pem` and `proxy-key.pem` unless they exist.
pub(crate) fn ensure(dir: &Path) -> Result<()> {
    // Written last, so its presence says that all are there.
    if dir.join("proxy-key.pem").exists() {
        return Ok(());
    }
    files::make_dir(dir)?;
    let bad = |e: rcgen::Error| Error::Command { what: "making certificates".into(), detail: e.to_string() };
    let ca_key = KeyPair::generate().map_err(bad)?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "usher playground CA");
    let ca_cert = ca.self_signed(&ca_key).map_err(bad)?;
    let issuer = Issuer::new(ca, ca_key);
    files::write_private(&dir.join("ca.pem"), ca_cert.pem().as_bytes())?;
    for name in ["server", "proxy"] {
        let key = KeyPair::generate().map_err(bad)?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut leaf = CertificateParams::new(names).map_err(bad)?;
        leaf.distinguished_name.push(DnType::CommonName, format!("usher playground {name}"));
        let cert = leaf.signed_by(&key, &issuer).map_err(bad)?;
        files::write_private(&dir.join(format!("{name}-cert.pem")), cert.pem().as_bytes())?;
        files::write_private(&dir.join(format!("{name}-key.pem")), key.serialize_pem().as_bytes())?;
    }
    Ok(())
}
