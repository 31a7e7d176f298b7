use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use berth_names::{Digest, ImageRef};
use berth_registry::{Client, Credentials, Error, RegistryConfig, media_type};
use berth_testkit::registry::{Registry, Seen};

pub const MANIFEST: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;

/// Impatient, so that tests of faults are quick.
pub fn config() -> RegistryConfig {
    RegistryConfig {
        progress_timeout: Duration::from_millis(300),
        retries: 3,
        retry_delay: Duration::from_millis(5),
        retry_delay_max: Duration::from_secs(2),
        manifest_limit: 64 << 10,
        ..RegistryConfig::default()
    }
}

pub fn client() -> Client {
    Client::new(config()).unwrap()
}

/// A client with one `hosts.toml`.
pub fn client_with_hosts(dir: &Path, domain: &str, hosts: &str) -> Client {
    std::fs::create_dir_all(dir.join(domain)).unwrap();
    std::fs::write(dir.join(domain).join("hosts.toml"), hosts).unwrap();
    Client::new(RegistryConfig {
        hosts_dir: Some(dir.into()),
        ..config()
    })
    .unwrap()
}

/// A registry with `team/app:v1`, and that image's name.
pub async fn registry_with_image() -> (Registry, ImageRef) {
    let registry = Registry::start().await.unwrap();
    add_image(&registry);
    let image = ImageRef::parse(&format!("{}/team/app:v1", registry.host())).unwrap();
    (registry, image)
}

pub fn add_image(registry: &Registry) -> Digest {
    registry.add_manifest("team/app", Some("v1"), media_type::OCI_MANIFEST, MANIFEST)
}

/// Bytes that differ everywhere, so that a wrong offset is noticed.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(step).take(length).collect()
}

/// Fetches a blob from `offset` on.
pub async fn pull(
    client: &Client,
    image: &ImageRef,
    digest: &Digest,
    size: Option<u64>,
    offset: u64,
) -> Result<Vec<u8>, Error> {
    let mut stream = client
        .blob(image, digest, size, offset, &Credentials::None)
        .await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        assert!(!chunk.is_empty());
        bytes.extend_from_slice(&chunk);
        assert_eq!(stream.offset(), offset + bytes.len() as u64);
    }
    assert_eq!(stream.size(), Some(stream.offset()));
    Ok(bytes)
}

/// An error with all its causes.
pub fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Header values of all requests, `-` where there was none.
pub fn sent(requests: &[Seen], header: &str) -> Vec<String> {
    requests
        .iter()
        .map(|seen| seen.header(header).unwrap_or("-").to_owned())
        .collect()
}
