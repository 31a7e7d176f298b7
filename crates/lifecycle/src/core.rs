//! What every task shares: the rooms below, and the index of what is present.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use berth_cgroups::{CgroupHost, CgroupPath};
use berth_images::{Hold, Image, Images};
use berth_metadata::{Batch, Key, Store, Table, schema};
use berth_names::{ChainId, ContainerId, SandboxId};
use berth_network::Network;
use berth_shim_client::Launcher;
use berth_snapshots::{Mount, Snapshotter};
use oci_spec::runtime::Capabilities;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::cgroup_driver::CgroupDriver;
use crate::confinement::Confinement;
use crate::container::Container;
use crate::error::{Error, Result, chain};
use crate::events::{EventKind, Events};
use crate::files::PodFiles;
use crate::handlers::Handlers;
use crate::image_root;
use crate::index::Index;
use crate::layers::Layers;
use crate::left_cgroups::LeftCgroups;
use crate::made_cgroups::MadeCgroups;
use crate::pod::Pod;
use crate::record::{ContainerRecord, PodRecord};
use crate::request::{Resources, RunAs};
use crate::reservations::Reservations;
use crate::spec::linux_resources;
use crate::stats;
use crate::undo::blocking;
use crate::user::{Database, ResolvedUser};

/// Where things are and how they are bounded.
#[derive(Debug, Clone)]
pub struct Config {
    /// Runtime directory, on a tmpfs.
    pub state_dir: PathBuf,
    /// Above the cgroups of pods that name no parent.
    pub cgroup_parent: String,
    pub cgroup_driver: CgroupDriver,
    /// The only process of a pod that shares its PID namespace; a static binary.
    pub pod_init: PathBuf,
    /// Lowest `oom_score_adj` that may be handed to a container.
    pub oom_score_floor: i32,
    /// Capabilities that may be.
    pub capabilities: Capabilities,
    pub confinement: Confinement,
    pub handlers: Handlers,
    /// Directories of CDI files; later ones win.
    pub cdi_dirs: Vec<PathBuf>,
    /// The program that makes and restores checkpoints; empty means to look for it in `PATH`.
    pub criu: PathBuf,
    /// Where checkpoints lie until their container is started: memory of containers, on a disk.
    pub restore_dir: PathBuf,
    /// Bytes that a container may write to its layer, unless it is told otherwise.
    pub layer_limit: Option<u64>,
}

/// The rooms below.
pub struct Parts {
    pub images: Arc<Images>,
    pub snapshots: Arc<dyn Snapshotter>,
    pub network: Network,
    pub launcher: Launcher,
    pub cgroups: CgroupHost,
    pub store: Store,
}

/// User databases of recently used images, by their top layer. Layers never change.
const CACHED_DATABASES: usize = 64;

pub(crate) struct Core {
    pub config: Config,
    pub images: Arc<Images>,
    pub snapshots: Arc<dyn Snapshotter>,
    pub network: Network,
    pub launcher: Arc<Launcher>,
    pub cgroups: CgroupHost,
    pub made_cgroups: MadeCgroups,
    pub left_cgroups: LeftCgroups,
    store: Store,
    pub pods: Index<Pod>,
    pub containers: Index<Container>,
    /// The same containers, by their pod.
    members: RwLock<HashMap<SandboxId, Vec<Arc<Container>>>>,
    pub events: Events,
    pub pod_names: Reservations<SandboxId>,
    pub container_names: Reservations<ContainerId>,
    databases: Mutex<HashMap<ChainId, Arc<Database>>>,
    pub cdi: berth_cdi::Devices,
    pub layers: Layers,
    /// Permits to count writable layers behind those who ask.
    pub counting: Arc<Semaphore>,
}

impl Core {
    pub fn new(config: Config, parts: Parts) -> Self {
        let made_cgroups = MadeCgroups::open(parts.cgroups.clone(), &config.state_dir);
        let left_cgroups = LeftCgroups::open(parts.cgroups.clone(), &config.state_dir);
        Self {
            cdi: berth_cdi::Devices::new(config.cdi_dirs.clone()),
            layers: Layers::default(),
            made_cgroups,
            left_cgroups,
            config,
            images: parts.images,
            snapshots: parts.snapshots,
            network: parts.network,
            launcher: Arc::new(parts.launcher),
            cgroups: parts.cgroups,
            store: parts.store,
            pods: Index::default(),
            containers: Index::default(),
            members: RwLock::default(),
            events: Events::default(),
            pod_names: Reservations::default(),
            container_names: Reservations::default(),
            databases: Mutex::default(),
            counting: Arc::new(Semaphore::new(stats::COUNTS_AT_ONCE)),
        }
    }

