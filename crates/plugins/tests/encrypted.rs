//! Plugins behind TLS, as their `.json` files describe them.
#![allow(clippy::unwrap_used)] // a test that cannot go on fails

mod fake;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use berth_plugins::{Config, Patience, Plugins, VolumeDriver};
use fake::{Asked, json, serve};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json as value};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

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
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

fn vault(method: &str) -> Option<String> {
    json(match method {
        "Plugin.Activate" => r#"{"Implements": ["VolumeDriver"]}"#,
        _ => "{}",
    })
}

/// A plugin at a port of localhost that answers `clients` alone, or anybody.
async fn listen(authority: &Authority, clients: Option<&Authority>) -> u16 {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (certificate, key) = authority.issue("localhost");
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.der.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = builder.with_single_cert(vec![certificate.der().clone()], key);
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, vault, Asked::default()).await;
                }
            });
        }
    });
    port
}

/// What comes of asking the plugin that is described so.
async fn asked(dir: &Path, port: u16, tls: Value) -> Result<(), String> {
    let described = value!({
        "Name": "vault", "Addr": format!("https://localhost:{port}"), "TLSConfig": tls,
    });
    fs::write(dir.join("vault.json"), described.to_string()).unwrap();
    let plugins = Plugins::new(Config {
        sockets: dir.join("none"),
        specs: vec![dir.to_owned()],
        ..Config::default()
    });
    let driver = VolumeDriver::open(&plugins, "vault", Patience::Look).await;
    let driver = driver.map_err(|error| error.report())?;
    let removed = driver.remove("gold").await;
    removed.map_err(|error| error.report())
}

#[tokio::test]
async fn a_plugin_is_known_by_the_authority_that_its_file_names_or_not_at_all() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let port = listen(&authority, None).await;
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, &authority.pem).unwrap();
    let other = dir.path().join("other.pem");
    fs::write(&other, Authority::new().pem).unwrap();
    let dir = dir.path();
    asked(dir, port, value!({ "CAFile": ca })).await.unwrap();
    asked(dir, port, value!({ "InsecureSkipVerify": true }))
        .await
        .unwrap();
    for strange in [value!({ "CAFile": other }), value!({})] {
        let told = asked(dir, port, strange).await.unwrap_err();
        assert!(told.contains("certificate"), "{told}");
    }
    let missing = dir.join("missing.pem");
    for (path, said) in [
        (&missing, "missing.pem"),
        (&dir.join("vault.json"), "no certificate"),
    ] {
        let told = asked(dir, port, value!({ "CAFile": path }))
            .await
            .unwrap_err();
        assert!(told.contains(said), "{told}");
    }
}

#[tokio::test]
async fn a_plugin_that_wants_to_know_us_is_shown_the_pair_of_its_file() {
    let (dir, authority, clients) = (
        tempfile::tempdir().unwrap(),
        Authority::new(),
        Authority::new(),
    );
    let port = listen(&authority, Some(&clients)).await;
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let ca = file("ca.pem", &authority.pem);
    let (own, own_key) = clients.issue("node");
    let (strange, strange_key) = Authority::new().issue("node");
    let good = (
        file("own.pem", &own.pem()),
        file("own.key", &own_key.serialize_pem()),
    );
    let strange = (
        file("strange.pem", &strange.pem()),
        file("strange.key", &strange_key.serialize_pem()),
    );
    let with = |(cert, key): &(std::path::PathBuf, std::path::PathBuf)| value!({ "CAFile": ca, "CertFile": cert, "KeyFile": key });
    let dir = dir.path();
    asked(dir, port, with(&good)).await.unwrap();
    asked(dir, port, with(&strange)).await.unwrap_err();
    asked(dir, port, value!({ "CAFile": ca }))
        .await
        .unwrap_err();
    let mixed = (good.0.clone(), ca.clone());
    let told = asked(dir, port, with(&mixed)).await.unwrap_err();
    assert!(told.contains("are no pair"), "{told}");
}
