//! Content that goes bad on disk, and how it is found and made good again.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::{Pace, Scrubbed};

const FAST: Pace = Pace(0);

impl Node {
    async fn scrub(&self) -> Scrubbed {
        self.images.scrub(FAST).await.unwrap()
    }

    fn layer_file(&self, name: &str, position: usize, path: &str) -> PathBuf {
        let chain = self.images.get(&self.name(name)).unwrap().layers[position].clone();
        let layers = self.root.path().join("snapshots/layers");
        layers.join(chain.hex()).join("fs").join(path)
    }

    fn flip(&self, path: &std::path::Path) {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.images.shared.content.path(digest)
    }

    fn requests_of(&self, made: &Made) -> Vec<usize> {
        let layers = made.layers.iter();
        layers
            .map(|layer| self.server.requests(layer.digest.as_str()))
            .collect()
    }
}

/// What was found bad and what was healed.
fn bad(found: Scrubbed) -> (u64, u64, u64) {
    (found.bad_blobs, found.bad_layers, found.healed)
}

#[tokio::test]
async fn a_sound_image_is_read_whole_and_left_alone() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 3);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    let found = node.scrub().await;
    assert_eq!((found.blobs, found.layers, bad(found)), (5, 3, (0, 0, 0)));
    let stored: usize = made.layers.iter().map(|layer| layer.bytes.len()).sum();
    assert!(found.bytes > stored as u64);
    assert_eq!(node.images.list().len(), 1);
}

#[tokio::test]
async fn a_damaged_layer_is_made_anew_from_its_blob_without_the_registry() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 2);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    node.flip(&node.layer_file("app:v1", 1, "1"));
    assert_eq!(bad(node.scrub().await), (0, 1, 1));
    assert_eq!(node.file("app:v1", 1, "1").as_deref(), Some("a-1"));
    assert_eq!(node.requests_of(&made), [1, 1]);
    assert_eq!(bad(node.scrub().await), (0, 0, 0), "once is enough");
    // Whatever else can happen to a file.
    let file = node.layer_file("app:v1", 0, "0");
    fs::remove_file(&file).unwrap();
    assert_eq!(bad(node.scrub().await), (0, 1, 1));
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(bad(node.scrub().await), (0, 1, 1));
    assert_eq!(node.counts(), (4, 0, 2));
    node.images.collect().await.unwrap();
    assert_eq!(
        fs::read_dir(node.root.path().join("snapshots/trash"))
            .unwrap()
            .count(),
        0
    );
    let node = node.restart().await;
    assert_eq!(node.file("app:v1", 0, "0").as_deref(), Some("a-0"));
}

#[tokio::test]
async fn only_a_damaged_blob_is_fetched_by_the_next_pull_and_what_was_made_of_it_is_looked_at() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 3);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    let blob = node.blob(&made.layers[1].digest);
    node.flip(&blob);
    node.flip(&node.layer_file("app:v1", 1, "1"));
    assert_eq!(bad(node.scrub().await), (1, 0, 0));
    assert!(!blob.exists(), "a bad blob is out of the way");
    assert_eq!(node.images.list().len(), 1, "it can be run meanwhile");
    node.pull("app:v1").await.unwrap();
    assert_eq!(node.requests_of(&made), [1, 2, 1]);
    assert_eq!(node.file("app:v1", 1, "1").as_deref(), Some("a-1"));
    let found = node.scrub().await;
    assert_eq!((found.blobs, bad(found)), (5, (0, 0, 0)));
}

#[tokio::test]
async fn damaged_documents_are_fetched_again_and_nothing_else() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 1);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    node.flip(&node.blob(&made.config_digest));
    node.flip(&node.blob(&made.manifest_digest));
    assert_eq!(bad(node.scrub().await), (2, 0, 0));
    node.pull("app:v1").await.unwrap();
    assert_eq!(node.counts(), (3, 0, 1));
    assert_eq!(node.requests_of(&made), [1]);
    assert_eq!(bad(node.scrub().await), (0, 0, 0));
}

#[tokio::test]
async fn a_layer_in_use_is_replaced_and_the_old_one_goes_with_its_last_user() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 1);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    let layers = node
        .images
        .get(&node.name("app:v1"))
        .unwrap()
        .layers
        .clone();
    node.snapshotter.prepare("user", &layers).unwrap();
    node.flip(&node.layer_file("app:v1", 0, "0"));
    assert_eq!(bad(node.scrub().await), (0, 1, 1));
    assert_eq!(node.file("app:v1", 0, "0").as_deref(), Some("a-0"));
    let retired = |node: &Node| {
        let directory = node.root.path().join("snapshots/retired");
        fs::read_dir(directory).unwrap().count()
    };
    node.images.collect().await.unwrap();
    assert_eq!(retired(&node), 1);
    let node = node.restart().await;
    node.images.collect().await.unwrap();
    assert_eq!(retired(&node), 1, "whoever has it mounted is still there");
    node.snapshotter.remove("user").unwrap();
    node.images.collect().await.unwrap();
    assert_eq!(retired(&node), 0);
    assert_eq!(node.counts(), (3, 0, 1));
}

