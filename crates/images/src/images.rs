use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use berth_metadata::schema::{IMAGES, LEASES, LeaseRecord, REFERENCES};
use berth_metadata::{Batch, Store};
use berth_names::{ChainId, Digest, ImageRef};
use berth_registry::{Client, Credentials};
use berth_snapshots::Snapshotter;
use berth_unpack_worker::Unpacker;
use parking_lot::RwLock;
use tokio::sync::{Mutex, Semaphore};
use tracing::Instrument;

use crate::behind::Behind;
use crate::catalog::Catalog;
use crate::collect::Leftovers;
use crate::error::Shared as SharedResult;
use crate::flight::Flights;
use crate::holds::{Hold, Holds, Item};
use crate::image::Image;
use crate::keyed::KeyedLocks;
use crate::meters::Meters;
use crate::platform::Platform;
use crate::pull::Pull;
use crate::watch::PullWatch;
use crate::{Error, ErrorKind, Result};

/// How images are pulled.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whose images are chosen from indexes.
    pub platform: Platform,
    /// Layers that are fetched and unpacked at once, over all pulls. Each takes three threads and
    /// some MiB while it lasts.
    pub layers_at_once: usize,
    pub unpack: berth_unpack::Options,
    pub unpacker: Unpacker,
    /// How long a partial blob waits to be resumed.
    pub keep_partials: std::time::Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            platform: Platform::host(),
            layers_at_once: 4,
            unpack: berth_unpack::Options::default(),
            unpacker: Unpacker::Here,
            keep_partials: std::time::Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// What something takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsUsage {
    pub bytes: u64,
    pub inodes: u64,
}

/// What images take on disk; the two may lie on file systems of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageUsage {
    /// Blobs as they came, and what is on its way.
    pub blobs: FsUsage,
    /// Unpacked layers.
    pub layers: FsUsage,
}

/// The images of this node.
pub struct Images {
    pub(crate) shared: Arc<Shared>,
    pulls: Flights<Asked, SharedResult<Digest>, PullWatch>,
}

/// Who asks for the same shares one pull.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Asked {
    reference: ImageRef,
    credentials: Credentials,
    platform: Platform,
    is_named: bool,
}

/// What pulls and the collector work with.
pub(crate) struct Shared {
    pub content: berth_content::Store,
    pub snapshotter: Arc<dyn Snapshotter>,
    pub registry: Client,
    pub meters: Meters,
    pub metadata: Store,
    pub config: Config,
    pub holds: Holds,
    /// Who unpacks a layer.
    pub layers: KeyedLocks<ChainId>,
    /// Who fetches a blob.
    pub blobs: KeyedLocks<Digest>,
    pub permits: Semaphore,
    catalog: RwLock<Arc<Catalog>>,
    /// Held over the commit of a change, so that the catalog follows the records in order.
    changing: Mutex<()>,
    pub collecting: Behind,
    pub flushing: Behind,
}

impl Images {
    /// Reads the records, and makes layers again that a power cut took. Blocks; called once, before
    /// anything is served, in the context of a runtime.
    ///
    /// # Errors
    /// If the metadata or the layers cannot be listed. Single bad records are reported in the log
    /// and left out.
    pub fn open(
        content: berth_content::Store,
        snapshotter: Arc<dyn Snapshotter>,
        registry: Client,
        metadata: Store,
        config: Config,
    ) -> Result<Arc<Self>> {
        let images = metadata
            .scan(IMAGES)
            .map_err(Error::metadata("read images"))?;
        let references = metadata
            .scan(REFERENCES)
            .map_err(Error::metadata("read references"))?;
        let layers = snapshotter
            .layers()
            .map_err(Error::snapshots("list layers"))?;
        let mut present: HashSet<_> = layers.into_iter().map(|layer| layer.id).collect();
        let permits = Semaphore::new(config.layers_at_once.max(1));
        let shared = Arc::new(Shared {
            content,
            snapshotter,
            registry,
            meters: Meters::default(),
            metadata,
            config,
            holds: Holds::default(),
            layers: KeyedLocks::default(),
            blobs: KeyedLocks::default(),
            permits,
            catalog: RwLock::default(),
            changing: Mutex::default(),
            collecting: Behind::default(),
            flushing: Behind::default(),
        });
        let records = images.records.iter().map(|(_, record)| record);
        shared.regain(records, &mut present);
        *shared.catalog.write() =
            Arc::new(Catalog::load(images.records, references.records, |layer| {
                present.contains(layer)
            }));
        // Those too that an earlier process did not come to.
        shared.flush_behind();
        let pulls = Flights::default();
        Ok(Arc::new(Self { shared, pulls }))
    }

