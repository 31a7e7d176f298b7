//! TLS as doors serve it: a certificate of their own and, where clients have to prove who they are,
//! the authority that vouches for them. Files are PEM and read once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
pub use tokio_rustls::server::TlsStream;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path:?}")]
    File {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("the certificate {path:?} and its key do not serve")]
    Certificate {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{path:?} has no certificate of an authority")]
    NoAuthority { path: PathBuf },
    #[error("a certificate in {path:?} is no authority's")]
    Authority {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("clients cannot be verified by {path:?}")]
    Verifier {
        path: PathBuf,
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
}

/// A certificate and its key, ready to serve.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Tls")
    }
}

impl Tls {
    /// For any client: the certificate with its chain, and the key.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self> {
        Self::load(certificate, key, None)
    }

    /// Only for clients with a certificate that an authority in `authorities` issued.
    pub fn mutual(certificate: &Path, key: &Path, authorities: &Path) -> Result<Self> {
        Self::load(certificate, key, Some(authorities))
    }

    fn load(certificate: &Path, key: &Path, authorities: Option<&Path>) -> Result<Self> {
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
        let verifier = authorities.map(verifier).transpose()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| match verifier {
                None => builder.with_no_client_auth().with_single_cert(chain, key),
                Some(verifier) => builder
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(chain, key),
            })
            .map_err(|source| Error::Certificate {
                path: certificate.to_owned(),
                source,
            })?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Greets a client; an error is its failure, of whatever kind.
    pub async fn accept<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.0.accept(stream).await
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable(path))
}

fn verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| Error::Authority {
            path: path.to_owned(),
            source,
        })?;
    }
    if roots.is_empty() {
        return Err(Error::NoAuthority {
            path: path.to_owned(),
        });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|source| Error::Verifier {
            path: path.to_owned(),
            source,
        })
}

fn unreadable(path: &Path) -> impl FnOnce(rustls::pki_types::pem::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_that_do_not_serve_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let certificate = file("cert.pem", &made.cert.pem());
        let key = file("key.pem", &made.signing_key.serialize_pem());
        let empty = file("empty.pem", "");
        let missing = directory.path().join("missing.pem");
        Tls::open(&certificate, &key).unwrap();
        Tls::mutual(&certificate, &key, &certificate).unwrap();
        for (certificate, key, authorities, named) in [
            (&missing, &key, &certificate, "missing.pem"),
            (&certificate, &empty, &certificate, "empty.pem"),
            (&empty, &key, &certificate, "empty.pem"),
            (&certificate, &key, &empty, "empty.pem"),
            (&certificate, &key, &missing, "missing.pem"),
        ] {
            let error = Tls::mutual(certificate, key, authorities).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
