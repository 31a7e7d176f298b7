//! Volumes: directories that outlive containers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_metadata::{Batch, Store, schema};
use berth_names::ContainerId;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::{blocking, make_dir};
use crate::local;
use crate::name;
use crate::record::Nanos;

const DRIVER: &str = "local";

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
}

/// A volume as it is asked for; an empty name means one that is made up.
#[derive(Debug, Clone, Default)]
pub struct VolumeDraft {
    pub name: String,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

pub struct Volumes {
    root: PathBuf,
    store: Store,
    all: RwLock<BTreeMap<String, Arc<Volume>>>,
    /// Who has the filesystem of a volume mounted.
    users: Mutex<BTreeMap<String, BTreeSet<ContainerId>>>,
    /// One is made, mounted or removed at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Volumes {
    pub(crate) fn open(root: &Path, store: Store) -> Result<Self> {
        let root = root.join("volumes");
        make_dir(&root)?;
        let found = store.scan(schema::volumes::<Volume>())?.records;
        let all = found
            .into_iter()
            .map(|(name, volume)| (name, Arc::new(volume)));
        Ok(Self {
            all: RwLock::new(all.collect()),
            users: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            root,
            store,
        })
    }

    pub fn all(&self) -> Vec<Arc<Volume>> {
        self.all.read().values().cloned().collect()
    }

    pub fn get(&self, name: &str) -> Result<Arc<Volume>> {
        let found = self.all.read().get(name).cloned();
        found.ok_or_else(|| Error::VolumeNotFound(name.to_owned()))
    }

    /// Makes the volume, or answers with the one of that name, and says whether it is new.
    pub async fn create(&self, draft: VolumeDraft) -> Result<(Arc<Volume>, bool)> {
        if !draft.driver.is_empty() && draft.driver != DRIVER {
            let driver = &draft.driver;
            return Err(Error::invalid(format!(
                "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        local::check(&draft.options)?;
        let anonymous = draft.name.is_empty();
        let name = match anonymous {
            true => (0..4)
                .map(|_| format!("{:016x}", fastrand::u64(..)))
                .collect(),
            false => draft.name,
        };
        name::volume(&name)?;
        let _one = self.changing.lock().await;
        if let Ok(there) = self.get(&name) {
            return Ok((there, false));
        }
        let volume = Arc::new(Volume {
            mountpoint: self.root.join(&name).join("_data"),
            driver: DRIVER.to_owned(),
            created_at: berth_lifecycle::record::now(),
            labels: draft.labels,
            options: draft.options,
            anonymous,
            name,
        });
        let place = volume.mountpoint.clone();
        blocking(move || make_volume_dir(&place)).await?;
        let mut batch = Batch::new();
        batch.put(schema::volumes(), &volume.name, &*volume)?;
        self.store.commit(batch).await?;
        let mut all = self.all.write();
        all.insert(volume.name.clone(), Arc::clone(&volume));
        Ok((volume, true))
    }

    /// Mounts the filesystem of a volume that has one, for a container that is about to run.
    pub(crate) async fn take(&self, name: &str, container: &ContainerId) -> Result<()> {
        let volume = self.get(name)?;
        if volume.options.is_empty() {
            return Ok(());
        }
        let _one = self.changing.lock().await;
        let mounted = Arc::clone(&volume);
        blocking(move || local::mount_on(&mounted.mountpoint, &mounted.options)).await?;
        self.note_user(name, container);
        Ok(())
    }

    /// For a container that has it already, under a former daemon.
    pub(crate) fn note_user(&self, name: &str, container: &ContainerId) {
        let mut users = self.users.lock();
        let of_volume = users.entry(name.to_owned()).or_default();
        of_volume.insert(container.clone());
    }

    /// The opposite of [`Volumes::take`]; the last one unmounts it. Repeating it is harmless.
    pub(crate) async fn let_go(&self, name: &str, container: &ContainerId) -> Result<()> {
        let Ok(volume) = self.get(name) else {
            return Ok(());
        };
        if volume.options.is_empty() {
            return Ok(());
        }
        let _one = self.changing.lock().await;
        let is_used = {
            let mut users = self.users.lock();
            let others = users.get_mut(name).is_some_and(|users| {
                users.remove(container);
                !users.is_empty()
            });
            if !others {
                users.remove(name);
            }
            others
        };
        if is_used {
            return Ok(());
        }
        blocking(move || local::unmount_from(&volume.mountpoint)).await
    }

    /// Removes the volume and its content. The caller knows that nobody uses it.
    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let _one = self.changing.lock().await;
        let volume = self.get(name)?;
        // What is mounted there is others', and is not to be removed with the directory.
        blocking(move || local::unmount_from(&volume.mountpoint)).await?;
        let mut batch = Batch::new();
        batch.remove(schema::volumes::<Volume>(), &name.to_owned());
        self.store.commit(batch).await?;
        self.all.write().remove(name);
        let place = self.root.join(name);
        blocking(move || match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove", &place)(error))
            }
            _ => Ok(()),
        })
        .await
    }
}

/// As an empty directory of root's that every user may enter; what an image has there changes that.
fn make_volume_dir(place: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = place.parent() {
        make_dir(parent)?;
    }
    fs::create_dir_all(place)
        .and_then(|()| fs::set_permissions(place, fs::Permissions::from_mode(0o755)))
        .map_err(Error::file("create", place))
}
