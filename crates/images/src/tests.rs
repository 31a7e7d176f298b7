//! Pulls from a registry in this process into a real overlay store: needs root.

mod artifacts;
mod failing;
mod power;
mod pulling;
mod scrubbing;
mod server;
mod sharing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_metadata::Store;
use berth_names::{Digest, ImageRef};
use berth_registry::{Client, Credentials, RegistryConfig};
use berth_snapshots::{Overlay, Snapshotter};
use berth_testkit::image::{Compression, Image as Made, Layer, PackedLayer, Recipe};

use crate::error::Shared as SharedResult;
use crate::{Config, Images};
use server::Server;

/// A node's image store with its registry.
struct Node {
    images: Arc<Images>,
    snapshotter: Arc<Overlay>,
    server: Server,
    root: tempfile::TempDir,
}

impl Node {
    /// `None`, with the reason printed, where the tests cannot run.
    async fn start() -> Option<Self> {
        if !is_root() {
            eprintln!("skipped: needs root: layers have whiteouts and trusted attributes");
            return None;
        }
        Some(Self::start_in(tempfile::tempdir().unwrap()).await)
    }

    async fn start_in(root: tempfile::TempDir) -> Self {
        let server = Server::start().await;
        let (images, snapshotter) = open(root.path().to_owned(), Config::default()).await;
        Self {
            images,
            snapshotter,
            server,
            root,
        }
    }

    /// Closes everything and opens it again, as after a crash of the daemon.
    async fn restart(self) -> Self {
        let Self {
            images,
            snapshotter,
            server,
            root,
        } = self;
        drop((images, snapshotter));
        let (images, snapshotter) = open(root.path().to_owned(), Config::default()).await;
        Self {
            images,
            snapshotter,
            server,
            root,
        }
    }

    fn reference(&self, name: &str) -> ImageRef {
        ImageRef::parse(&format!("{}/{name}", self.server.address)).unwrap()
    }

    fn name(&self, name: &str) -> String {
        self.reference(name).to_string()
    }

    async fn pull(&self, name: &str) -> SharedResult<Digest> {
        self.images
            .pull(&self.reference(name), Credentials::None)
            .await
    }

    /// Text of a file in the layer at `position` of an image.
    fn file(&self, name: &str, position: usize, path: &str) -> Option<String> {
        let chain = self.images.get(&self.name(name)).unwrap().layers[position].clone();
        let layer = self
            .root
            .path()
            .join("snapshots/layers")
            .join(chain.hex())
            .join("fs");
        std::fs::read_to_string(layer.join(path)).ok()
    }

    /// Complete blobs, partial blobs and layers on disk.
    fn counts(&self) -> (usize, usize, usize) {
        let content = &self.images.shared.content;
        (
            content.list().unwrap().len(),
            content.partials().unwrap().len(),
            self.snapshotter.layers().unwrap().len(),
        )
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

async fn open(root: PathBuf, config: Config) -> (Arc<Images>, Arc<Overlay>) {
    tokio::task::spawn_blocking(move || {
        let snapshotter = Arc::new(Overlay::open(&root.join("snapshots")).unwrap());
        (on(&root, snapshotter.clone(), config), snapshotter)
    })
    .await
    .unwrap()
}

fn on(root: &Path, snapshotter: Arc<dyn Snapshotter>, config: Config) -> Arc<Images> {
    let content = berth_content::Store::open(&root.join("content")).unwrap();
    let registry = RegistryConfig {
        retries: 1,
        retry_delay: Duration::from_millis(5),
        progress_timeout: Duration::from_secs(5),
        ..RegistryConfig::default()
    };
    let client = Client::new(registry).unwrap();
    let metadata = Store::open(root.join("meta")).unwrap();
    Images::open(content, snapshotter, client, metadata, config).unwrap()
}

fn layer(path: &str, text: &str, compression: Compression) -> Arc<PackedLayer> {
    Arc::new(
        Layer::new()
            .file(path, 0o644, text)
            .pack(compression)
            .unwrap(),
    )
}

/// An image of one file per layer, `/<n>`, that holds `text`.
fn image(text: &str, layers: usize) -> Made {
    (0..layers)
        .map(|n| layer(&format!("/{n}"), &format!("{text}-{n}"), Compression::Gzip))
        .fold(Recipe::new(), Recipe::layer)
        .env(&[&format!("TEXT={text}")])
        .build()
        .unwrap()
}

/// Waits for what happens behind.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..200 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never happened: {what}");
}
