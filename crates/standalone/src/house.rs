//! What the tasks of all containers share: the index, the records, the rooms below.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use berth_images::Images;
use berth_lifecycle::request::Owner;
use berth_lifecycle::{Runtime, chain};
use berth_metadata::{Batch, Store, schema};
use berth_names::ContainerId;
use berth_network::Networks;
use berth_plugins::Plugins;
use parking_lot::RwLock;

use crate::config::HostConfig;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::exec::Commands;
use crate::files::{Files, blocking};
use crate::health;
use crate::mounts;
use crate::name;
use crate::record::{MountPoint, Phase, Record};
use crate::request;
use crate::sharing::Sharing;
use crate::task::Task;
use crate::volumes::Volumes;

/// Who is told what happens, in the moment in which it is: nobody is answered before.
type Listener = Box<dyn Fn(Event) + Send + Sync>;

/// What every task shares.
pub(crate) struct House {
    pub runtime: Runtime,
    pub images: Arc<Images>,
    pub networks: Networks,
    pub root: PathBuf,
    pub volumes: Arc<Volumes>,
    pub commands: Arc<Commands>,
    store: Store,
    listener: OnceLock<Listener>,
    all: RwLock<All>,
}

#[derive(Default)]
struct All {
    by_id: BTreeMap<String, Arc<Container>>,
    names: BTreeMap<String, String>,
}

