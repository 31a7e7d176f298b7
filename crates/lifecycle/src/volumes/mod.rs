//! Volumes that are made for one container and go with it.
//!
//! | volume | is | shows |
//! |---|---|---|
//! | image volume | a view of an image, mounted in the container's directory | that image, or a path in it |
//! | anonymous volume | a writable snapshot of no layers | a copy of what the container's own image has there |
//!
//! Both are snapshots whose key begins with the container's id: that keeps the layers of a mounted
//! image from the collector, counts what is written, and lets a restart find what was cut short.

mod copy;
mod declared;
mod host;
mod image;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_images::{Hold, Image};
use berth_names::ContainerId;
use berth_snapshots::Mount;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::files::ContainerFiles;
use crate::image_root;
use crate::request::ContainerRequest;
use crate::undo::blocking;

pub use copy::up as copy_up;
pub use host::ensure as ensure_host_paths;

/// Between a container's id and the rest of a volume's key.
const KEY_JOINT: char = '-';

/// Where the volumes of a container are, for its specification.
#[derive(Debug, Default)]
pub struct Volumes {
    /// Where an image mount of the request has its content, by its place in the list.
    pub images: BTreeMap<usize, PathBuf>,
    /// The same for mounts that show a part of a directory of the host.
    pub parts: BTreeMap<usize, PathBuf>,
    pub anonymous: Vec<Anonymous>,
}

/// A volume that the image declares.
#[derive(Debug)]
pub struct Anonymous {
    /// Absolute, without `.` and `..`; links in it lead wherever the image says.
    pub destination: PathBuf,
    pub source: PathBuf,
}

/// What has to be made, with all names chosen.
#[derive(Default)]
pub struct Plan {
    images: Vec<PlannedImage>,
    parts: Vec<PlannedPart>,
    anonymous: Vec<PlannedVolume>,
}

struct PlannedPart {
    /// Place of the mount in the request.
    number: usize,
    directory: PathBuf,
    sub_path: String,
}

struct PlannedImage {
    /// Place of the mount in the request.
    number: usize,
    key: String,
    image: Arc<Image>,
    /// Keeps the image until the view does.
    hold: Hold,
    asked: String,
    sub_path: String,
    container_path: String,
}

struct PlannedVolume {
    key: String,
    destination: PathBuf,
}

impl Plan {
    /// The snapshots that the volumes will be.
    pub fn keys(&self) -> Vec<String> {
        let images = self.images.iter().map(|planned| &planned.key);
        let anonymous = self.anonymous.iter().map(|planned| &planned.key);
        images.chain(anonymous).cloned().collect()
    }
}

/// Decides which volumes the container has, and notes in the request which images they are.
pub async fn plan(
    core: &Core,
    id: &ContainerId,
    request: &mut ContainerRequest,
    image: &Image,
) -> Result<Plan> {
    let mut plan = Plan::default();
    for (number, mount) in request.mounts.iter_mut().enumerate() {
        let Some(volume) = &mut mount.image else {
            continue;
        };
        let asked = volume.image.clone();
        let failed = image_failed(&asked, &mount.container_path);
        image::check_sub_path(&volume.sub_path).map_err(&failed)?;
        let (image, hold) = core.image(&asked).await.map_err(&failed)?;
        volume.image_id = image.id.to_string();
        plan.images.push(PlannedImage {
            number,
            key: format!("{id}{KEY_JOINT}image-{number}"),
            image,
            hold,
            sub_path: volume.sub_path.clone(),
            container_path: mount.container_path.clone(),
            asked,
        });
    }
    for (number, mount) in request.mounts.iter().enumerate() {
        if mount.sub_path.is_empty() {
            continue;
        }
        image::check_sub_path(&mount.sub_path)?;
        plan.parts.push(PlannedPart {
            number,
            directory: Path::new(&mount.host_path).to_owned(),
            sub_path: mount.sub_path.clone(),
        });
    }
    let declared = match request.on_layer {
        // Who keeps a layer decides on the volumes, too.
        Some(_) => Vec::new(),
        None => declared::volumes(image.config.volumes(), &request.mounts)?,
    };
    let named = |(number, destination)| PlannedVolume {
        key: format!("{id}{KEY_JOINT}volume-{number}"),
        destination,
    };
    plan.anonymous = declared.into_iter().enumerate().map(named).collect();
    Ok(plan)
}

/// Makes what was planned. `root` are the mounts of the container's own snapshot, `user` is the user
/// namespace of its pod. Blocking; what a failure leaves is taken back by [`release`].
pub fn make(
    core: &Core,
    files: &ContainerFiles,
    plan: Plan,
    root: &[Mount],
    user: Option<&Path>,
) -> Result<Volumes> {
    let mut volumes = Volumes::default();
    for planned in plan.images {
        let place = files.volume(planned.number);
        let made = view(core, &planned)
            .and_then(|mounts| image::mount(&mounts, &planned.sub_path, &place, user));
        made.map_err(image_failed(&planned.asked, &planned.container_path))?;
        volumes.images.insert(planned.number, place);
    }
    for part in plan.parts {
        let place = files.volume(part.number);
        image::mount_part(&part.directory, &part.sub_path, &place)?;
        volumes.parts.insert(part.number, place);
    }
    if plan.anonymous.is_empty() {
        return Ok(volumes);
    }
    let root = image_root::open(root)?;
    for PlannedVolume { key, destination } in plan.anonymous {
        let source = writable(core, &key)?;
        if let Some(root) = &root {
            copy::up(root.as_fd(), &destination, &source)?;
        }
        volumes.anonymous.push(Anonymous {
            destination,
            source,
        });
    }
    Ok(volumes)
}

/// Unmounts and removes the volumes of a container; repeating it is harmless.
pub async fn release(core: &Arc<Core>, files: &ContainerFiles, keys: &[String]) -> Result<()> {
    let files = files.clone();
    blocking("unmount the volumes of", move || files.unmount_volumes()).await?;
    for key in keys {
        core.remove_snapshot(key.clone()).await?;
    }
    Ok(())
}

/// The container that a snapshot belongs to.
pub fn owner(key: &str) -> &str {
    key.split_once(KEY_JOINT).map_or(key, |(id, _)| id)
}

fn view(core: &Core, planned: &PlannedImage) -> Result<Vec<Mount>> {
    let made = core.snapshots.view(&planned.key, &planned.image.layers);
    let _held_until_here = &planned.hold;
    made.map_err(|source| Error::Snapshot {
        id: planned.key.clone(),
        source,
    })
}

/// A new directory on disk that is counted, and removed, as the container's own layer is.
fn writable(core: &Core, key: &str) -> Result<PathBuf> {
    let mounts = core
        .snapshots
        .prepare(key, &[])
        .map_err(|source| Error::Snapshot {
            id: key.to_owned(),
            source,
        })?;
    match mounts.as_slice() {
        [mount] if mount.kind == "bind" => Ok(Path::new(&mount.source).to_owned()),
        _ => Err(Error::NoVolume {
            key: key.to_owned(),
        }),
    }
}

fn image_failed(image: &str, path: &str) -> impl Fn(Error) -> Error + use<> {
    let (image, path) = (image.to_owned(), path.to_owned());
    move |source| Error::ImageVolume {
        image: image.clone(),
        path: path.clone(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_s_key_names_its_container() {
        let id = ContainerId::from_random([7; 32]);
        assert_eq!(owner(&format!("{id}-image-3")), id.as_str());
        assert_eq!(owner(id.as_str()), id.as_str());
    }
}
