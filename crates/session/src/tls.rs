//! TLS towards clients: certificate and key, and the authorities of clients' own certificates, which can all be read
//! anew while clients are served.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::ring::{self, Ticketer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// The files that TLS towards clients is made of, all PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities of clients' certificates; none are asked for without it.
    pub client_ca: Option<PathBuf>,
}

/// What a file looked like: changed if it differs. Its inode tells of files that are put in place of others.
type Stamp = Vec<Option<(SystemTime, u64, u64)>>;

/// TLS towards clients. Connections keep what they began with.
#[derive(Debug)]
pub struct ClientTls {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    /// The files as they were last tried.
    seen: Mutex<Stamp>,
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file that can't be read or makes no sense.
    pub fn load(files: TlsFiles) -> io::Result<Self> {
        let seen = Mutex::new(stamp(&files));
        let current = ArcSwap::from(server_config(&files)?);
        Ok(Self { files, current, seen })
    }

    /// Reads the files anew, for connections from now on. Sessions of TLS from before are not resumed.
    ///
    /// # Errors
    /// As [`ClientTls::load`]; what was in use stays in use.
    pub fn reload(&self) -> io::Result<()> {
        let mut seen = self.seen.lock();
        *seen = stamp(&self.files);
        self.current.store(server_config(&self.files)?);
        Ok(())
    }

    /// Whether a file is another than when they were last read.
    pub fn has_changed(&self) -> bool {
        *self.seen.lock() != stamp(&self.files)
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let paths = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
    let of = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
    };
    paths.into_iter().map(|path| path.and_then(of)).collect()
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| named(path, &error))?;
    if read.is_empty() { Err(named(path, &"no certificate in it")) } else { Ok(read) }
}

fn server_config(files: &TlsFiles) -> io::Result<Arc<ServerConfig>> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| named(&files.key, &error))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match &files.client_ca {
        Some(path) => builder.with_client_cert_verifier(verifier(path)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| named(&files.cert, &error))?;
    // Sessions are resumed by what the client keeps: nothing is kept here for those that never come back.
    config.ticketer = Ticketer::new().map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

/// Who has no certificate may log in all the same, unless the account requires one.
fn verifier(path: &Path) -> io::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| named(path, &error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
        .allow_unauthenticated()
        .build()
        .map_err(|error| named(path, &error))
}