#[tokio::test]
async fn an_image_that_lost_a_layer_while_it_was_shown_is_hidden_and_healed_by_a_pull() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 2);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    let top = node.images.get(&node.name("app:v1")).unwrap().layers[1].clone();
    let layer = node.root.path().join("snapshots/layers").join(top.hex());
    fs::remove_dir_all(layer).unwrap();
    assert_eq!(bad(node.scrub().await), (0, 1, 0));
    assert!(node.images.list().is_empty());
    node.pull("app:v1").await.unwrap();
    assert_eq!(node.file("app:v1", 1, "1").as_deref(), Some("a-1"));
    assert_eq!(node.requests_of(&made), [1, 1], "its blob was still there");
}

#[tokio::test]
async fn an_artifact_with_a_damaged_blob_is_hidden_until_it_is_pulled_again() {
    let Some(node) = Node::start().await else {
        return;
    };
    let artifact = berth_testkit::image::Artifact::new("application/vnd.example.model");
    let made = artifact
        .file("a", "first")
        .file("b", "second")
        .build()
        .unwrap();
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    node.flip(&node.blob(&made.layers[0].digest));
    assert_eq!(bad(node.scrub().await), (1, 0, 0));
    assert!(node.images.list().is_empty());
    node.pull("app:v1").await.unwrap();
    assert_eq!(node.file("app:v1", 0, "a").as_deref(), Some("first"));
    assert_eq!(node.requests_of(&made), [2, 1]);
}

#[tokio::test]
async fn a_round_that_was_cut_short_goes_on_where_it_was() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 3);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    let mut blobs = node.images.shared.content.list().unwrap();
    blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
    // One byte a second: it waits after the first blob, until nobody waits for it any more.
    let mut round = Box::pin(node.images.scrub(Pace(1)));
    assert!(futures::poll!(&mut round).is_pending());
    drop(round);
    let key = || "scrub".to_owned();
    let table = berth_metadata::schema::state::<serde_json::Value>;
    let metadata = &node.images.shared.metadata;
    eventually("the position is written down", || {
        metadata.get(table(), &key()).unwrap().is_some()
    })
    .await;
    let mut position = metadata.get(table(), &key()).unwrap().unwrap();
    assert_eq!(position["finished"], false);
    position["after"] = serde_json::json!(blobs[2].digest);
    let mut batch = berth_metadata::Batch::new();
    batch.put(table(), &key(), &position).unwrap();
    metadata.commit(batch).await.unwrap();

    let node = node.restart().await;
    let day = Duration::from_secs(24 * 3600);
    assert!(node.images.scrub_due(day).is_zero());
    let rest = node.scrub().await;
    assert_eq!(rest.blobs, 2, "{rest:?}");
    assert!(!node.images.scrub_due(day).is_zero());
    assert_eq!(node.scrub().await.blobs, 5, "the next begins anew");
}

#[tokio::test]
async fn an_archive_that_changes_its_own_entries_is_not_taken_for_damage() {
    let Some(node) = Node::start().await else {
        return;
    };
    use berth_testkit::archive::{Entry, Tar};
    let archive = Tar::of([
        Entry::dir("real"),
        Entry::symlink("d", "real"),
        Entry::file("d/f", "through the link"),
        Entry::dir("d"),
    ])
    .end();
    let packed = Arc::new(PackedLayer {
        diff_id: Digest::sha256_of(&archive),
        digest: Digest::sha256_of(&archive),
        compression: Compression::Plain,
        bytes: archive,
    });
    node.server
        .push(&Recipe::new().layer(packed).build().unwrap(), "v1");
    node.pull("app:v1").await.unwrap();
    assert_eq!(bad(node.scrub().await), (0, 0, 0));
    node.flip(&node.layer_file("app:v1", 0, "real/f"));
    // What hides behind such an entry is not seen; what is in its place would be.
    assert_eq!(node.counts(), (3, 0, 1));
}

#[tokio::test]
async fn what_layers_take_is_counted_in_blocks() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 2);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    let du = std::process::Command::new("du")
        .args(["--summarize", "--block-size=1"])
        .args(["0", "1"].map(|n| {
            let file = node.layer_file("app:v1", n.parse().unwrap(), n);
            file.parent().unwrap().to_owned()
        }))
        .output()
        .unwrap();
    let told = String::from_utf8(du.stdout).unwrap();
    let expected: u64 = told
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    for _ in 0..2 {
        let usage = node.images.fs_usage().await.unwrap().layers;
        assert_eq!((usage.bytes, usage.inodes), (expected, 4));
    }
}
