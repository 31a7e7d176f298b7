//! The files of a container, for those who read or write them from outside.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_lifecycle::{Missing, Root, VolumeMount, WritableLayer};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use crate::container::Container;
use crate::containers::Containers;
use crate::error::{Error, Result};
use crate::files::{Files, blocking};
use crate::house::{set_source, volumes_of};
use crate::record::{MountPoint, Phase, Record};
use crate::volumes::Volumes;

/// Where the runtime mounts something in every container.
const MOUNTED: [&str; 6] = [
    "/dev",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/proc",
    "/sys",
];

/// At a run that ends while it is looked at: until its end has been noted.
const LOOKS: usize = 100;
const BETWEEN: Duration = Duration::from_millis(20);

/// A container's root with what is mounted in it. While this is held for writing, the container is
/// not started.
pub struct ContainerRoot {
    pub root: Root,
    pub record: Arc<Record>,
    runs: bool,
    _hold: Hold,
    _volumes: Option<Held>,
}

/// Volumes that are mounted for as long as this is there.
struct Held {
    volumes: Arc<Volumes>,
    user: String,
    names: BTreeSet<String>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let (volumes, user) = (Arc::clone(&self.volumes), std::mem::take(&mut self.user));
        let names = std::mem::take(&mut self.names);
        // Without one the daemon is on its way out: the next one finds what is left.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            for name in names {
                if let Err(error) = volumes.let_go(&name, &user).await {
                    tracing::warn!(volume = name, %error, "not unmounted");
                }
            }
        });
    }
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
        for _ in 1..LOOKS {
            match self.root_now(container, writable).await {
                // Its end is being noted.
                Err(error) if has_ended(&error) => tokio::time::sleep(BETWEEN).await,
                Err(error) => return Err(self.gone(container).unwrap_or(error)),
                found => return found,
            }
        }
        self.root_now(container, writable).await
    }

    /// Why nothing is found of a container that is removed meanwhile.
    fn gone(&self, container: &Container) -> Option<Error> {
        let record = container.view();
        let id = record.id.to_string();
        match self.house().get(&id) {
            Err(_) => Some(Error::NotFound(id)),
            Ok(_) => check(&record).err(),
        }
    }

    async fn root_now(&self, container: &Container, writable: bool) -> Result<ContainerRoot> {
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
        let (root, held) = match &run {
            Some(run) => (runtime.root_of_run(run).await?, None),
            None => {
                let mut mounts = record.mounts.clone();
                let held = self.mount_at_rest(&record, &mut mounts).await?;
                let mut volumes = volumes(&mounts);
                volumes.extend(self.hosts_at_rest(&record, &volumes));
                let root = runtime.root_at_rest(&record.id, volumes, writable);
                (root.await?, Some(held))
            }
        };
        Ok(ContainerRoot {
            _volumes: held,
            root,
            record,
            runs: run.is_some(),
            _hold: hold,
        })
    }

    /// What its last run had for /etc/hosts, unless something else is mounted there.
    fn hosts_at_rest(&self, record: &Record, volumes: &[VolumeMount]) -> Option<VolumeMount> {
        let source = Files::new(&self.house().root, record.id.as_str()).hosts();
        let destination = PathBuf::from("/etc/hosts");
        let is_free = !volumes.iter().any(|one| one.destination == destination);
        (is_free && source.is_file()).then(|| VolumeMount {
            source,
            sub_path: PathBuf::new(),
            destination,
            read_only: false,
        })
    }

    /// Under a name of its own: the container may be started meanwhile, and end.
    async fn mount_at_rest(&self, record: &Record, mounts: &mut [MountPoint]) -> Result<Held> {
        let mut held = Held {
            volumes: Arc::clone(&self.house().volumes),
            user: format!("{}.{:08x}", record.id, fastrand::u32(..)),
            names: BTreeSet::new(),
        };
        for name in volumes_of(record) {
            let place = held.volumes.take(&name, &held.user).await?;
            set_source(mounts, &name, &place);
            held.names.insert(name);
        }
        Ok(held)
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

fn has_ended(error: &Error) -> bool {
    use berth_lifecycle::Error as Core;
    matches!(error, Error::Lifecycle(error) if matches!(error.root(), Core::ContainerState { .. }))
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

fn volumes(mounts: &[MountPoint]) -> Vec<VolumeMount> {
    let mounts = mounts
        .iter()
        .filter(|point| matches!(point.r#type.as_str(), "bind" | "volume"));
    let volume = |point: &MountPoint| VolumeMount {
        source: PathBuf::from(&point.source),
        sub_path: PathBuf::from(&point.sub_path),
        destination: PathBuf::from(&point.destination),
        read_only: !point.rw,
    };
    mounts.map(volume).collect()
}
