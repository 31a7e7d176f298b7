//! Power cuts, and disks that refuse.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use berth_names::ChainId;
use berth_snapshots::{Error, Layer, LayerDraft, LayerInfo, Mount, Result, Snapshot, Usage};

use super::{Config, Node, Overlay, Snapshotter, image, on};

const SOON: Duration = Duration::from_secs(20);

impl Node {
    fn layers(&self) -> Vec<PathBuf> {
        let layers = fs::read_dir(self.root.path().join("snapshots/layers")).unwrap();
        layers.map(|entry| entry.unwrap().path()).collect()
    }

    fn flushed(&self) -> usize {
        let marks = fs::read_dir(self.root.path().join("snapshots/durable"));
        marks.unwrap().count()
    }

    async fn until_flushed(&self, layers: usize) {
        let begin = Instant::now();
        while self.flushed() < layers {
            assert!(begin.elapsed() < SOON, "nobody flushes the layers");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What a power cut leaves of layers that were not flushed: names, with nothing behind them.
    async fn lose_power(self) -> Self {
        self.until_flushed(self.layers().len()).await;
        for layer in self.layers() {
            let record = layer.join("layer.json");
            let text = fs::read_to_string(&record).unwrap();
            let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
            value["boot_id"] = "the one before".into();
            fs::write(&record, value.to_string()).unwrap();
            for file in fs::read_dir(layer.join("fs")).unwrap() {
                fs::write(file.unwrap().path(), "").unwrap();
            }
        }
        let marks = self.root.path().join("snapshots/durable");
        for mark in fs::read_dir(&marks).unwrap() {
            fs::remove_file(mark.unwrap().path()).unwrap();
        }
        self.restart().await
    }
}

#[tokio::test]
async fn an_image_whose_files_a_power_cut_took_is_there_after_the_start() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 3);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    let node = node.lose_power().await;
    for (position, expected) in ["a-0", "a-1", "a-2"].into_iter().enumerate() {
        let name = position.to_string();
        let found = node.file("app:v1", position, &name);
        assert_eq!(found.as_deref(), Some(expected));
    }
    for layer in &made.layers {
        assert_eq!(node.server.requests(layer.digest.as_str()), 1);
    }
    node.until_flushed(3).await;
    assert_eq!(node.counts(), (5, 0, 3));
}

#[tokio::test]
async fn an_image_that_lost_a_blob_as_well_is_hidden_until_a_pull_brings_what_is_missing() {
    let Some(node) = Node::start().await else {
        return;
    };
    let made = image("a", 2);
    node.server.push(&made, "v1");
    node.pull("app:v1").await.unwrap();
    fs::remove_file(node.images.shared.content.path(&made.layers[1].digest)).unwrap();
    let node = node.lose_power().await;
    assert_eq!(node.images.list().len(), 0);
    assert_eq!(node.layers().len(), 1, "the other is made again");
    node.pull("app:v1").await.unwrap();
    let requests = |layer: usize| node.server.requests(made.layers[layer].digest.as_str());
    assert_eq!((requests(0), requests(1)), (1, 2));
    assert_eq!(node.file("app:v1", 1, "1").as_deref(), Some("a-1"));
}

#[tokio::test]
async fn layers_are_flushed_behind_a_pull_and_those_of_an_earlier_process_at_the_start() {
    let Some(node) = Node::start().await else {
        return;
    };
    node.server.push(&image("a", 2), "v1");
    node.pull("app:v1").await.unwrap();
    node.until_flushed(2).await;
    let marks = node.root.path().join("snapshots/durable");
    for mark in fs::read_dir(&marks).unwrap() {
        fs::remove_file(mark.unwrap().path()).unwrap();
    }
    let node = node.restart().await;
    node.until_flushed(2).await;
}

/// A disk that does not take the layers so many times.
struct Refusing {
    overlay: Arc<Overlay>,
    times: AtomicUsize,
    commits: AtomicUsize,
}

impl Snapshotter for Refusing {
    fn sync(&self) -> Result<()> {
        let left = |times: usize| times.checked_sub(1);
        let (all, ordering) = (self.overlay.layers()?, Ordering::SeqCst);
        if all.is_empty() || self.times.fetch_update(ordering, ordering, left).is_err() {
            return self.overlay.sync();
        }
        Err(Error::Flush {
            path: "/".into(),
            layers: all.into_iter().map(|layer| layer.id).collect(),
            source: std::io::Error::other("no"),
        })
    }

