//! TLS to a daemon, with certificates on both sides.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoint::TlsFiles;
use crate::error::{Error, Result};

pub async fn wrap(
    stream: TcpStream,
    host: &str,
    files: &TlsFiles,
) -> io::Result<TlsStream<TcpStream>> {
    let config = config(files).map_err(|error| io::Error::other(error.report()))?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

fn config(files: &TlsFiles) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots
            .add(certificate)
            .map_err(|error| bad(&files.ca, error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&files.ca, error.to_string()))?
        .with_root_certificates(roots);
    match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let secret =
                PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error.to_string()))?;
            config
                .with_client_auth_cert(chain, secret)
                .map_err(|error| bad(certificate, error.to_string()))
        }
        (None, None) => Ok(config.with_no_client_auth()),
        (Some(lone), None) | (None, Some(lone)) => Err(bad(
            lone,
            "a certificate and its key belong together".to_owned(),
        )),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<_, _>>);
    let found: Vec<_> = read.map_err(|error| bad(path, error.to_string()))?;
    if found.is_empty() {
        return Err(bad(path, "it holds no certificate".to_owned()));
    }
    Ok(found)
}

fn bad(path: &Path, reason: String) -> Error {
    Error::Tls {
        what: path.display().to_string(),
        reason,
    }
}
