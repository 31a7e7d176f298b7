//! The files of a container, for those who read or write them from outside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_lifecycle::{Missing, Root, VolumeMount, WritableLayer};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use crate::container::Container;
use crate::containers::Containers;
use crate::error::{Error, Result};
use crate::files::blocking;
use crate::record::{MountPoint, Phase, Record};

/// Where the runtime mounts something in every container.
const MOUNTED: [&str; 6] = [
    "/dev",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/proc",
    "/sys",
];

/// A container's root with what is mounted in it. While this is held for writing, the container is
/// not started.
pub struct ContainerRoot {
    pub root: Root,
    pub record: Arc<Record>,
    runs: bool,
    _hold: Hold,
}

/// What keeps a container from being started on a layer that is written to.
enum Hold {
    None,
    Shared { _guard: OwnedRwLockReadGuard<()> },
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

impl Hold {
    async fn shared(container: &Container) -> Self {
        let _guard = Arc::clone(&container.layer).read_owned().await;
        Self::Shared { _guard }
    }

    async fn alone(container: &Container) -> Self {
        let _guard = Arc::clone(&container.layer).write_owned().await;
        Self::Alone { _guard }
    }
}

impl ContainerRoot {
    /// The mount that `path` lies on, if it is not the container's own layer. The path has no links
    /// in it.
    pub fn mount_of(&self, path: &Path) -> Option<&MountPoint> {
        let place = |point: &MountPoint| {
            let destination = Path::new(&point.destination);
            let resolved = self.root.resolve(destination, Missing::IsKept);
            resolved.unwrap_or_else(|_| destination.to_owned())
        };
        let mounts = self.record.mounts.iter();
        let there = mounts.filter(|point| self.runs || point.r#type != "tmpfs");
        let above = there.map(|point| (place(point), point));
        let above = above.filter(|(place, _)| path.starts_with(place));
        above
            .max_by_key(|(place, _)| place.components().count())
            .map(|(_, point)| point)
    }
}

impl Containers {
    /// The files of a container as it sees them, or would see them if it ran.
    pub async fn root(&self, container: &Container, writable: bool) -> Result<ContainerRoot> {
        let mut hold = match writable {
            true => Hold::shared(container).await,
            false => Hold::None,
        };
        if writable && container.running().is_err() {
            drop(hold);
            hold = Hold::alone(container).await;
        }
        let record = container.view();
        check(&record)?;
        let runtime = &self.house().runtime;
        let run = container.running().ok();
        let root = match &run {
            Some(run) => runtime.root_of_run(run).await?,
            None => {
                let volumes = volumes(&record);
                runtime.root_at_rest(&record.id, volumes, writable).await?
            }
        };
        Ok(ContainerRoot {
            root,
            record,
            runs: run.is_some(),
            _hold: hold,
        })
    }

    /// The layer of a container with the image below it and nothing on it, for reading.
    pub async fn layer_root(&self, container: &Container) -> Result<Root> {
        let record = container.view();
        check(&record)?;
        let root = self
            .house()
            .runtime
            .root_at_rest(&record.id, Vec::new(), false);
        Ok(root.await?)
    }

    /// What a container has written, and the paths in it that exist for something to be mounted on.
    pub async fn written(&self, container: &Container) -> Result<(WritableLayer, Vec<PathBuf>)> {
        let root = self.layer_root(container).await?;
        let record = container.view();
        let layer = self.house().runtime.writable_layer(&record.id).await?;
        let points = blocking(move || {
            let mounts = record.mounts.iter().map(|point| point.destination.as_str());
            let places = mounts.chain(MOUNTED).map(Path::new);
            let resolved = places.map(|place| {
                let found = root.resolve(place, Missing::IsKept);
                found.unwrap_or_else(|_| place.to_owned())
            });
            Ok(resolved.collect())
        });
        Ok((layer, points.await?))
    }
}

fn check(record: &Record) -> Result<()> {
    match record.phase {
        Phase::Removing | Phase::Dead => Err(Error::Conflict(format!(
            "container {} is being removed: its files are not there any more",
            record.id
        ))),
        _ => Ok(()),
    }
}

fn volumes(record: &Record) -> Vec<VolumeMount> {
    let mounts = record.mounts.iter();
    let mounts = mounts.filter(|point| matches!(point.r#type.as_str(), "bind" | "volume"));
    let volume = |point: &MountPoint| VolumeMount {
        source: PathBuf::from(&point.source),
        sub_path: PathBuf::from(&point.sub_path),
        destination: PathBuf::from(&point.destination),
        read_only: !point.rw,
    };
    mounts.map(volume).collect()
}
