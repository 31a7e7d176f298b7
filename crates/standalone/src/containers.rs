//! Every container that stands alone, by id, name or the beginning of an id.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_images::Images;
use berth_lifecycle::request::Owner;
use berth_lifecycle::{Runtime, StdStreams, chain};
use berth_metadata::{Batch, Store, schema};
use berth_names::Digest;
use berth_network::Networks;
use parking_lot::RwLock;
use tokio::sync::{broadcast, mpsc, watch};

use crate::config::{Config, HostConfig, Limits, NetworkingConfig, RestartPolicy};
use crate::endpoint::EndpointSettings;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::exec::Commands;
use crate::files::{Files, blocking, make_dir};
use crate::logs::{self, LogQuery, Logs};
use crate::mailbox::Mailbox;
use crate::mounts;
use crate::name;
use crate::networks;
use crate::policy;
use crate::record::{MountPoint, Phase, Record};
use crate::request;
use crate::task::{Attachment, Command, StopWish, Task, signal};
use crate::volumes::Volumes;

/// Events that may wait for one who listens.
const EVENTS: usize = 1024;
/// How often logs are looked at for their size.
const ROTATE: Duration = Duration::from_secs(5);
/// Bytes of a log file, and files, where the request names none.
const LOG_SIZE: u64 = 20 << 20;
const LOG_FILES: u32 = 5;

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// Logs, volumes and what else outlives a run.
    pub root: PathBuf,
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

/// What every task shares.
pub(crate) struct House {
    pub runtime: Runtime,
    pub images: Arc<Images>,
    pub networks: Networks,
    pub root: PathBuf,
    pub volumes: Volumes,
    store: Store,
    events: broadcast::Sender<Arc<Event>>,
    all: RwLock<All>,
}

#[derive(Default)]
struct All {
    by_id: BTreeMap<String, Arc<Container>>,
    names: BTreeMap<String, String>,
}

/// One container, as others see it.
pub struct Container {
    shown: watch::Sender<Arc<Record>>,
    run: watch::Sender<Option<Arc<berth_lifecycle::Container>>>,
    mailbox: Mailbox<Command>,
    files: Files,
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
        let house = Arc::new(House {
            volumes: Volumes::open(&places.root, store.clone())?,
            events: broadcast::Sender::new(EVENTS),
            all: RwLock::default(),
            root: places.root,
            runtime,
            images,
            networks,
            store,
        });
        let known: HashSet<String> = records.iter().map(|(id, _)| id.to_string()).collect();
        let live = records.iter().map(|(_, record)| &record.id);
        let live = live.filter(|id| house.runtime.container(id.as_str()).is_ok());
        house.reconcile_networks(live.cloned().collect()).await;
        for (_, record) in records {
            let found = house.runtime.container(record.id.as_str()).ok();
            house.add(record, found);
        }
        house.sweep(&known).await;
        tokio::spawn(rotate(Arc::downgrade(&house)));
        Ok(Self {
            house,
            commands: Arc::default(),
        })
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.house.events.subscribe()
    }

    pub fn volumes(&self) -> &Volumes {
        &self.house.volumes
    }

    pub fn all(&self) -> Vec<Arc<Container>> {
        self.house.all.read().by_id.values().cloned().collect()
    }

    /// By id, by name, or by the beginning of an id that is the only one.
    pub fn get(&self, wanted: &str) -> Result<Arc<Container>> {
        self.house.get(wanted)
    }

    /// Makes a container. It is durable when this answers; what a failure leaves is gone.
    pub async fn create(
        &self,
        draft: Draft,
        image: &Digest,
    ) -> Result<(Arc<Container>, Vec<String>)> {
        let house = &self.house;
        policy::check(&draft.host.restart_policy, draft.host.auto_remove)?;
        let endpoints = networks::asked(&draft.host, &draft.networking)?;
        crate::limits::resources(&draft.host)?;
        crate::limits::rlimits(&draft.host.limits.ulimits)?;
        if !draft.config.stop_signal.is_empty() {
            signal(&draft.config.stop_signal)?;
        }
        let asked = (!draft.name.is_empty()).then(|| name::container(&draft.name));
        let (id, image) = house.runtime.make_layer(&image.to_string()).await?;
        let name = match house.take_name(asked.transpose(), id.as_str()) {
            Ok(name) => name,
            Err(error) => {
                house.runtime.remove_layer(&id).await?;
                return Err(error);
            }
        };
        let files = Files::new(&house.root, id.as_str());
        let logs = draft.host.log_config.r#type != "none";
        let record = Record {
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
            stopped_by_hand: false,
            endpoints,
            joined: BTreeMap::new(),
            ports: BTreeMap::new(),
            addresses: Vec::new(),
        };
        match house.furnish(record, &image, &files).await {
            Ok(record) => {
                let container = house.add(record, None);
                house.tell(Event::of(&container.view(), "create"));
                Ok((container, Vec::new()))
            }
            Err(error) => {
                house.all.write().names.remove(&name);
                let _ = blocking(move || files.remove()).await;
                house.runtime.remove_layer(&id).await?;
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
        self.house.all.write().names.remove(gone);
        renamed
    }

    /// Containers whose mounts are of this volume.
    pub fn users_of(&self, volume: &str) -> Vec<Arc<Container>> {
        self.house.users_of(volume)
    }

    /// Removes a volume that no container has.
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        self.house.volumes.get(name)?;
        let users = self.users_of(name);
        if !users.is_empty() {
            let ids: Vec<String> = users.iter().map(|one| one.view().id.to_string()).collect();
            return Err(Error::Conflict(format!(
                "remove {name}: volume is in use - [{}]",
                ids.join(", ")
            )));
        }
        self.house.volumes.remove(name).await
    }

    /// Tells that something was done to a container from outside of its task.
    pub fn tell(&self, container: &Container, action: impl Into<String>) {
        self.house.tell(Event::of(&container.view(), action));
    }
}

