//! HTTPS: the faulty registry behind a TLS terminator with a certificate of its own authority.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use berth_names::ImageRef;
use berth_registry::{Client, Credentials, Error};
use berth_testkit::registry::{Auth, Registry};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::fixture::{add_image, client_with_hosts, sent};

const NOBODY: Credentials = Credentials::None;

struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self {
            pem,
            der,
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for localhost, as PEM and DER, and its key.
    fn issue(&self) -> (String, CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), certificate.der().clone(), key)
    }
}

/// Ends TLS in front of a plain server; asks for client certificates of `clients`.
async fn terminate(authority: &Authority, clients: Option<&Authority>, to: SocketAddr) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (_, certificate, key) = authority.issue();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.der.clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let acceptor = TlsAcceptor::from(Arc::new(
        builder.with_single_cert(vec![certificate], key).unwrap(),
    ));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut secure) = acceptor.accept(stream).await else {
                    return;
                };
                let mut plain = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut secure, &mut plain).await;
            });
        }
    });
    port
}

fn client_for(dir: &Path, port: u16, settings: &str) -> (Client, ImageRef) {
    let domain = format!("localhost:{port}");
    let text = format!("server = 'https://{domain}'\n{settings}");
    let image = ImageRef::parse(&format!("{domain}/team/app:v1")).unwrap();
    (client_with_hosts(dir, &domain, &text), image)
}

#[tokio::test]
async fn only_a_configured_authority_or_no_verification_makes_a_strange_certificate_good() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let registry = Registry::start().await.unwrap();
    add_image(&registry);
    let port = terminate(&authority, None, registry.address()).await;
    fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    fs::write(dir.path().join("other.pem"), Authority::new().pem).unwrap();

    for settings in [
        "ca = '../ca.pem'",
        "ca = ['../other.pem', '../ca.pem']",
        "skip_verify = true",
    ] {
        let (client, image) = client_for(dir.path(), port, settings);
        client.resolve(&image, &NOBODY).await.unwrap();
        registry.take_requests();
    }
    for settings in ["", "ca = '../other.pem'"] {
        let (client, image) = client_for(dir.path(), port, settings);
        let error = client.resolve(&image, &NOBODY).await.unwrap_err();
        assert!(
            matches!(error, Error::Untrusted { .. }),
            "{settings:?}: {error:?}"
        );
        assert!(!error.is_temporary());
    }
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn a_replaced_authority_file_is_noticed() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let registry = Registry::start().await.unwrap();
    add_image(&registry);
    let port = terminate(&authority, None, registry.address()).await;
    fs::write(dir.path().join("ca.pem"), Authority::new().pem).unwrap();
    let (client, image) = client_for(dir.path(), port, "ca = '../ca.pem'");
    assert!(matches!(
        client.resolve(&image, &NOBODY).await,
        Err(Error::Untrusted { .. })
    ));
    fs::write(dir.path().join("ca.pem"), format!("{}\n", authority.pem)).unwrap();
    client.resolve(&image, &NOBODY).await.unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_its_host_and_not_to_redirect_targets() {
    let (dir, authority, clients) = (
        tempfile::tempdir().unwrap(),
        Authority::new(),
        Authority::new(),
    );
    let (registry, storage) = (
        Registry::start().await.unwrap(),
        Registry::start().await.unwrap(),
    );
    add_image(&registry);
    let digest = registry.add_blob("blob");
    storage.add_blob("blob");
    let port = terminate(&authority, Some(&clients), registry.address()).await;
    let (certificate, _, key) = clients.issue();
    for (name, text) in [
        ("ca.pem", authority.pem.clone()),
        ("cert.pem", certificate.clone()),
        ("key.pem", key.serialize_pem()),
        ("both.pem", certificate + &key.serialize_pem()),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let (client, image) = client_for(dir.path(), port, "ca = '../ca.pem'");
    client.resolve(&image, &NOBODY).await.unwrap_err();
    for shown in ["[['../cert.pem', '../key.pem']]", "'../both.pem'"] {
        let settings = format!("ca = '../ca.pem'\nclient = {shown}");
        let (client, image) = client_for(dir.path(), port, &settings);
        client.resolve(&image, &NOBODY).await.unwrap();

        // A host that wants the certificate too does not get it by way of a redirect.
        let other = terminate(&authority, Some(&clients), storage.address()).await;
        registry.behave(|b| b.redirect_blobs = Some((307, format!("https://localhost:{other}"))));
        client
            .blob_bytes(&image, &digest, 9, &NOBODY)
            .await
            .unwrap_err();
        assert!(storage.requests().is_empty());
        let open = terminate(&authority, None, storage.address()).await;
        registry.behave(|b| b.redirect_blobs = Some((307, format!("https://localhost:{open}"))));
        client
            .blob_bytes(&image, &digest, 9, &NOBODY)
            .await
            .unwrap();
        storage.take_requests();
    }
}

#[tokio::test]
async fn a_redirect_does_not_lead_out_of_tls() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (registry, storage) = (
        Registry::start().await.unwrap(),
        Registry::start().await.unwrap(),
    );
    let digest = registry.add_blob("blob");
    storage.add_blob("blob");
    registry.behave(|b| b.redirect_blobs = Some((302, storage.url())));
    let port = terminate(&authority, None, registry.address()).await;
    fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    let (client, image) = client_for(dir.path(), port, "ca = '../ca.pem'");
    let error = client
        .blob_bytes(&image, &digest, 9, &NOBODY)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("from HTTPS to plain HTTP"),
        "{error}"
    );
    assert!(storage.requests().is_empty());
}

#[tokio::test]
async fn a_token_server_elsewhere_gets_credentials_over_https_from_an_https_registry() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (registry, server) = (
        Registry::start().await.unwrap(),
        Registry::start().await.unwrap(),
    );
    server.behave(|b| b.auth = Auth::bearer("user", "pass"));
    let port = terminate(&authority, None, registry.address()).await;
    let server_port = terminate(&authority, None, server.address()).await;
    let realm = format!("https://localhost:{server_port}/token");
    registry.behave(|b| {
        b.auth = Auth::Bearer {
            account: None,
            refresh_token: None,
            realm: Some(realm),
            expires_in: None,
        };
    });
    fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    let (client, image) = client_for(dir.path(), port, "ca = '../ca.pem'");
    let user = Credentials::basic("user", "pass");
    let error = client.resolve(&image, &user).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert_eq!(
        sent(&server.requests(), "authorization"),
        ["Basic dXNlcjpwYXNz"]
    );
    assert_eq!(
        sent(&registry.requests(), "authorization"),
        ["-", "Bearer token-1"]
    );
}
