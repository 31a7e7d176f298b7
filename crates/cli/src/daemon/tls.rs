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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
    use rustls::ServerConfig;
    use rustls::server::WebPkiClientVerifier;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::{Endpoint, dial};
    use super::*;

    fn made(name: &str) -> CertifiedKey<KeyPair> {
        generate_simple_self_signed([name.to_owned()]).unwrap()
    }

    /// Sends back what it gets from clients that it knows.
    async fn listen(own: &CertifiedKey<KeyPair>, known: &CertifiedKey<KeyPair>) -> u16 {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(known.cert.der().clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind(("localhost", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let (mut reader, mut writer) = tokio::io::split(stream);
                let _gone = tokio::io::copy(&mut reader, &mut writer).await;
                let _gone = writer.shutdown().await;
            }
        });
        port
    }

    async fn spoken(port: u16, tls: TlsFiles) -> io::Result<String> {
        let endpoint = Endpoint::Tcp {
            host: "localhost".to_owned(),
            port,
            tls: Some(tls),
        };
        let mut stream = dial(&endpoint).await?;
        stream.write_all(b"ping").await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn each_side_believes_only_whom_it_was_told_to() {
        let (server, client, other) = (made("localhost"), made("client"), made("localhost"));
        let port = listen(&server, &client).await;
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| -> PathBuf {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let known = TlsFiles {
            ca: file("ca", server.cert.pem()),
            certificate: Some(file("cert", client.cert.pem())),
            key: Some(file("key", client.signing_key.serialize_pem())),
        };
        assert_eq!(spoken(port, known.clone()).await.unwrap(), "ping");
        let nobody = TlsFiles {
            ca: known.ca.clone(),
            ..TlsFiles::default()
        };
        assert!(spoken(port, nobody).await.is_err());
        let mistaken = TlsFiles {
            ca: file("other", other.cert.pem()),
            ..known.clone()
        };
        assert!(spoken(port, mistaken).await.is_err());
        let keyless = TlsFiles { key: None, ..known };
        let said = spoken(port, keyless).await.unwrap_err().to_string();
        assert!(said.contains("belong together"), "{said}");
        let empty = TlsFiles {
            ca: file("empty", String::new()),
            ..TlsFiles::default()
        };
        assert!(
            spoken(port, empty)
                .await
                .unwrap_err()
                .to_string()
                .contains("no certificate")
        );
    }
}