    /// Pulls what `reference` means now and returns the image's id. Layers and blobs that are here
    /// are not fetched again.
    ///
    /// Calls with the same arguments at the same time share one pull. Dropping the future ends
    /// this caller's wait; when the last caller has gone, the pull stops.
    ///
    /// # Errors
    /// [`Error::kind`] tells what a door needs to know.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        credentials: Credentials,
    ) -> SharedResult<Digest> {
        self.pull_watched(reference, credentials).1.await
    }

    /// Like [`Images::pull`], with a look at how far it is. The pull runs from now on, until the
    /// future is dropped.
    pub fn pull_watched(
        &self,
        reference: &ImageRef,
        credentials: Credentials,
    ) -> (
        PullWatch,
        impl Future<Output = SharedResult<Digest>> + Send + use<>,
    ) {
        let platform = self.platform().clone();
        self.pull_of(reference, credentials, platform, true)
    }

    /// Like [`Images::pull_watched`], for a platform. Where not `is_named`, what the reference means
    /// here stays as it is: the image is known by its id, and by its own manifest's digest.
    pub fn pull_of(
        &self,
        reference: &ImageRef,
        credentials: Credentials,
        platform: Platform,
        is_named: bool,
    ) -> (
        PullWatch,
        impl Future<Output = SharedResult<Digest>> + Send + use<>,
    ) {
        let shared = Arc::clone(&self.shared);
        let key = Asked {
            reference: reference.clone(),
            credentials,
            platform,
            is_named,
        };
        let asked = key.clone();
        let start = move |cancel, watch| {
            let reference = asked.reference;
            let span = tracing::info_span!("pull", %reference);
            let pull = Pull {
                shared: Arc::clone(&shared),
                reference,
                credentials: asked.credentials,
                platform: asked.platform,
                is_named: asked.is_named,
                watch,
            };
            let pulling = shared.meters.pull();
            let work = async move {
                let outcome = pull.run(cancel).await;
                pulling.end(&outcome);
                if outcome
                    .as_ref()
                    .is_err_and(|error| error.kind() == ErrorKind::NoSpace)
                {
                    shared.collect_behind(Leftovers::RemoveAll);
                }
                outcome.map_err(Arc::new)
            };
            work.instrument(span)
        };
        let (watch, landed) = self.pulls.join_watched(key, start);
        let outcome = async move {
            landed.await.unwrap_or_else(|| {
                Err(Arc::new(Error::Panicked {
                    operation: "the pull",
                }))
            })
        };
        (watch, outcome)
    }

    /// All images, by id. From memory.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.shared.catalog().images().cloned().collect()
    }

    /// The image that `name` means: a tag or digest reference in familiar form, an id with or
    /// without `sha256:`, or the start of an id if no other begins so. From memory.
    pub fn get(&self, name: &str) -> Option<Arc<Image>> {
        self.shared.catalog().get(name)
    }

    /// Like [`Images::get`], and keeps the image's layers from being collected until the hold is
    /// dropped: a snapshot made meanwhile keeps them by itself.
    pub async fn acquire(&self, name: &str) -> Option<(Arc<Image>, Hold)> {
        loop {
            let image = self.get(name)?;
            let items = image.layers.iter().cloned().map(Item::Layer).collect();
            let hold = self.shared.holds.hold(items).await;
            // The collector may have been first.
            match self.get(name) {
                Some(now) if now.layers == image.layers => return Some((now, hold)),
                Some(_) => continue,
                None => return None,
            }
        }
    }

    /// Removes an image with all its references, whichever of its names is given. What nothing
    /// else needs is collected behind. Removing what is not there succeeds.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        let removed = self
            .shared
            .change(move |catalog, batch| {
                let Some(id) = catalog.find(&name) else {
                    return Ok((catalog.clone(), false));
                };
                let (next, references) = catalog.without(&id);
                batch.remove(IMAGES, &id);
                for reference in &references {
                    batch.remove(REFERENCES, reference);
                }
                tracing::info!(image = %id, ?references, "removing an image");
                Ok((next, true))
            })
            .await?;
        if removed {
            berth_faults::passing("image.remove.before-answer");
            self.shared.collect_behind(Leftovers::KeepRecent);
        }
        Ok(())
    }

    /// Says that something which stood on the image's layers is gone: if the image was removed
    /// meanwhile, they are collected behind.
    pub fn let_go(&self, id: &Digest) {
        if self.shared.catalog().record(id).is_none() {
            self.shared.collect_behind(Leftovers::KeepRecent);
        }
    }

    /// Keeps blobs and layers while no image does, until [`Images::release`] or their expiry.
    pub async fn lease(&self, name: &str, lease: LeaseRecord) -> Result<()> {
        let blobs = lease.blobs.iter().cloned().map(Item::Blob);
        let layers = lease.layers.iter().cloned().map(Item::Layer);
        // Until the record is there, it cannot keep anything.
        let _hold = self.shared.holds.hold(blobs.chain(layers).collect()).await;
        let failed = Error::metadata("record a lease");
        let mut batch = Batch::new();
        batch
            .put(LEASES, &name.to_owned(), &lease)
            .map_err(&failed)?;
        self.shared.metadata.commit(batch).await.map_err(&failed)
    }

    /// Ends a lease; one that does not exist is no error.
    pub async fn release(&self, name: &str) -> Result<()> {
        let mut batch = Batch::new();
        batch.remove(LEASES, &name.to_owned());
        let removed = self.shared.metadata.commit(batch).await;
        removed.map_err(Error::metadata("remove a lease"))?;
        self.shared.collect_behind(Leftovers::KeepRecent);
        Ok(())
    }

    /// Whose images are chosen from indexes.
    pub fn platform(&self) -> &Platform {
        &self.shared.config.platform
    }

    /// The config of an image as its builder wrote it, with the history.
    pub async fn config_document(&self, image: &Image) -> Result<bytes::Bytes> {
        let (content, id) = (self.shared.content.clone(), image.id.clone());
        blocking("read a config", move || {
            content
                .read(&id, crate::manifest::MAX_CONFIG)
                .map_err(Error::content("read a config"))
        })
        .await
    }

    /// Bytes that each layer here takes, unpacked.
    pub async fn layer_sizes(&self) -> Result<HashMap<ChainId, u64>> {
        let snapshotter = Arc::clone(&self.shared.snapshotter);
        blocking("list layers", move || {
            let layers = snapshotter
                .layers()
                .map_err(Error::snapshots("list layers"))?;
            Ok(layers
                .into_iter()
                .map(|layer| (layer.id, layer.info.size))
                .collect())
        })
        .await
    }

    /// The registries, as images are pulled from them.
    pub fn registry(&self) -> &Client {
        &self.shared.registry
    }

    /// What pulls and collections count about themselves.
    pub fn meters(&self) -> Meters {
        self.shared.meters.clone()
    }

    /// What images take, in allocated blocks. One look per blob and layer: the files of a layer are
    /// walked the first time only.
    pub async fn fs_usage(&self) -> Result<ImageUsage> {
        let shared = Arc::clone(&self.shared);
        blocking("count image usage", move || {
            let blobs = shared
                .content
                .usage()
                .map_err(Error::content("count blobs"))?;
            let layers = shared
                .snapshotter
                .layers()
                .map_err(Error::snapshots("list layers"))?;
            let catalog = shared.catalog();
            let mut unpacked = FsUsage::default();
            for layer in &layers {
                // Their files are links to blobs, which are counted above.
                if catalog.is_artifact(&layer.id) {
                    unpacked.bytes += layer.info.size;
                    unpacked.inodes += layer.info.inodes;
                    continue;
                }
                match shared.snapshotter.layer_usage(&layer.id) {
                    Ok(usage) => {
                        unpacked.bytes += usage.bytes;
                        unpacked.inodes += usage.inodes;
                    }
                    // Removed since it was listed.
                    Err(berth_snapshots::Error::LayerMissing { .. }) => {}
                    Err(error) => return Err(Error::layer("measure", &layer.id)(error)),
                }
            }
            Ok(ImageUsage {
                blobs: FsUsage {
                    bytes: blobs.bytes,
                    inodes: blobs.inodes,
                },
                layers: unpacked,
            })
        })
        .await
    }
}

