//! Every container that stands alone, by id, name or the beginning of an id.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use berth_images::Images;
use berth_lifecycle::{Runtime, chain};
use berth_metadata::{Store, schema};
use berth_names::Digest;
use berth_network::Networks;
use berth_plugins::Plugins;

use crate::config::{Config, HostConfig, NetworkingConfig};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::exec::Commands;
use crate::files::{Files, make_dir};
use crate::health;
use crate::house::House;
use crate::layer_size;
use crate::logs::{self, driver};
use crate::name;
use crate::networks;
use crate::policy;
use crate::record::{Phase, Record};
use crate::sharing;
use crate::task::{Command, signal};
use crate::volumes::{Volume, Volumes};

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// Logs, volumes and what else outlives a run.
    pub root: PathBuf,
    pub plugins: Plugins,
}

/// A container that is to be made.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// Empty for one that is made up.
    pub name: String,
    pub config: Config,
    pub host: HostConfig,
    pub networking: NetworkingConfig,
}

/// The containers of one daemon. Cheap to clone.
#[derive(Clone)]
pub struct Containers {
    house: Arc<House>,
    pub commands: Arc<Commands>,
}

impl Containers {
    /// Takes over what a former daemon left: what runs goes on, what ended meanwhile is noted, and
    /// what is to run again is started.
    pub async fn open(
        runtime: Runtime,
        images: Arc<Images>,
        networks: Networks,
        store: Store,
        places: Places,
    ) -> Result<Self> {
        make_dir(&places.root.join("containers"))?;
        let records = store.scan(schema::standalone::<Record>())?.records;
        let house = House::open(
            runtime,
            images,
            networks,
            store,
            places.root,
            places.plugins,
        )?;
        let known: HashSet<String> = records.iter().map(|(id, _)| id.to_string()).collect();
        let live = records.iter().map(|(_, record)| &record.id);
        let live = live.filter(|id| house.runtime.container(id.as_str()).is_ok());
        house.reconcile_networks(live.cloned().collect()).await;
        let layers: HashSet<_> = house.runtime.layers().into_iter().collect();
        let cut_short =
            |record: &Record| record.phase == Phase::Removing || !layers.contains(&record.id);
        let (going, staying): (Vec<_>, Vec<_>) = records
            .into_iter()
            .map(|(_, record)| record)
            .partition(cut_short);
        for record in staying {
            let found = house.runtime.container(record.id.as_str()).ok();
            house.add(record, found);
        }
        // Now that it is known who else has their volumes.
        for record in going {
            house.finish_removal(&record).await;
        }
        house.sweep(&known).await;
        house.volumes.reconcile(&known);
        tokio::spawn(logs::rotation::rotate_all(Arc::downgrade(&house)));
        let commands = Arc::clone(&house.commands);
        Ok(Self { house, commands })
    }

    /// Has what happens from now on told, in its order. `listener` must not wait; there is one.
    pub fn listen(&self, listener: impl Fn(Event) + Send + Sync + 'static) {
        self.house.listen(Box::new(listener));
    }

    pub(crate) fn house(&self) -> &House {
        &self.house
    }

    pub fn volumes(&self) -> &Volumes {
        &self.house.volumes
    }

    pub fn all(&self) -> Vec<Arc<Container>> {
        self.house.all()
    }

    /// By id, by name, or by the beginning of an id that is the only one.
    pub fn get(&self, wanted: &str) -> Result<Arc<Container>> {
        self.house.get(wanted)
    }

