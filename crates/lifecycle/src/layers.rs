//! Writable layers that stay when the containers on them go.
//!
//! Who starts the same container again and again makes its layer once, and a container on it for
//! each run (`on_layer` of the request). The layer is recorded before it is made, and forgotten
//! after it is gone: one that a crash left is found by [`Runtime::layers`].

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use berth_images::Image;
use berth_metadata::{Batch, schema};
use berth_names::{ContainerId, Digest};
use berth_snapshots::{Mount, Usage};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::error::{Error, Result, chain};
use crate::image_root;
use crate::runtime::Runtime;
use crate::undo::blocking;

/// What is stored of a layer that is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeptLayer {
    /// What it stands on.
    image: Digest,
}

/// Layers that are kept, and the images below them.
#[derive(Default)]
pub(crate) struct Layers {
    kept: RwLock<HashMap<ContainerId, Digest>>,
}

impl Layers {
    /// Reads what is recorded. Nothing is swept before that.
    pub fn recover(&self, core: &Core) -> Result<()> {
        let scan = core.store().scan(schema::layers::<KeptLayer>());
        let scan = scan.map_err(|source| Error::Store { source })?;
        let found = scan.records.into_iter();
        let mut kept = self.kept.write();
        kept.extend(found.map(|(id, layer)| (id, layer.image)));
        Ok(())
    }

    pub fn keeps(&self, key: &str) -> bool {
        let kept = self.kept.read();
        kept.keys().any(|id| id.as_str() == key)
    }

    pub fn stands_on(&self, image: &Digest) -> bool {
        self.kept.read().values().any(|below| below == image)
    }
}

impl Runtime {
    /// Whether layers can be limited here; the error says what it takes.
    pub fn can_limit_layers(&self) -> berth_snapshots::Result<()> {
        self.core.snapshots.can_limit()
    }

    /// What layers of containers are limited to that are not told otherwise, in bytes.
    pub fn layer_limit(&self) -> Option<u64> {
        self.core.config.layer_limit
    }

    /// Makes a writable layer on an image that is present, for at most `limit` bytes. What a failure
    /// leaves is gone again.
    pub async fn make_layer(
        &self,
        image: &str,
        limit: Option<u64>,
    ) -> Result<(ContainerId, Arc<Image>)> {
        let core = &self.core;
        let (image, hold) = core.image(image).await?;
        if let Some(kind) = &image.artifact {
            let problem = format!("it is an artifact ({kind}): mount it, it cannot be run");
            return Err(Error::invalid("image", problem));
        }
        let id = core.new_container_id()?;
        let mut batch = Batch::new();
        let layer = KeptLayer {
            image: image.id.clone(),
        };
        let failed = |source| Error::Store { source };
        batch.put(schema::layers(), &id, &layer).map_err(failed)?;
        core.store().commit(batch).await.map_err(failed)?;
        core.layers.kept.write().insert(id.clone(), layer.image);
        let (worker, key, layers) = (Arc::clone(core), id.to_string(), image.layers.clone());
        let made = blocking("make the layer of", move || {
            let made = worker.prepare_layer(&key, &layers, limit);
            drop(hold);
            made
        });
        if let Err(error) = made.await {
            if let Err(left) = self.remove_layer(&id).await {
                tracing::warn!(%id, error = chain(&left), "a layer is left");
            }
            return Err(error);
        }
        Ok((id, image))
    }

    /// Removes a layer and forgets it; repeating it is harmless. No container may be on it.
    pub async fn remove_layer(&self, id: &ContainerId) -> Result<()> {
        let core = &self.core;
        core.remove_snapshot(id.to_string()).await?;
        let mut batch = Batch::new();
        batch.remove(schema::layers::<KeptLayer>(), id);
        let committed = core.store().commit(batch).await;
        committed.map_err(|source| Error::Store { source })?;
        let image = core.layers.kept.write().remove(id);
        if let Some(image) = image {
            core.images.let_go(&image);
        }
        Ok(())
    }

    /// Every layer that is kept.
    pub fn layers(&self) -> Vec<ContainerId> {
        self.core.layers.kept.read().keys().cloned().collect()
    }

    /// Copies what the image below a layer has at `path` into the directory `into`, with the owner
    /// and mode of the directory there. A path that the image does not have copies nothing.
    pub async fn copy_up(&self, id: &ContainerId, path: PathBuf, into: PathBuf) -> Result<()> {
        let mounts = self.layer_mounts(id).await?;
        blocking(
            "copy the image's files of",
            move || match image_root::open(&mounts)? {
                Some(root) => crate::volumes::copy_up(root.as_fd(), &path, &into),
                None => Ok(()),
            },
        )
        .await
    }

    /// What is written to a layer, counted now.
    pub async fn layer_usage(&self, id: &ContainerId) -> Result<Usage> {
        let (snapshots, key) = (Arc::clone(&self.core.snapshots), id.to_string());
        blocking("count the layer of", move || {
            let usage = snapshots.usage(&key);
            usage.map_err(|source| Error::Snapshot { id: key, source })
        })
        .await
    }

    /// What the layer of a container is mounted from.
    pub async fn layer_mounts(&self, id: &ContainerId) -> Result<Vec<Mount>> {
        let (snapshots, key) = (Arc::clone(&self.core.snapshots), id.to_string());
        blocking("look up the layer of", move || {
            let mounts = snapshots.mounts(&key);
            mounts.map_err(|source| Error::Snapshot { id: key, source })
        })
        .await
    }
}
