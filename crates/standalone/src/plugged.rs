//! Volumes of plugins: what they are is the plugin's business, what is kept here are labels, options
//! and who has them.
//!
//! ```text
//!  take:   holder written down ─▶ VolumeDriver.Mount ─▶ path
//!  let go: VolumeDriver.Unmount ─▶ holder struck out      again later, while the plugin is away
//! ```
//!
//! The holder is on disk before the plugin is asked, so that whatever a daemon that is killed leaves
//! mounted is unmounted by the next one. A plugin is asked once for each holder, and counts them.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_plugins::{Error as PluginError, Patience, PluginVolume, VolumeDriver};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::volumes::{Volume, VolumeDraft, Volumes};

/// How long the end of a run waits for a plugin; it goes on behind.
const WAIT: Duration = Duration::from_secs(10);
/// Between attempts to have a volume unmounted, and how long that grows.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(300);

/// A volume as it is at this moment.
#[derive(Debug, Clone)]
pub struct ShownVolume {
    /// Where its plugin says something else than was written down, that is here.
    pub volume: Arc<Volume>,
    /// `local`, or `global`.
    pub scope: &'static str,
    /// What its plugin tells beside.
    pub status: Map<String, Value>,
}

impl ShownVolume {
    fn local(volume: Arc<Volume>) -> Self {
        Self {
            volume,
            scope: "local",
            status: Map::new(),
        }
    }
}

impl Volumes {
    /// Every volume, and why those of some plugins are missing or old.
    pub async fn list(&self) -> (Vec<ShownVolume>, Vec<String>) {
        let (drivers, failed) = VolumeDriver::all(&self.plugins).await;
        let mut warnings: Vec<String> = (failed.iter())
            .map(|(name, error)| format!("volume plugin {name}: {}", error.report()))
            .collect();
        let mut asked = JoinSet::new();
        for driver in drivers {
            asked.spawn(async move {
                let listed = tokio::try_join!(driver.list(), driver.scope());
                (driver.name().to_owned(), listed)
            });
        }
        let mut answered = BTreeMap::new();
        while let Some(Ok((name, listed))) = asked.join_next().await {
            match listed {
                Ok(listed) => drop(answered.insert(name, listed)),
                Err(error) => warnings.push(format!("volume plugin {name}: {}", error.report())),
            }
        }
        let mut shown = BTreeMap::new();
        for volume in self.all() {
            // Of a plugin that answers, what it answers counts.
            if !answered.contains_key(&volume.driver) {
                shown.insert(volume.name.clone(), ShownVolume::local(volume));
            }
        }
        for (driver, (volumes, scope)) in answered {
            for told in volumes {
                if !shown.contains_key(&told.name) {
                    let seen = self.seen(&driver, told, scope);
                    shown.insert(seen.volume.name.clone(), seen);
                }
            }
        }
        (shown.into_values().collect(), warnings)
    }

    /// One volume, also if only its plugin knows it.
    pub async fn find(&self, name: &str) -> Result<ShownVolume> {
        match self.get(name) {
            Ok(known) if !known.is_plugged() => Ok(ShownVolume::local(known)),
            Ok(known) => {
                let (driver, failed) = (&known.driver, failed("get", name));
                let driver = match VolumeDriver::open(&self.plugins, driver, Patience::Look).await {
                    Ok(driver) => driver,
                    Err(error) => return Err(failed(error)),
                };
                let told = driver.get(name).await.map_err(&failed)?;
                let scope = driver.scope().await.map_err(&failed)?;
                Ok(self.seen(driver.name(), told, scope))
            }
            Err(missing) => {
                let (driver, told) = self.who_has(name).await.ok_or(missing)?;
                let scope = driver.scope().await.map_err(failed("get", name))?;
                Ok(self.seen(driver.name(), told, scope))
            }
        }
    }