    /// Makes a container. It is durable when this answers; what a failure leaves is gone.
    pub async fn create(
        &self,
        mut draft: Draft,
        image: &Digest,
    ) -> Result<(Arc<Container>, Vec<String>)> {
        let house = &self.house;
        let mut warnings = Vec::new();
        if !house.runtime.has_cgroups() && crate::limits::are_asked(&draft.host.limits) {
            warnings.push(crate::limits::DISCARDED.to_owned());
        }
        policy::check(&draft.host.restart_policy, draft.host.auto_remove)?;
        house.settle_modes(&mut draft.host)?;
        sharing::check(&draft.config, &draft.host)?;
        let endpoints = networks::asked(&draft.host, &draft.networking)?;
        crate::limits::resources(&draft.host)?;
        crate::limits::rlimits(&draft.host.limits.ulimits)?;
        driver::check(&draft.host.log_config, &house.volumes.plugins).await?;
        if let Some(wanted) = &draft.config.healthcheck {
            health::check(wanted)?;
        }
        if !draft.config.stop_signal.is_empty() {
            signal(&draft.config.stop_signal)?;
        }
        let limit = layer_size::limit(&draft.host.storage_opt, &house.runtime)?;
        let asked = (!draft.name.is_empty()).then(|| name::container(&draft.name));
        let made = house.runtime.make_layer(&image.to_string(), limit).await;
        let (id, image) = made?;
        let name = match house.take_name(asked.transpose(), id.as_str()) {
            Ok(name) => name,
            Err(error) => {
                house.runtime.remove_layer(&id).await?;
                return Err(error);
            }
        };
        if let Err(error) = house.settle_links(&name, &mut draft.host) {
            house.give_back_name(&name);
            house.runtime.remove_layer(&id).await?;
            return Err(error);
        }
        let files = Files::new(&house.root, id.as_str());
        let logs = driver::Driver::of(&draft.host.log_config) != driver::Driver::None;
        let mut record = Record {
            command: Vec::new(),
            mounts: Vec::new(),
            log_path: logs.then(|| files.log()),
            id: id.clone(),
            name: name.clone(),
            created_at: berth_lifecycle::record::now(),
            image_id: image.id.clone(),
            config: draft.config,
            host: draft.host,
            networking: draft.networking,
            phase: Phase::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: 0,
            finished_at: 0,
            restarts: 0,
            ends: 0,
            health: None,
            removes_volumes: false,
            stopped_by_hand: false,
            endpoints,
            joined: BTreeMap::new(),
            ports: BTreeMap::new(),
            addresses: Vec::new(),
        };
        match house.furnish(&mut record, &image, &files).await {
            Ok(()) => {
                let container = house.add(record, None);
                house.tell(Event::of(&container.view(), "create"));
                Ok((container, warnings))
            }
            Err(error) => {
                house.give_back_name(&name);
                // Its volumes were made for it.
                record.removes_volumes = true;
                if let Err(left) = house.dispose(&record).await {
                    tracing::warn!(id = %record.id, error = chain(&left), "left until the next start");
                }
                Err(error)
            }
        }
    }

    /// Gives a container another name.
    pub async fn rename(&self, container: &Container, name: &str) -> Result<()> {
        let name = name::container(name)?;
        let view = container.view();
        if view.name == name {
            return Err(Error::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        self.house
            .take_name(Ok(Some(name.clone())), view.id.as_str())?;
        let renamed = container
            .mailbox
            .ask("rename", |reply| Command::Rename(name.clone(), reply))
            .await;
        let gone = if renamed.is_ok() { &view.name } else { &name };
        self.house.give_back_name(gone);
        renamed
    }

    /// Containers whose mounts are of this volume.
    pub fn users_of(&self, volume: &str) -> Vec<Arc<Container>> {
        self.house.users_of(volume)
    }

    /// Removes a volume that no container has; by force one is forgotten that its plugin does not
    /// remove.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<Arc<Volume>> {
        let there = self.house.volumes.anywhere(name).await?;
        let there = there.ok_or_else(|| Error::VolumeNotFound(name.to_owned()))?;
        let users = self.users_of(name);
        if !users.is_empty() {
            let ids: Vec<String> = users.iter().map(|one| one.view().id.to_string()).collect();
            return Err(Error::Conflict(format!(
                "remove {name}: volume is in use - [{}]",
                ids.join(", ")
            )));
        }
        self.house.volumes.remove(name, force).await?;
        Ok(there)
    }

    /// The same, with more to say than the container's own attributes.
    pub fn tell_with(&self, container: &Container, action: &str, more: &[(&str, String)]) {
        let event = Event::of(&container.view(), action);
        let event = more
            .iter()
            .fold(event, |event, (key, value)| event.with(key, value));
        self.house.tell(event);
    }

    /// Tells that something was done to a container from outside of its task.
    pub fn tell(&self, container: &Container, action: impl Into<String>) {
        self.tell_event(Event::of(&container.view(), action));
    }

    pub(crate) fn tell_event(&self, event: Event) {
        self.house.tell(event);
    }
}