impl House {
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
        let _ = self.events.send(Arc::new(event));
    }

    fn add(
        self: &Arc<Self>,
        record: Record,
        found: Option<Arc<berth_lifecycle::Container>>,
    ) -> Arc<Container> {
        let (mailbox, inbox): (_, mpsc::Receiver<Command>) = Mailbox::new(record.id.as_str());
        let container = Arc::new(Container {
            files: Files::new(&self.root, record.id.as_str()),
            run: watch::Sender::new(None),
            mailbox,
            shown: watch::Sender::new(Arc::new(record)),
        });
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
    fn take_name(&self, asked: Result<Option<String>>, id: &str) -> Result<String> {
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
    async fn furnish(
        &self,
        mut record: Record,
        image: &berth_images::Image,
        files: &Files,
    ) -> Result<Record> {
        record.command = request::command(&record.config, image)?;
        let inherited = self.inherited(&record.host)?;
        let declared = image.config.volumes();
        let planned = mounts::plan(&record.config, &record.host, declared, inherited)?;
        for (point, copy) in mounts::settle(&self.volumes, planned).await? {
            if copy {
                let (path, into) = (
                    point.destination.clone().into(),
                    point.source.clone().into(),
                );
                self.runtime.copy_up(&record.id, path, into).await?;
            }
            record.mounts.push(point);
        }
        let made = files.clone();
        blocking(move || made.create()).await?;
        // What cannot be asked of the core is refused now, not at the start.
        request::pod(&record, files)?;
        request::container(&record, image, files)?;
        self.commit(&record).await?;
        Ok(record)
    }

    fn inherited(&self, host: &HostConfig) -> Result<Vec<MountPoint>> {
        let mut all = Vec::new();
        for from in &host.volumes_from {
            let (name, mode) = from.split_once(':').unwrap_or((from, "rw"));
            for mut point in self.get(name)?.view().mounts.clone() {
                point.rw &= mode != "ro";
                point.anonymous = false;
                all.push(point);
            }
        }
        Ok(all)
    }

    fn users_of(&self, volume: &str) -> Vec<Arc<Container>> {
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
            if let Err(error) = self.volumes.remove(&point.name).await {
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

    /// Layers, pods and directories of containers that nobody has written down.
    async fn sweep(&self, known: &HashSet<String>) {
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

impl Container {
    /// The container at this moment.
    pub fn view(&self) -> Arc<Record> {
        Arc::clone(&self.shown.borrow())
    }

    /// Every change of the record from now on; it ends with the container.
    pub fn watch(&self) -> watch::Receiver<Arc<Record>> {
        self.shown.subscribe()
    }

    /// The core's container of the present run.
    pub fn running(&self) -> Result<Arc<berth_lifecycle::Container>> {
        let view = self.view();
        let run = self.run.borrow().clone();
        run.filter(|_| view.phase.runs())
            .ok_or_else(|| Error::NotRunning(view.id.to_string()))
    }

    pub async fn start(&self) -> Result<()> {
        self.mailbox.ask("start", Command::Start).await
    }

    pub async fn stop(&self, wish: StopWish) -> Result<()> {
        self.mailbox
            .ask("stop", |reply| Command::Stop(wish, reply))
            .await
    }

    pub async fn restart(&self, wish: StopWish) -> Result<()> {
        self.mailbox
            .ask("restart", |reply| Command::Restart(wish, reply))
            .await
    }

    /// Sends a signal, by name or number; empty means `KILL`.
    pub async fn kill(&self, name: &str) -> Result<()> {
        let number = signal(if name.is_empty() { "KILL" } else { name })?;
        self.mailbox
            .ask("kill", |reply| Command::Kill(number, reply))
            .await
    }

    pub async fn pause(&self) -> Result<()> {
        self.mailbox.ask("pause", Command::Pause).await
    }

    pub async fn unpause(&self) -> Result<()> {
        self.mailbox.ask("unpause", Command::Unpause).await
    }

    /// Connects it to one more network.
    pub async fn connect(&self, network: &str, settings: EndpointSettings) -> Result<()> {
        let make = |reply| Command::Connect(network.to_owned(), Box::new(settings), reply);
        self.mailbox.ask("connect", make).await
    }

    pub async fn disconnect(&self, network: &str, force: bool) -> Result<()> {
        let make = |reply| Command::Disconnect(network.to_owned(), force, reply);
        self.mailbox.ask("disconnect", make).await
    }

    pub async fn update(&self, limits: Limits, policy: Option<RestartPolicy>) -> Result<()> {
        let limits = Box::new(limits);
        self.mailbox
            .ask("update", |reply| Command::Update(limits, policy, reply))
            .await
    }

    /// Joins its streams: those of the run, or of the next one, from its first byte.
    pub async fn attach(&self, streams: StdStreams) -> Result<Attachment> {
        self.mailbox
            .ask("attach to", |reply| Command::Attach(streams, reply))
            .await
    }

    /// Removes it, with the volumes that nobody named if `volumes` says so.
    pub async fn remove(&self, force: bool, volumes: bool) -> Result<()> {
        let command = |reply| Command::Remove {
            force,
            volumes,
            reply,
        };
        match self.mailbox.ask("remove", command).await {
            Err(Error::Gone { .. }) => Ok(()),
            other => other,
        }
    }

    /// What it wrote.
    pub async fn logs(&self, query: LogQuery) -> Result<Logs> {
        let view = self.view();
        let Some(path) = &view.log_path else {
            return Err(Error::invalid(
                "configured logging driver does not support reading",
            ));
        };
        Logs::open(path, query, self.runs()).await
    }

    /// Whether it runs, as it changes.
    fn runs(&self) -> watch::Receiver<bool> {
        let mut shown = self.watch();
        let runs = shown.borrow_and_update().phase.runs();
        let (sender, receiver) = watch::channel(runs);
        if runs {
            tokio::spawn(async move {
                tokio::select! {
                    _ended = shown.wait_for(|record| !record.phase.runs()) => {}
                    () = sender.closed() => {}
                }
                sender.send_replace(false);
            });
        }
        receiver
    }

    pub(crate) fn show(&self, record: Arc<Record>) {
        self.shown.send_replace(record);
    }

    pub(crate) fn set_run(&self, run: Option<Arc<berth_lifecycle::Container>>) {
        self.run.send_replace(run);
    }
}

/// Keeps logs from filling the disk.
async fn rotate(house: std::sync::Weak<House>) {
    loop {
        tokio::time::sleep(ROTATE).await;
        let Some(house) = house.upgrade() else { return };
        let all: Vec<_> = house.all.read().by_id.values().cloned().collect();
        for container in all {
            let Ok(run) = container.running() else {
                continue;
            };
            let view = container.view();
            let (most, files) = log_bounds(&view.host);
            let path = container.files.log();
            let turned = blocking(move || Ok(logs::rotate(&path, most, files))).await;
            if turned.unwrap_or(false)
                && let Err(error) = run.reopen_log().await
            {
                tracing::warn!(id = %view.id, error = chain(&error), "log not opened again");
            }
        }
    }
}

/// From the options `max-size` and `max-file`.
fn log_bounds(host: &HostConfig) -> (u64, u32) {
    let options = &host.log_config.config;
    let size = options.get("max-size").and_then(|text| bytes(text));
    let files = options.get("max-file").and_then(|text| text.parse().ok());
    (size.unwrap_or(LOG_SIZE), files.unwrap_or(LOG_FILES))
}

/// `10m`, `1g`, `500k` or a number.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}
