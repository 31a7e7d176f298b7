//! Artifacts: files by their titles, in a layer of their own.

use std::fs;
use std::os::unix::fs::MetadataExt;

use berth_testkit::image::Artifact;

use super::*;
use crate::ErrorKind;

const TYPE: &str = "application/vnd.example.model";

/// Publishes an artifact with one blob per title, and answers with its manifest's digest.
fn publish(node: &Node, tag: &str, files: &[(&str, &str)]) -> Digest {
    let artifact = files
        .iter()
        .fold(Artifact::new(TYPE), |artifact, (title, content)| {
            artifact.file(title, *content)
        });
    let made = artifact.build().unwrap();
    node.server.push(&made, tag);
    made.manifest_digest
}

#[tokio::test]
async fn an_artifact_is_its_files_on_disk_once_and_survives_a_restart() {
    let Some(node) = Node::start().await else {
        return;
    };
    let files = [
        ("model/weights.bin", "weights"),
        ("model/card.md", "card"),
        ("copy", "card"),
    ];
    let digest = publish(&node, "v1", &files);
    // Unrelated artifacts share their empty config: they must not be one image.
    let other = publish(&node, "v2", &[("another", "x")]);
    let id = node.pull("model:v1").await.unwrap();
    assert_eq!(id, digest);
    assert_eq!(node.pull("model:v2").await.unwrap(), other);
    assert_eq!(node.pull("model:v1").await.unwrap(), id, "pulled again");
    assert_eq!(
        node.server.requests(Digest::sha256_of(b"weights").as_str()),
        1
    );

    let node = node.restart().await;
    let found = node.images.get(&node.name("model:v1")).unwrap();
    assert_eq!(found.artifact.as_deref(), Some(TYPE));
    assert_eq!(found.repo_digests, [node.name(&format!("model@{digest}"))]);
    assert_eq!(node.images.list().len(), 2);
    for (path, content) in files {
        assert_eq!(
            node.file("model:v1", 0, path).as_deref(),
            Some(content),
            "{path}"
        );
    }
    let chain = found.layers[0].clone();
    let layer = node
        .root
        .path()
        .join("snapshots/layers")
        .join(chain.hex())
        .join("fs");
    let weights = fs::metadata(layer.join("model/weights.bin")).unwrap();
    assert_eq!((weights.nlink(), weights.mode() & 0o777), (2, 0o444));
    assert_eq!(
        fs::metadata(layer.join("model")).unwrap().mode() & 0o777,
        0o755
    );

    node.images.remove(&node.name("model:v1")).await.unwrap();
    node.images.collect().await.unwrap();
    let (blobs, partials, layers) = node.counts();
    assert_eq!(
        (blobs, partials, layers),
        (2, 0, 1),
        "only the other one is left"
    );
}

#[tokio::test]
async fn an_artifact_in_use_keeps_its_layer() {
    let Some(node) = Node::start().await else {
        return;
    };
    publish(&node, "v1", &[("file", "kept")]);
    node.pull("model:v1").await.unwrap();
    let found = node.images.get(&node.name("model:v1")).unwrap();
    let mounts = node
        .snapshotter
        .view("user-image-0", &found.layers)
        .unwrap();
    node.images.remove(&node.name("model:v1")).await.unwrap();
    node.images.collect().await.unwrap();
    let kept = fs::read_to_string(format!("{}/file", mounts[0].source)).unwrap();
    assert_eq!(kept, "kept");
    node.snapshotter.remove("user-image-0").unwrap();
    node.images.collect().await.unwrap();
    assert_eq!(node.counts(), (0, 0, 0));
}

#[tokio::test]
async fn a_hostile_artifact_leaves_nothing() {
    let Some(node) = Node::start().await else {
        return;
    };
    publish(&node, "out", &[("../../escape", "x")]);
    let refused = node.pull("model:out").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    publish(&node, "lie", &[("good", "good"), ("bad", "bad")]);
    node.server
        .put_blob(&Digest::sha256_of(b"bad"), b"no!".to_vec());
    let refused = node.pull("model:lie").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DigestMismatch);
    assert!(node.images.list().is_empty());
    // What there was of the good file when the bad one was refused is kept for a resumed transfer.
    node.images.collect().await.unwrap();
    let (blobs, _, layers) = node.counts();
    assert_eq!((blobs, layers), (0, 0));
}