    /// What is known of a volume with what its plugin says.
    fn seen(&self, driver: &str, told: PluginVolume, scope: &'static str) -> ShownVolume {
        let known = self.get(&told.name).ok();
        let known = known.filter(|known| known.driver == driver);
        let mut volume = match known {
            Some(known) => Volume::clone(&known),
            None => {
                let draft = VolumeDraft {
                    name: told.name,
                    ..VolumeDraft::default()
                };
                Volume {
                    created_at: 0,
                    ..Volume::new(draft, driver)
                }
            }
        };
        volume.mountpoint = told.mountpoint;
        if let Ok(at) = OffsetDateTime::parse(&told.created_at, &Rfc3339) {
            volume.created_at = i64::try_from(at.unix_timestamp_nanos()).unwrap_or_default();
        }
        ShownVolume {
            volume: Arc::new(volume),
            scope,
            status: told.status,
        }
    }

    /// The first plugin that has a volume of that name. Who does not answer has none.
    async fn who_has(&self, name: &str) -> Option<(VolumeDriver, PluginVolume)> {
        let (drivers, _failed) = VolumeDriver::all(&self.plugins).await;
        let mut asked = JoinSet::new();
        for driver in drivers {
            let name = name.to_owned();
            asked.spawn(async move {
                let told = driver.get(&name).await.ok()?;
                (told.name == name).then_some((driver, told))
            });
        }
        while let Some(done) = asked.join_next().await {
            if let Ok(Some(found)) = done {
                return Some(found);
            }
        }
        None
    }

    /// A volume that somebody made, here or at a plugin; it is written down then.
    pub(crate) async fn anywhere(&self, name: &str) -> Result<Option<Arc<Volume>>> {
        if let Ok(known) = self.get(name) {
            return Ok(Some(known));
        }
        let Some((driver, _)) = self.who_has(name).await else {
            return Ok(None);
        };
        let _one = self.alone(name).await;
        if let Ok(known) = self.get(name) {
            return Ok(Some(known));
        }
        let draft = VolumeDraft {
            name: name.to_owned(),
            ..VolumeDraft::default()
        };
        let volume = Volume::new(draft, driver.name());
        self.put(volume).await.map(Some)
    }

    pub(crate) async fn create_plugged(&self, draft: VolumeDraft) -> Result<(Arc<Volume>, bool)> {
        let name = draft.name.clone();
        let failed = failed("create", &name);
        let driver = VolumeDriver::open(&self.plugins, &draft.driver, Patience::Change).await;
        let driver = driver.map_err(&failed)?;
        let _one = self.alone(&name).await;
        let known = match self.get(&name) {
            Ok(there) => Some(self.same_driver(there, driver.name())?),
            Err(_) => None,
        };
        let is_there = match driver.get(&name).await {
            Ok(told) => told.name == name,
            // It has none of that name.
            Err(error) if error.is_refusal() => false,
            Err(error) => return Err(failed(error)),
        };
        if !is_there {
            let made = driver.create(&name, &draft.options).await;
            made.map_err(&failed)?;
        }
        let volume = match known {
            Some(known) => known,
            None => {
                let volume = Volume::new(draft, driver.name());
                let put = self.put(volume).await;
                if put.is_err() && !is_there {
                    let _undone = driver.remove(&name).await;
                }
                put?
            }
        };
        Ok((volume, !is_there))
    }

    pub(crate) async fn take_plugged(
        self: &Arc<Self>,
        volume: &Volume,
        user: &str,
    ) -> Result<PathBuf> {
        let name = volume.name.as_str();
        let failed = failed("mount", name);
        let driver = VolumeDriver::open(&self.plugins, &volume.driver, Patience::Change).await;
        let driver = driver.map_err(&failed)?;
        let one = self.alone(name).await;
        self.hold(name, user, true).await?;
        match driver.mount(name, user).await {
            Ok(place) => {
                self.note_user(name, user);
                Ok(place)
            }
            Err(error) => {
                let nothing_mounted = matches!(
                    error,
                    PluginError::Refused { .. } | PluginError::Unreachable { .. }
                );
                if nothing_mounted {
                    self.hold(name, user, false).await?;
                } else {
                    drop(one);
                    self.unmount_behind(name, user);
                }
                Err(failed(error))
            }
        }
    }

