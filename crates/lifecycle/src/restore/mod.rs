//! Containers from checkpoints: `CreateContainer` with the path of an archive for an image, or with
//! an image that carries one.
//!
//! ```text
//! create   archive described ▸ base image ▸ snapshot ▸ what had been written ▸ images put aside
//! start    the shim has criu restore them, in the new pod ▸ images removed
//! ```
//!
//! An archive may come from anywhere. The container is what its request says: the archive gives the
//! processes, what they had written, and the name of the image below it. Its specification is not
//! read.

mod archive;

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_shim_client::Checkpoint;
use berth_snapshots::Mount;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::handlers::{Handler, Runner};
use crate::record::PodRecord;
use crate::request::ContainerRequest;
use crate::undo::blocking;

const IMAGES: &str = "checkpoint";

/// An archive that a container is to be made from.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The path or the image, as the request has it.
    name: PathBuf,
    file: File,
}

impl Archive {
    /// The archive that the request names as its image, which is then the image that the
    /// checkpoint stands on; `None` where the request names an image.
    pub async fn of(
        core: &Core,
        pod: &PodRecord,
        handler: &Handler,
        request: &mut ContainerRequest,
    ) -> Result<Option<Self>> {
        let name = PathBuf::from(&request.image);
        let carried = match name.is_absolute() {
            true => None,
            false => match carried(core, &request.image).await? {
                None => return Ok(None),
                carried => carried,
            },
        };
        let refuse = |problem: &str| Err(Error::invalid("image", format!("{name:?}: {problem}")));
        if !matches!(handler.runner, Runner::Own) {
            return refuse("only Berth's own runtime restores checkpoints");
        }
        if pod.request.namespaces.user.is_some() {
            return refuse("checkpoints cannot be restored into a user namespace");
        }
        if request.tty {
            return refuse("containers with a terminal cannot be restored");
        }
        core.criu()?;
        let told = name.clone();
        let (file, bases) = blocking("read a checkpoint for", move || {
            let file = match carried {
                Some(layer) => layer,
                None => archive::open(&told)?,
            };
            let bases = archive::base_images(&told, &file)?;
            Ok((file, bases))
        })
        .await?;
        let base = bases.iter().find(|name| core.images.get(name).is_some());
        let Some(base) = base else {
            let names = bases.join(", ");
            let problem = format!("the image that it stands on is not here: pull it ({names})");
            return refuse(&problem);
        };
        request.image.clone_from(base);
        Ok(Some(Self { name, file }))
    }

    /// Puts what had been written into the writable layer of `mounts`, and the images aside for the
    /// start. Blocking.
    pub fn unpack(&self, aside: &Path, mounts: &[Mount]) -> Result<()> {
        let images = aside.join(IMAGES);
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&images)
            .map_err(|source| Error::State {
                action: "create",
                path: images.clone(),
                source,
            })?;
        let upper = mounts
            .iter()
            .flat_map(|mount| &mount.options)
            .find_map(|option| option.strip_prefix("upperdir="));
        let upper = upper.map(Path::new);
        archive::unpack(&self.name, &self.file, aside, &images, upper)
    }
}

/// The archive in an image, if it is one that carries a checkpoint. A missing image is told later.
async fn carried(core: &Core, image: &str) -> Result<Option<File>> {
    match core.images.get(image) {
        Some(image) => Ok(core.images.checkpoint(&image).await?),
        None => Ok(None),
    }
}

/// What the container is started from, if it was made from an archive.
pub(crate) fn checkpoint(core: &Core, id: &str) -> Result<Option<Checkpoint>> {
    let aside = core.restore_dir(id);
    if !aside.is_dir() {
        return Ok(None);
    }
    Ok(Some(Checkpoint {
        images: aside.join(IMAGES),
        work: aside,
        criu: core.criu()?,
    }))
}

/// Removes the images of a container; there being none is fine.
pub(crate) async fn forget(core: &Arc<Core>, id: &str) -> Result<()> {
    let aside = core.restore_dir(id);
    blocking(
        "remove the checkpoint of",
        move || match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::State {
                action: "remove",
                path: aside,
                source: error,
            }),
            _ => Ok(()),
        },
    )
    .await
}

/// Removes images whose container is nowhere recorded, of creations that were cut short.
pub(crate) async fn sweep(core: &Arc<Core>) {
    let dir = core.config.restore_dir.clone();
    let listed = blocking("list checkpoints of", move || {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        Ok(entries.map(|entry| entry.file_name()).collect::<Vec<_>>())
    });
    for name in listed.await.unwrap_or_default() {
        let id = name.to_string_lossy();
        if core.containers.find(&id).ok().flatten().is_none()
            && let Err(error) = forget(core, &id).await
        {
            tracing::warn!(error = crate::error::chain(&error), "a checkpoint stays");
        }
    }
}