impl Shared {
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read())
    }

    /// Shows no image any more that stands on this layer, until it is pulled again. From threads
    /// that may block.
    pub(crate) fn hide(&self, layer: &ChainId) {
        let _turn = futures::executor::block_on(self.changing.lock());
        let next = self.catalog().without_layer(layer);
        if let Some(next) = next {
            tracing::warn!(%layer, "images have lost a layer and are hidden until they are pulled again");
            *self.catalog.write() = Arc::new(next);
        }
    }

    /// Changes records and catalog together. `decide` sees the present catalog and returns the
    /// next one; it becomes visible when the batch is durable. The change completes even if the
    /// caller goes away.
    pub(crate) async fn change<T, F>(self: &Arc<Self>, decide: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Catalog, &mut Batch) -> Result<(Catalog, T), berth_metadata::Error>
            + Send
            + 'static,
    {
        let shared = Arc::clone(self);
        let change = async move {
            let failed = Error::metadata("record an image");
            let _turn = shared.changing.lock().await;
            let mut batch = Batch::new();
            let (next, answer) = decide(&shared.catalog(), &mut batch).map_err(&failed)?;
            if !batch.is_empty() {
                berth_faults::at("image.record.before-commit")?;
                shared.metadata.commit(batch).await.map_err(&failed)?;
                berth_faults::passing("image.record.after-commit");
                *shared.catalog.write() = Arc::new(next);
            }
            Ok(answer)
        };
        let outcome = tokio::spawn(change.in_current_span()).await;
        outcome.unwrap_or(Err(Error::Panicked {
            operation: "recording an image",
        }))
    }
}

/// Runs blocking work on its own thread, in the caller's span. A panic becomes an error.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = tracing::Span::current();
    let outcome = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    outcome.unwrap_or(Err(Error::Panicked { operation }))
}