    fn layer(&self, id: &ChainId) -> Result<Option<LayerInfo>> {
        self.overlay.layer(id)
    }

    fn begin_layer(&self, id: &ChainId, parent: Option<&ChainId>) -> Result<LayerDraft> {
        self.overlay.begin_layer(id, parent)
    }

    fn commit(&self, draft: LayerDraft, info: LayerInfo) -> Result<()> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.overlay.commit(draft, info)
    }

    fn prepare(&self, key: &str, layers: &[ChainId]) -> Result<Vec<Mount>> {
        self.overlay.prepare(key, layers)
    }

    fn prepare_limited(&self, key: &str, layers: &[ChainId], bytes: u64) -> Result<Vec<Mount>> {
        self.overlay.prepare_limited(key, layers, bytes)
    }

    fn can_limit(&self) -> Result<()> {
        self.overlay.can_limit()
    }

    fn ease(&self, key: &str) -> Result<bool> {
        self.overlay.ease(key)
    }

    fn hold(&self, key: &str) -> Result<()> {
        self.overlay.hold(key)
    }

    fn view(&self, key: &str, layers: &[ChainId]) -> Result<Vec<Mount>> {
        self.overlay.view(key, layers)
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.overlay.mounts(key)
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.overlay.remove(key)
    }

    fn remove_layer(&self, id: &ChainId) -> Result<()> {
        self.overlay.remove_layer(id)
    }

    fn retire_layer(&self, id: &ChainId) -> Result<()> {
        self.overlay.retire_layer(id)
    }

    fn layer_content(&self, id: &ChainId) -> Result<Option<OwnedFd>> {
        self.overlay.layer_content(id)
    }

    fn layer_usage(&self, id: &ChainId) -> Result<Usage> {
        self.overlay.layer_usage(id)
    }

    fn purge_trash(&self) -> Result<u64> {
        self.overlay.purge_trash()
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        self.overlay.usage(key)
    }

    fn layers(&self) -> Result<Vec<Layer>> {
        self.overlay.layers()
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.overlay.snapshots()
    }
}

/// The node with an image, on a disk that then refuses so many times to take its layers.
async fn refused(times: usize) -> Option<(Node, Arc<Refusing>)> {
    let Node {
        images,
        snapshotter,
        server,
        root,
    } = Node::start().await?;
    drop((images, snapshotter));
    let path = root.path().to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let overlay = Arc::new(Overlay::open(&path.join("snapshots")).unwrap());
        let disk = Arc::new(Refusing {
            overlay: Arc::clone(&overlay),
            times: times.into(),
            commits: 0.into(),
        });
        let images = on(&path, disk.clone(), Config::default());
        (images, overlay, disk)
    });
    let (images, snapshotter, disk) = opened.await.unwrap();
    let node = Node {
        images,
        snapshotter,
        server,
        root,
    };
    node.server.push(&image("a", 1), "v1");
    node.pull("app:v1").await.unwrap();
    Some((node, disk))
}

#[tokio::test]
async fn a_layer_that_the_disk_refused_is_made_once_more_from_its_blob() {
    let Some((node, disk)) = refused(1).await else {
        return;
    };
    node.until_flushed(1).await;
    assert_eq!(disk.commits.load(Ordering::SeqCst), 2);
    assert_eq!(node.images.list().len(), 1);
    assert_eq!(node.file("app:v1", 0, "0").as_deref(), Some("a-0"));
}

#[tokio::test]
async fn an_image_that_the_disk_refuses_twice_is_hidden_and_the_next_pull_needs_no_blob() {
    let Some((node, _)) = refused(2).await else {
        return;
    };
    let begin = Instant::now();
    while !node.images.list().is_empty() {
        assert!(begin.elapsed() < SOON, "it is still shown");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.pull("app:v1").await.unwrap();
    node.until_flushed(1).await;
    assert_eq!(node.file("app:v1", 0, "0").as_deref(), Some("a-0"));
    let blob = node.images.get(&node.name("app:v1")).unwrap();
    let record = node.images.shared.catalog().record(&blob.id).cloned();
    let digest = record.unwrap().layers[0].digest.clone();
    assert_eq!(node.server.requests(digest.as_str()), 1);
}
