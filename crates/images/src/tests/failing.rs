use serde_json::{Value, json};

use super::*;
use crate::{Error, ErrorKind};

#[tokio::test]
async fn what_the_registry_does_not_have_is_not_found() {
    let Some(node) = Node::start().await else {
        return;
    };
    let error = node.pull("app:none").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    let gone = ImageRef::parse("127.0.0.1:1/app:v1").unwrap();
    let error = node
        .images
        .pull(&gone, Credentials::None)
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::RegistryUnavailable,
        "{}",
        error.report()
    );
}

#[tokio::test]
async fn a_blob_with_a_wrong_digest_leaves_nothing_behind() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 1);
    node.server.push(&made, "v1");
    let honest = &made.layers[0];
    let mut flipped = honest.bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let other = layer("/other", "x", Compression::Gzip).bytes.clone();
    let padded = [
        other.clone(),
        vec![0; honest.bytes.len().saturating_sub(other.len())],
    ]
    .concat();
    for bad in [
        flipped,
        padded[..honest.bytes.len()].to_vec(),
        vec![0; honest.bytes.len()],
    ] {
        node.server.put_blob(&honest.digest, bad);
        let error = node.pull("app:v1").await.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::DigestMismatch,
            "{}",
            error.report()
        );
        assert!(node.images.list().is_empty());
        node.images.collect().await.unwrap();
        assert_eq!(node.counts(), (0, 0, 0));
    }
    node.server.put_blob(&honest.digest, honest.bytes.clone());
    node.pull("app:v1").await.unwrap();
}

#[tokio::test]
async fn a_layer_that_is_not_what_the_config_says_is_refused() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 1);
    let lie = Digest::sha256_of(b"another archive");
    let config = String::from_utf8(made.config.clone())
        .unwrap()
        .replace(made.layers[0].diff_id.as_str(), lie.as_str())
        .into_bytes();
    push_with_config(&node, &made, config);
    let error = node.pull("app:v1").await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::DigestMismatch,
        "{}",
        error.report()
    );
    node.images.collect().await.unwrap();
    assert_eq!(node.counts(), (0, 0, 0));
}

#[tokio::test]
async fn a_blob_that_is_no_archive_is_refused_and_not_kept() {
    let Some(node) = Node::start().await else {
        return;
    };
    let bytes = vec![7; 5000];
    let digest = Digest::sha256_of(&bytes);
    let rubbish = Arc::new(PackedLayer {
        diff_id: digest.clone(),
        digest,
        compression: Compression::Plain,
        bytes,
    });
    let made = Recipe::new()
        .layer(rubbish)
        .layer(layer("/a", "a", Compression::Gzip));
    node.server.push(&made.build().unwrap(), "v1");
    let error = node.pull("app:v1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.report());
    node.images.collect().await.unwrap();
    let (blobs, _, layers) = node.counts();
    assert_eq!((blobs, layers), (0, 0));
}

/// Serves `made` with another config, at `app:v1`.
fn push_with_config(node: &Node, made: &Made, config: Vec<u8>) {
    let mut manifest: Value = serde_json::from_slice(&made.manifest).unwrap();
    let digest = Digest::sha256_of(&config);
    manifest["config"]["digest"] = json!(digest);
    manifest["config"]["size"] = json!(config.len());
    node.server.push(made, "original");
    node.server.put_blob(&digest, config);
    let bytes = manifest.to_string().into_bytes();
    node.server
        .put_manifest("v1", made.manifest_media_type, bytes);
}

#[tokio::test]
async fn mutated_manifests_never_make_an_image() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 2);
    node.server.push(&made, "good");
    let good: Value = serde_json::from_slice(&made.manifest).unwrap();
    let other = Digest::sha256_of(b"other");
    let cases: [(&str, Value); 12] = [
        ("/schemaVersion", json!(1)),
        ("/mediaType", json!(berth_registry::media_type::OCI_INDEX)),
        ("/config/digest", json!(other)),
        ("/config/size", json!(3)),
        ("/config/size", json!(1 << 30)),
        ("/config/mediaType", json!("")),
        ("/layers/0/digest", json!(other)),
        ("/layers/0/digest", json!("sha256:../../../../etc/passwd")),
        ("/layers/0/size", json!(1)),
        ("/layers/0/size", json!(made.layers[0].bytes.len() + 1)),
        (
            "/layers/0/mediaType",
            json!("application/vnd.oci.image.index.v1+json"),
        ),
        ("/layers", json!([good["layers"][0]])),
    ];
    for (at, value) in cases {
        let mut document = good.clone();
        *document.pointer_mut(at).unwrap() = value.clone();
        let bytes = document.to_string().into_bytes();
        node.server
            .put_manifest("bad", made.manifest_media_type, bytes);
        let error = node.pull("app:bad").await.unwrap_err();
        let expected = [
            ErrorKind::Invalid,
            ErrorKind::NotFound,
            ErrorKind::RegistryUnavailable,
        ];
        assert!(
            expected.contains(&error.kind()),
            "{at} = {value}: {:?}: {}",
            error.kind(),
            error.report()
        );
        assert!(node.images.list().is_empty(), "{at}");
    }
    node.pull("app:good").await.unwrap();
}