    pub(crate) async fn let_go_plugged(
        self: &Arc<Self>,
        volume: &Volume,
        user: &str,
    ) -> Result<()> {
        let name = volume.name.as_str();
        self.forget_user(name, user);
        if !volume.holders.contains(user) {
            return Ok(());
        }
        let unmounting = self.unmount_behind(name, user);
        if tokio::time::timeout(WAIT, unmounting).await.is_err() {
            tracing::warn!(volume = name, user, "its plugin is still to unmount it");
        }
        Ok(())
    }

    /// What a former daemon left mounted for nobody; the tasks of containers see to their own.
    pub(crate) fn reconcile(self: &Arc<Self>, containers: &HashSet<String>) {
        for volume in self.all() {
            let lost = volume.holders.iter();
            for user in lost.filter(|user| !containers.contains(*user)) {
                self.unmount_behind(&volume.name, user);
            }
        }
    }

    /// Asks the plugin until it is done, or somebody has the volume again by that name.
    fn unmount_behind(self: &Arc<Self>, name: &str, user: &str) -> tokio::task::JoinHandle<()> {
        let (this, name, user) = (Arc::clone(self), name.to_owned(), user.to_owned());
        tokio::spawn(async move {
            let mut wait = AGAIN;
            while let Err(error) = this.unmount(&name, &user).await {
                tracing::warn!(volume = name, user, %error, "not unmounted, asked again later");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(AGAIN_AT_MOST);
            }
        })
    }

    async fn unmount(&self, name: &str, user: &str) -> Result<()> {
        let _one = self.alone(name).await;
        let Ok(volume) = self.get(name) else {
            return Ok(());
        };
        let is_back = |users: &BTreeMap<_, std::collections::BTreeSet<String>>| {
            users.get(name).is_some_and(|users| users.contains(user))
        };
        if !volume.holders.contains(user) || is_back(&self.users.lock()) {
            return Ok(());
        }
        let failed = failed("unmount", name);
        let driver = VolumeDriver::open(&self.plugins, &volume.driver, Patience::Change).await;
        match driver.map_err(&failed)?.unmount(name, user).await {
            Ok(()) => {}
            // Asking again would not change its mind.
            Err(error) if error.is_refusal() => {
                tracing::warn!(volume = name, user, %error, "its plugin does not unmount it");
            }
            Err(error) => return Err(failed(error)),
        }
        self.hold(name, user, false).await
    }

    pub(crate) async fn remove_plugged(&self, volume: &Volume, force: bool) -> Result<()> {
        let name = volume.name.as_str();
        let _one = self.alone(name).await;
        let removed =
            match VolumeDriver::open(&self.plugins, &volume.driver, Patience::Change).await {
                Ok(driver) => driver.remove(name).await,
                Err(error) => Err(error),
            };
        match removed {
            Err(error) if force => {
                tracing::warn!(volume = name, %error, "forgotten, though its plugin has it");
            }
            other => other.map_err(failed("remove", name))?,
        }
        match self.get(name) {
            Ok(_) => self.erase(name).await,
            Err(_) => Ok(()),
        }
    }

    /// Writes down that `user` has the volume, or has it no more.
    async fn hold(&self, name: &str, user: &str, holds: bool) -> Result<()> {
        let mut volume = Volume::clone(&*self.get(name)?);
        let changed = match holds {
            true => volume.holders.insert(user.to_owned()),
            false => volume.holders.remove(user),
        };
        if changed {
            self.put(volume).await?;
        }
        Ok(())
    }

    async fn alone(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut busy = self.busy.lock();
            busy.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(busy.entry(name.to_owned()).or_default())
        };
        lock.lock_owned().await
    }
}

/// As Docker words what a plugin did not do.
fn failed(action: &'static str, name: &str) -> impl Fn(PluginError) -> Error + use<> {
    let name = name.to_owned();
    move |cause| Error::VolumePlugin {
        action,
        name: name.clone(),
        cause,
    }
}