    pub fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        match self.pods.find(id) {
            Ok(Some(pod)) => Ok(pod),
            Ok(None) => Err(Error::PodNotFound(id.to_owned())),
            Err(_) => Err(Error::Ambiguous {
                kind: "pod sandbox",
                prefix: id.to_owned(),
            }),
        }
    }

    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        match self.containers.find(id) {
            Ok(Some(container)) => Ok(container),
            Ok(None) => Err(Error::ContainerNotFound(id.to_owned())),
            Err(_) => Err(Error::Ambiguous {
                kind: "container",
                prefix: id.to_owned(),
            }),
        }
    }

    pub fn containers_of(&self, pod: &SandboxId) -> Vec<Arc<Container>> {
        self.members.read().get(pod).cloned().unwrap_or_default()
    }

    /// Makes a container findable.
    pub fn show_container(&self, container: &Arc<Container>) {
        let view = container.view();
        let mut members = self.members.write();
        let siblings = members.entry(view.pod.clone()).or_default();
        siblings.push(Arc::clone(container));
        drop(members);
        self.containers
            .insert(view.id.as_str(), Arc::clone(container));
    }

    fn hide_container(&self, record: &ContainerRecord) {
        self.containers.remove(record.id.as_str());
        let mut members = self.members.write();
        if let Some(siblings) = members.get_mut(&record.pod) {
            siblings.retain(|container| *container.id() != record.id);
            if siblings.is_empty() {
                members.remove(&record.pod);
            }
        }
    }

    /// Tells subscribers what happened to a container.
    pub fn tell_container(&self, kind: EventKind, record: &ContainerRecord) {
        self.events.tell(kind, record.id.as_str(), || {
            let pod = self.pods.find(record.pod.as_str()).ok().flatten()?;
            Some((pod.view(), self.views_of(&record.pod)))
        });
    }

    /// Tells subscribers what happened to a pod; `pod` is how it is, or last was.
    pub fn tell_pod(&self, kind: EventKind, pod: &Pod) {
        self.events.tell(kind, pod.id().as_str(), || {
            Some((pod.view(), self.views_of(pod.id())))
        });
    }

    fn views_of(&self, pod: &SandboxId) -> Vec<Arc<ContainerRecord>> {
        let containers = self.containers_of(pod);
        containers
            .iter()
            .map(|container| container.view())
            .collect()
    }

    /// The criu of this host.
    pub fn criu(&self) -> Result<PathBuf> {
        berth_criu::find(Some(&self.config.criu)).ok_or_else(|| {
            let reason = match self.config.criu.as_os_str().is_empty() {
                true => "criu is not installed: install it where the daemon's PATH finds it".into(),
                false => format!("there is no criu at {}", self.config.criu.display()),
            };
            Error::CheckpointUnavailable { reason }
        })
    }

    /// Where the checkpoint lies that a container is to be started from.
    pub fn restore_dir(&self, id: &str) -> PathBuf {
        self.config.restore_dir.join(id)
    }

    pub fn pod_files(&self, id: &SandboxId) -> PodFiles {
        PodFiles::new(&self.config.state_dir, id.as_str())
    }

    /// The image, and a hold that keeps its layers until a snapshot stands on them.
    pub async fn image(&self, name: &str) -> Result<(Arc<Image>, Hold)> {
        let held = self.images.acquire(name).await;
        held.ok_or_else(|| Error::ImageMissing {
            image: name.to_owned(),
        })
    }

    /// Refuses limits that nothing on this host can have.
    pub fn check_resources(&self, resources: &Resources) -> Result<()> {
        let linux = linux_resources(resources)?;
        self.cgroups
            .check(&linux)
            .map_err(|source| Error::invalid("resources", chain(&source)))
    }

    pub fn new_container_id(&self) -> Result<ContainerId> {
        random().map(ContainerId::from_random)
    }

    pub fn new_pod_id(&self) -> Result<SandboxId> {
        random().map(SandboxId::from_random)
    }

    /// Blocking: reads the image's user database unless it is known.
    pub fn resolve_user(
        &self,
        image: &Image,
        mounts: &[Mount],
        run_as: &RunAs,
    ) -> Result<ResolvedUser> {
        let Some(top) = image.layers.last() else {
            return Database::default().resolve(run_as, image.config.user());
        };
        let known = self.databases.lock().get(top).cloned();
        let database = match known {
            Some(database) => database,
            None => {
                let root = image_root::open(mounts)?;
                let read = root.map(|root| Database::read(root.as_fd())).transpose()?;
                let database = Arc::new(read.unwrap_or_default());
                let mut databases = self.databases.lock();
                if databases.len() >= CACHED_DATABASES {
                    databases.clear();
                }
                databases.insert(top.clone(), Arc::clone(&database));
                database
            }
        };
        database.resolve(run_as, image.config.user())
    }

    /// Removes the writable layer of a container that has it for itself.
    pub async fn remove_own_layer(self: &Arc<Self>, record: &ContainerRecord) -> Result<()> {
        match record.request.on_layer {
            Some(_) => Ok(()),
            None => self.remove_snapshot(record.id.to_string()).await,
        }
    }

    /// Makes a writable layer. Blocking.
    pub fn prepare_layer(
        &self,
        key: &str,
        layers: &[ChainId],
        limit: Option<u64>,
    ) -> Result<Vec<Mount>> {
        let made = match limit {
            Some(bytes) => self.snapshots.prepare_limited(key, layers, bytes),
            None => self.snapshots.prepare(key, layers),
        };
        made.map_err(|source| Error::Snapshot {
            id: key.to_owned(),
            source,
        })
    }

    /// Removes a writable layer; the deletion of its files goes on behind.
    pub async fn remove_snapshot(self: &Arc<Self>, key: String) -> Result<()> {
        let snapshots = Arc::clone(&self.snapshots);
        blocking("remove the snapshot of", move || {
            snapshots
                .remove(&key)
                .map_err(|source| Error::Snapshot { id: key, source })
        })
        .await?;
        let snapshots = Arc::clone(&self.snapshots);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = snapshots.purge_trash() {
                tracing::warn!(error = crate::error::chain(&error), "trash not purged");
            }
        });
        Ok(())
    }

    /// Blocking: whether the kernel killed a process of the cgroup for memory.
    pub fn oom_killed(&self, path: &str) -> bool {
        CgroupPath::parse(path)
            .and_then(|path| self.cgroups.open(&path))
            .and_then(|cgroup| cgroup.oom_kills())
            .is_ok_and(|kills| kills > 0)
    }

    /// Blocking: kills what is in the cgroup and removes it.
    pub fn remove_cgroup(&self, path: &str) -> Result<()> {
        let failed = |source| Error::Cgroup {
            path: path.to_owned(),
            source,
        };
        let opened = CgroupPath::parse(path).and_then(|path| self.cgroups.open(&path));
        match opened {
            Ok(cgroup) => cgroup
                .kill_all(9)
                .and_then(|()| cgroup.remove())
                .map_err(failed),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes behind: what must survive the daemon is in the runtime directory already.
    pub fn store_pod(&self, record: &PodRecord) {
        self.put(schema::pods(), &record.id, record);
    }

    pub fn store_container(&self, record: &ContainerRecord) {
        self.put(schema::containers(), &record.id, record);
    }

    fn put<K: Key, V: Serialize>(&self, table: Table<K, V>, key: &K, record: &V) {
        let mut batch = Batch::new();
        match batch.put(table, key, record) {
            Ok(_) => self.store.commit_lazily(batch),
            Err(error) => tracing::error!(error = crate::error::chain(&error), "not stored"),
        }
    }

    pub fn forget_pod(&self, record: &PodRecord) {
        self.pods.remove(record.id.as_str());
        self.pod_names.release(&record.request.key());
        let mut batch = Batch::new();
        batch.remove(schema::pods::<PodRecord>(), &record.id);
        self.store.commit_lazily(batch);
    }

    pub fn forget_container(&self, record: &ContainerRecord) {
        self.hide_container(record);
        self.tell_container(EventKind::Deleted, record);
        self.container_names.release(&container_key(record));
        let mut batch = Batch::new();
        batch.remove(schema::containers::<ContainerRecord>(), &record.id);
        self.store.commit_lazily(batch);
    }

    pub fn store(&self) -> &Store {
        &self.store
    }
}

/// The identity under which a repeated request for a container joins the first one.
pub(crate) fn container_key(record: &ContainerRecord) -> String {
    name_key(
        record.pod.as_str(),
        &record.request.name,
        record.request.attempt,
    )
}

pub(crate) fn name_key(pod: &str, name: &str, attempt: u32) -> String {
    format!("{name}_{pod}_{attempt}")
}

pub(crate) fn random() -> Result<[u8; 32]> {
    let mut bits = [0; 32];
    rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty()).map_err(|errno| {
        Error::State {
            action: "read",
            path: "/dev/urandom".into(),
            source: errno.into(),
        }
    })?;
    Ok(bits)
}
