//! Volumes: directories that outlive containers. Those of plugins are in [`crate::plugged`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_metadata::{Batch, Store, schema};
use berth_plugins::Plugins;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::blocking;
use crate::local;
use crate::name;
use crate::record::Nanos;
use crate::volume_dirs::VolumeDirs;

/// The driver that is no plugin.
pub(crate) const LOCAL: &str = "local";

/// A volume; its content lies in `mountpoint`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    pub name: String,
    pub driver: String,
    pub mountpoint: PathBuf,
    pub created_at: Nanos,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// Nobody chose its name.
    #[serde(default)]
    pub anonymous: bool,
    /// For whom its plugin was asked to mount it, and not yet to unmount it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub holders: BTreeSet<String>,
}

/// A volume as it is asked for; an empty name means one that is made up.
#[derive(Debug, Clone, Default)]
pub struct VolumeDraft {
    pub name: String,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
    /// Nobody chose the name.
    pub anonymous: bool,
}

pub struct Volumes {
    dirs: Arc<VolumeDirs>,
    store: Store,
    pub(crate) plugins: Plugins,
    pub(crate) all: RwLock<BTreeMap<String, Arc<Volume>>>,
    /// Who has the filesystem of a volume mounted.
    pub(crate) users: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// One of our own is made, mounted or removed at a time.
    changing: tokio::sync::Mutex<()>,
    /// A plugin may take long: only who wants the same volume waits.
    pub(crate) busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Volumes {
    pub(crate) fn open(root: &Path, store: Store, plugins: Plugins) -> Result<Self> {
        let found = store.scan(schema::volumes::<Volume>())?.records;
        let all: BTreeMap<_, _> = found
            .into_iter()
            .map(|(name, volume)| (name, Arc::new(volume)))
            .collect();
        let dirs = VolumeDirs::open(root.join("volumes"), &all)?;
        Ok(Self {
            all: RwLock::new(all),
            users: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            busy: Mutex::default(),
            dirs: Arc::new(dirs),
            store,
            plugins,
        })
    }

    pub fn all(&self) -> Vec<Arc<Volume>> {
        self.all.read().values().cloned().collect()
    }

    pub fn get(&self, name: &str) -> Result<Arc<Volume>> {
        let found = self.all.read().get(name).cloned();
        found.ok_or_else(|| Error::VolumeNotFound(name.to_owned()))
    }

    /// Makes the volume, or answers with the one of that name, and says whether it is new. Who names
    /// no driver takes what is there under that name, wherever it is.
    pub async fn create(&self, mut draft: VolumeDraft) -> Result<(Arc<Volume>, bool)> {
        if draft.name.is_empty() {
            draft.name = made_up_name();
            draft.anonymous = true;
        }
        name::volume(&draft.name)?;
        if draft.driver.is_empty()
            && !draft.anonymous
            && let Some(there) = self.anywhere(&draft.name).await?
        {
            return Ok((there, false));
        }
        match draft.driver.as_str() {
            "" | LOCAL => self.create_local(draft).await,
            _ => self.create_plugged(draft).await,
        }
    }

    async fn create_local(&self, draft: VolumeDraft) -> Result<(Arc<Volume>, bool)> {
        local::check(&draft.options)?;
        let _one = self.changing.lock().await;
        if let Ok(there) = self.get(&draft.name) {
            return self.same_driver(there, LOCAL).map(|there| (there, false));
        }
        let volume = Volume {
            mountpoint: self.dirs.content(&draft.name),
            ..Volume::new(draft, LOCAL)
        };
        let place = volume.mountpoint.clone();
        blocking(move || VolumeDirs::make(&place)).await?;
        berth_faults::passing("docker.volume.made");
        Ok((self.put(volume).await?, true))
    }

    /// A name belongs to one driver.
    pub(crate) fn same_driver(&self, there: Arc<Volume>, driver: &str) -> Result<Arc<Volume>> {
        match there.driver == driver {
            true => Ok(there),
            false => Err(Error::Conflict(format!(
                "create {0}: a volume named {0} already exists with the {1} driver. \
                 Choose a different volume name.",
                there.name, there.driver
            ))),
        }
    }

    /// Writes it down and shows it.
    pub(crate) async fn put(&self, volume: Volume) -> Result<Arc<Volume>> {
        let volume = Arc::new(volume);
        let mut batch = Batch::new();
        batch.put(schema::volumes(), &volume.name, &*volume)?;
        self.store.commit(batch).await?;
        let mut all = self.all.write();
        all.insert(volume.name.clone(), Arc::clone(&volume));
        Ok(volume)
    }

    /// Makes the files of a volume appear that are not there already, for one that is about to use
    /// them: the id of a container, or one that begins with it and a dot. Says where they are.
    pub(crate) async fn take(self: &Arc<Self>, name: &str, user: &str) -> Result<PathBuf> {
        let volume = self.get(name)?;
        if volume.driver != LOCAL {
            return self.take_plugged(&volume, user).await;
        }
        let place = volume.mountpoint.clone();
        if volume.options.is_empty() {
            return Ok(place);
        }
        let _one = self.changing.lock().await;
        blocking(move || local::mount_on(&volume.mountpoint, &volume.options)).await?;
        self.note_user(name, user);
        Ok(place)
    }

    /// For a container that has it already, under a former daemon.
    pub(crate) fn note_user(&self, name: &str, user: &str) {
        let mut users = self.users.lock();
        let of_volume = users.entry(name.to_owned()).or_default();
        of_volume.insert(user.to_owned());
    }

    /// Whether others have it.
    pub(crate) fn forget_user(&self, name: &str, user: &str) -> bool {
        let mut users = self.users.lock();
        let others = users.get_mut(name).is_some_and(|users| {
            users.remove(user);
            !users.is_empty()
        });
        if !others {
            users.remove(name);
        }
        others
    }

    /// The opposite of [`Volumes::take`]; of a filesystem the last one unmounts it. Repeating it is
    /// harmless.
    pub(crate) async fn let_go(self: &Arc<Self>, name: &str, user: &str) -> Result<()> {
        let Ok(volume) = self.get(name) else {
            return Ok(());
        };
        if volume.driver != LOCAL {
            return self.let_go_plugged(&volume, user).await;
        }
        if volume.options.is_empty() {
            return Ok(());
        }
        let _one = self.changing.lock().await;
        if self.forget_user(name, user) {
            return Ok(());
        }
        blocking(move || local::unmount_from(&volume.mountpoint)).await
    }

    /// Removes the volume and its content. The caller knows that nobody uses it. By force one is
    /// forgotten that its plugin does not remove.
    pub(crate) async fn remove(&self, name: &str, force: bool) -> Result<()> {
        let volume = self.get(name)?;
        if volume.driver != LOCAL {
            return self.remove_plugged(&volume, force).await;
        }
        let _one = self.changing.lock().await;
        let volume = self.get(name)?;
        // What is mounted there is others', and is not to be removed with the directory.
        let (dirs, of) = (Arc::clone(&self.dirs), name.to_owned());
        blocking(move || {
            local::unmount_from(&volume.mountpoint)?;
            dirs.put_aside(&of)
        })
        .await?;
        berth_faults::passing("docker.volume.put-aside");
        let (dirs, of) = (Arc::clone(&self.dirs), name.to_owned());
        if let Err(error) = self.erase(name).await {
            blocking(move || dirs.put_back(&of)).await?;
            return Err(error);
        }
        berth_faults::passing("docker.volume.erased");
        blocking(move || dirs.discard(&of)).await
    }

    pub(crate) async fn erase(&self, name: &str) -> Result<()> {
        let mut batch = Batch::new();
        batch.remove(schema::volumes::<Volume>(), &name.to_owned());
        self.store.commit(batch).await?;
        self.all.write().remove(name);
        Ok(())
    }
}

impl Volume {
    /// Nowhere yet.
    pub(crate) fn new(draft: VolumeDraft, driver: &str) -> Self {
        Self {
            mountpoint: PathBuf::new(),
            driver: driver.to_owned(),
            created_at: berth_lifecycle::record::now(),
            labels: draft.labels,
            options: draft.options,
            name: draft.name,
            holders: BTreeSet::new(),
            anonymous: draft.anonymous,
        }
    }

    /// Its files belong to a plugin.
    pub fn is_plugged(&self) -> bool {
        self.driver != LOCAL
    }
}

/// As Docker makes them up.
pub(crate) fn made_up_name() -> String {
    (0..4)
        .map(|_| format!("{:016x}", fastrand::u64(..)))
        .collect()
}