impl House {
    /// Nothing is looked for yet: see [`House::add`] and [`House::sweep`].
    pub fn open(
        runtime: Runtime,
        images: Arc<Images>,
        networks: Networks,
        store: Store,
        root: PathBuf,
        plugins: Plugins,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            volumes: Arc::new(Volumes::open(&root, store.clone(), plugins)?),
            commands: Arc::default(),
            listener: OnceLock::new(),
            all: RwLock::default(),
            root,
            runtime,
            images,
            networks,
            store,
        }))
    }

    pub fn listen(&self, listener: Listener) {
        // There is one door.
        let _second = self.listener.set(listener);
    }

    pub fn all(&self) -> Vec<Arc<Container>> {
        self.all.read().by_id.values().cloned().collect()
    }

    /// One that was taken and not used, or is used no more.
    pub fn give_back_name(&self, name: &str) {
        self.all.write().names.remove(name);
    }

    pub fn get(&self, wanted: &str) -> Result<Arc<Container>> {
        let all = self.all.read();
        let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
        let missing = || Error::NotFound(wanted.to_owned());
        if wanted.is_empty() {
            return Err(missing());
        }
        let by_name = || all.by_id.get(all.names.get(wanted)?);
        if let Some(found) = all.by_id.get(wanted).or_else(by_name) {
            return Ok(Arc::clone(found));
        }
        let mut matching = all
            .by_id
            .range(wanted.to_owned()..)
            .take_while(|(id, _)| id.starts_with(wanted));
        match (matching.next(), matching.next()) {
            (Some((_, found)), None) => Ok(Arc::clone(found)),
            (Some(_), Some(_)) => Err(Error::Ambiguous(wanted.to_owned())),
            (None, _) => Err(missing()),
        }
    }

    /// Nobody listens is no failure.
    pub fn tell(&self, event: Event) {
        if let Some(listener) = self.listener.get() {
            listener(event);
        }
    }

    pub fn add(
        self: &Arc<Self>,
        record: Record,
        found: Option<Arc<berth_lifecycle::Container>>,
    ) -> Arc<Container> {
        let (container, inbox) = Container::new(record);
        let view = container.view();
        let mut all = self.all.write();
        all.names.insert(view.name.clone(), view.id.to_string());
        all.by_id
            .insert(view.id.to_string(), Arc::clone(&container));
        drop(all);
        Task::spawn(Arc::clone(self), Arc::clone(&container), inbox, found);
        container
    }

    /// Reserves the name that was asked for, or one that is made up.
    pub fn take_name(&self, asked: Result<Option<String>>, id: &str) -> Result<String> {
        let asked = asked?;
        let mut all = self.all.write();
        let name = match asked {
            None => name::made_up(|name| all.names.contains_key(name)),
            Some(name) => name,
        };
        if let Some(owner) = all.names.get(&name) {
            let id = berth_names::ContainerId::parse(owner)
                .map_err(|_| Error::Conflict(format!("the name {name:?} is taken")))?;
            return Err(Error::NameTaken { name, id });
        }
        all.names.insert(name.clone(), id.to_owned());
        Ok(name)
    }

    /// Decides on the command and the mounts, makes volumes and files, and writes the record down.
    /// What it made when it fails is for [`House::dispose`].
    pub async fn furnish(
        &self,
        record: &mut Record,
        image: &berth_images::Image,
        files: &Files,
    ) -> Result<()> {
        record.command = request::command(&record.config, image)?;
        record.config.healthcheck = health::merged(record.config.healthcheck.take(), &image.config);
        let inherited = self.inherited(&record.host)?;
        let declared = image.config.volumes();
        let mut planned = mounts::plan(&record.config, &record.host, declared, inherited)?;
        mounts::name_anonymous(&mut planned);
        record.mounts = planned.iter().map(|one| one.point.clone()).collect();
        if record.has_anonymous_volumes() {
            self.announce(record).await?;
        }
        for (number, (point, copy)) in mounts::settle(&self.volumes, planned)
            .await?
            .into_iter()
            .enumerate()
        {
            if copy {
                self.fill(&record.id, &point).await?;
            }
            record.mounts[number] = point;
        }
        berth_faults::passing("docker.create.after-volumes");
        let made = files.clone();
        blocking(move || made.create()).await?;
        // What cannot be asked of the core is refused now, not at the start.
        let alone = Sharing::default();
        request::pod(record, files, &alone)?;
        request::container(record, image, files, &alone, self.runtime.init_program())?;
        berth_faults::passing("docker.create.before-record");
        self.commit(record).await?;
        berth_faults::passing("docker.create.after-record");
        Ok(())
    }

    /// Writes down which volumes are about to be made for a container: if it never comes to be, they
    /// go with what else there is of it.
    async fn announce(&self, record: &Record) -> Result<()> {
        let mut going = record.clone();
        (going.phase, going.removes_volumes) = (Phase::Removing, true);
        self.commit(&going).await
    }

    /// Copies what the image has at a mount's place into a volume that is empty.
    async fn fill(&self, id: &ContainerId, point: &MountPoint) -> Result<()> {
        let user = format!("{id}.fill");
        let source = self.volumes.take(&point.name, &user).await?;
        let (path, into) = (point.destination.clone().into(), source.clone());
        let filled = match blocking(move || Ok(mounts::is_empty(&source))).await? {
            true => self.runtime.copy_up(id, path, into).await,
            false => Ok(()),
        };
        self.volumes.let_go(&point.name, &user).await?;
        Ok(filled?)
    }

    fn inherited(&self, host: &HostConfig) -> Result<Vec<MountPoint>> {
        let mut all = Vec::new();
        for from in &host.volumes_from {
            let (name, mode) = from.split_once(':').unwrap_or((from, "rw"));
            let read_only = match mode {
                "ro" => true,
                "rw" | "z" | "Z" => false,
                _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
            };
            // No 404: clients would take it for the image's, and pull that.
            let other = self
                .get(name)
                .map_err(|error| Error::invalid(error.to_string()))?;
            for mut point in other.view().mounts.clone() {
                point.rw &= !read_only;
                point.anonymous = false;
                all.push(point);
            }
        }
        Ok(all)
    }

    /// Mounts the volumes of a container, all or none, and notes where they are.
    pub async fn mount_volumes(&self, record: &mut Record) -> Result<()> {
        for name in volumes_of(record) {
            match self.volumes.take(&name, record.id.as_str()).await {
                Ok(place) => set_source(&mut record.mounts, &name, &place),
                Err(error) => {
                    self.unmount_volumes(record).await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The opposite, after a run; repeating it is harmless.
    pub async fn unmount_volumes(&self, record: &Record) {
        for name in volumes_of(record) {
            if let Err(error) = self.volumes.let_go(&name, record.id.as_str()).await {
                tracing::warn!(volume = name, error = chain(&error), "not unmounted");
            }
        }
    }

    /// For one that runs, under a former daemon's mounts.
    pub fn note_volumes(&self, record: &Record) {
        for name in volumes_of(record) {
            self.volumes.note_user(&name, record.id.as_str());
        }
    }

    pub fn users_of(&self, volume: &str) -> Vec<Arc<Container>> {
        let all = self.all.read();
        let uses = |one: &&Arc<Container>| {
            let view = one.view();
            view.mounts
                .iter()
                .any(|point| point.r#type == "volume" && point.name == volume)
        };
        all.by_id.values().filter(uses).cloned().collect()
    }

    /// Those of a container that is about to be gone, unless others have them too.
    pub async fn remove_anonymous_volumes(&self, record: &Record) {
        for point in record.mounts.iter().filter(|point| point.anonymous) {
            let users = self.users_of(&point.name);
            if users.iter().any(|one| one.view().id != record.id) {
                continue;
            }
            let removed = self.volumes.remove(&point.name, false).await;
            if let Err(error) = removed
                && !matches!(error, Error::VolumeNotFound(_))
            {
                tracing::warn!(
                    volume = point.name,
                    error = chain(&error),
                    "volume not removed"
                );
            }
        }
    }

    /// Writes the record so that a crash does not lose it.
    pub async fn commit(&self, record: &Record) -> Result<()> {
        let mut batch = Batch::new();
        batch.put(schema::standalone(), &record.id, record)?;
        Ok(self.store.commit(batch).await?)
    }

    /// Writes it behind.
    pub fn write(&self, record: &Record) {
        let mut batch = Batch::new();
        match batch.put(schema::standalone(), &record.id, record) {
            Ok(_) => self.store.commit_lazily(batch),
            Err(error) => tracing::error!(error = chain(&error), "record not written"),
        }
    }

    pub async fn erase(&self, record: &Record) -> Result<()> {
        let mut batch = Batch::new();
        batch.remove(schema::standalone::<Record>(), &record.id);
        Ok(self.store.commit(batch).await?)
    }

    /// Removes what a container at rest has: its layer first and its record last, so that the next
    /// daemon goes on where this one is cut short. Repeating it is harmless.
    pub async fn dispose(&self, record: &Record) -> Result<()> {
        self.runtime.remove_layer(&record.id).await?;
        berth_faults::passing("docker.remove.after-layer");
        let files = Files::new(&self.root, record.id.as_str());
        blocking(move || files.remove()).await?;
        berth_faults::passing("docker.remove.after-files");
        if record.removes_volumes {
            self.remove_anonymous_volumes(record).await;
            berth_faults::passing("docker.remove.after-volumes");
        }
        self.erase(record).await
    }

    /// Of a container that never was whole, or was being removed, when a former daemon ended.
    pub async fn finish_removal(&self, record: &Record) {
        tracing::info!(id = %record.id, "removing what is left of a container");
        if let Err(error) = self.dispose(record).await {
            tracing::warn!(id = %record.id, error = chain(&error), "not removed");
        }
    }

    /// Takes it out of the lists.
    pub fn forget(&self, record: &Record) {
        let mut all = self.all.write();
        all.by_id.remove(record.id.as_str());
        if all
            .names
            .get(&record.name)
            .is_some_and(|id| id == record.id.as_str())
        {
            all.names.remove(&record.name);
        }
    }

    /// Removes pods of runs of this container that were cut short before it was in them.
    pub async fn remove_pods_of(&self, id: &ContainerId) {
        for pod in self.runtime.pods() {
            let view = pod.view();
            let is_of = view.request.owner == Owner::Docker && view.request.uid == id.as_str();
            if is_of && let Err(error) = pod.remove().await {
                tracing::warn!(pod = %pod.id(), error = chain(&error), "a pod of no run stays");
            }
        }
    }

    /// Layers, pods and directories of containers that nobody has written down.
    pub async fn sweep(&self, known: &HashSet<String>) {
        for pod in self.runtime.pods() {
            let view = pod.view();
            let stray = view.request.owner == Owner::Docker && !known.contains(&view.request.uid);
            if stray && let Err(error) = pod.remove().await {
                tracing::warn!(pod = %pod.id(), error = chain(&error), "a stray pod stays");
            }
        }
        for layer in self.runtime.layers() {
            if !known.contains(layer.as_str())
                && let Err(error) = self.runtime.remove_layer(&layer).await
            {
                tracing::warn!(%layer, error = chain(&error), "a stray layer stays");
            }
        }
        let dir = self.root.join("containers");
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Each once, wherever it is mounted.
pub(crate) fn volumes_of(record: &Record) -> BTreeSet<String> {
    let volumes = record.mounts.iter();
    let volumes = volumes.filter(|point| point.r#type == "volume");
    volumes.map(|point| point.name.clone()).collect()
}

/// Where the files of a volume are.
pub(crate) fn set_source(mounts: &mut [MountPoint], volume: &str, place: &Path) {
    let of_volume = |point: &&mut MountPoint| point.r#type == "volume" && point.name == volume;
    for point in mounts.iter_mut().filter(of_volume) {
        point.source = place.display().to_string();
    }
}