#[tokio::test]
async fn an_index_for_others_says_so() {
    let Some(node) = Node::start().await else {
        return;
    };
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{ "mediaType": berth_registry::media_type::OCI_MANIFEST, "size": 5,
            "digest": Digest::sha256_of(b"x"),
            "platform": { "os": "linux", "architecture": "pdp11" } }],
    });
    let media_type = berth_registry::media_type::OCI_INDEX;
    node.server
        .put_manifest("v1", media_type, index.to_string().into_bytes());
    let error = node.pull("app:v1").await.unwrap_err();
    assert!(matches!(&*error, Error::NoPlatform { offered, .. } if offered == "linux/pdp11"));
}

/// A filesystem of its own, so small that it can be filled.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path, options: &std::ffi::CStr) -> Self {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", at, "tmpfs", flags, Some(options)).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_fails_the_pull_and_gets_its_space_back() {
    if !is_root() {
        eprintln!("skipped: needs root to mount a tmpfs");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::mount(root.path(), c"size=64m");
    let node = Node::start_in(root).await;
    let small = image("small", 1);
    node.server.push(&small, "small");
    node.pull("app:small").await.unwrap();
    // With its blob and its files, 34 MiB twice, this is more than there is.
    let big = layer(
        "/big",
        &"0123456789abcdef ".repeat(2 << 20),
        Compression::Plain,
    );
    let more = layer("/more", "m", Compression::Gzip);
    node.server.push(
        &Recipe::new().layer(big).layer(more).build().unwrap(),
        "big",
    );
    let error = node.pull("app:big").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", error.report());
    eventually("what was left of the pull is gone", || {
        node.counts() == (3, 0, 1)
    })
    .await;
    node.images.remove(&node.name("app:small")).await.unwrap();
    eventually("the small image is gone", || node.counts() == (0, 0, 0)).await;
}

#[tokio::test]
async fn a_clock_that_jumps_collects_nothing_that_is_needed() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 2);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    let content = &node.images.shared.content;
    let begun = Digest::sha256_of(b"begun");
    content
        .ingest(&begun, Some(100))
        .unwrap()
        .write(b"part")
        .unwrap();
    let year = Duration::from_secs(365 * 24 * 3600);
    let ingest = node.root.path().join("content/ingest");
    let partial = std::fs::read_dir(ingest).unwrap().next().unwrap().unwrap();
    // What the clock was set back from: it is of the future.
    let file = std::fs::File::open(partial.path()).unwrap();
    file.set_modified(std::time::SystemTime::now() + year)
        .unwrap();
    let lease = berth_metadata::schema::LeaseRecord {
        expires_at: Some(std::time::SystemTime::now() + year),
        ..Default::default()
    };
    node.images.lease("future", lease).await.unwrap();
    node.images.collect().await.unwrap();
    assert_eq!(node.counts(), (4, 1, 2));
    // And from where it was set forward: old partial blobs go, images stay whatever their age.
    file.set_modified(std::time::SystemTime::now() - year)
        .unwrap();
    node.images.collect().await.unwrap();
    assert_eq!(node.counts(), (4, 0, 2));
    assert_eq!(node.images.list().len(), 1);
}
