//! The client against Debian's `docker-registry`, an independent implementation.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_names::{Digest, ImageRef};
use berth_registry::{Client, Credentials, Error, media_type};
use berth_testkit::image::{Compression, Layer, Recipe, Remote};

use crate::fixture::config;

const REGISTRY: &str = "/usr/bin/docker-registry";
const HTPASSWD: &str = "/usr/bin/htpasswd";

/// A registry process with its storage. Killed and removed when dropped.
struct Server {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a registry that lets in user:secret only; `None`, with a printed reason, if it is not
/// installed.
fn start() -> Option<Server> {
    for program in [REGISTRY, HTPASSWD] {
        if !Path::new(program).exists() {
            eprintln!("skipped: needs {program}");
            return None;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let accounts = Command::new(HTPASSWD)
        .args(["-nbB", "user", "secret"])
        .output()
        .unwrap();
    assert!(accounts.status.success());
    fs::write(dir.path().join("htpasswd"), accounts.stdout).unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("127.0.0.1:{port}");
    let text = format!(
        "version: 0.1\n\
         log: {{level: error}}\n\
         storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}\n\
         http: {{addr: '{address}'}}\n\
         auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n",
        root = dir.path().display(),
    );
    let file = dir.path().join("config.yml");
    fs::write(&file, text).unwrap();
    let process = Command::new(REGISTRY)
        .arg("serve")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let server = Server {
        process,
        address,
        _dir: dir,
    };
    let remote = Remote::new(&server.address).with_credentials("user", "secret");
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = remote.ping() {
        assert!(
            Instant::now() < deadline,
            "docker-registry does not answer: {error}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(server)
}

#[tokio::test]
async fn a_pushed_image_is_pulled_and_wrong_credentials_are_refused() {
    let Some(server) = start() else { return };
    let layer = Layer::new().file("hello", 0o644, crate::fixture::noise(300_000));
    let layer = Arc::new(layer.pack(Compression::Gzip).unwrap());
    let pushed = Recipe::new().layer(layer).cmd(&["/hello"]).build().unwrap();
    let remote = Remote::new(&server.address).with_credentials("user", "secret");
    remote.push(&pushed, "team/app", &["v1"]).unwrap();

    let image = ImageRef::parse(&format!("{}/team/app:v1", server.address)).unwrap();
    let user = Credentials::basic("user", "secret");
    let patient = berth_registry::RegistryConfig {
        progress_timeout: Duration::from_secs(20),
        ..config()
    };
    let client = Client::new(patient).unwrap();
    let resolved = client.resolve(&image, &user).await.unwrap();
    assert_eq!(resolved.bytes, pushed.manifest);
    assert!(
        [media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST]
            .contains(&resolved.media_type.as_str())
    );
    assert_eq!(
        client.head(&image, &user).await.unwrap(),
        Some(resolved.digest.clone())
    );
    let again = client
        .manifest(&image, &resolved.digest, &user)
        .await
        .unwrap();
    assert_eq!(again.bytes, resolved.bytes);

    let configuration = client
        .blob_bytes(&image, &pushed.config_digest, 1 << 20, &user)
        .await
        .unwrap();
    assert_eq!(configuration, pushed.config);
    let layer = &pushed.layers[0];
    let size = layer.bytes.len() as u64;
    for offset in [0, 1000, size] {
        let mut stream = client
            .blob(&image, &layer.digest, Some(size), offset, &user)
            .await
            .unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.chunk().await.unwrap() {
            bytes.extend_from_slice(&chunk);
        }
        assert!(bytes == layer.bytes[offset as usize..], "from {offset}");
    }

    for wrong in [Credentials::None, Credentials::basic("user", "wrong")] {
        let error = client.resolve(&image, &wrong).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
        let error = client
            .blob(&image, &layer.digest, None, 0, &wrong)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    }
    let missing = ImageRef::parse(&format!("{}/team/app:v2", server.address)).unwrap();
    let error = client.resolve(&missing, &user).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    let nothing = Digest::sha256_of(b"nothing");
    let error = client.manifest(&image, &nothing, &user).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    let error = client
        .blob_bytes(&image, &nothing, 9, &user)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}
