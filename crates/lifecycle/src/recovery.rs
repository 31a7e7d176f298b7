//! Taking over what was there before this daemon started.
//!
//! The runtime directory says what there was in this boot, the metadata store what there was
//! before it. Every record is judged on its own: one that cannot be read is set aside and
//! reported, and the start goes on.
//!
//! | found | becomes |
//! |---|---|
//! | half-made pod or container | undone |
//! | container that ran, shim answers | running, or exited as the shim says |
//! | container that ran, shim gone | exited as it wrote down, else 255 "Unknown" |
//! | container whose start was cut short before its process was made | created, as before |
//! | container without its snapshot, record only in the store | its removal is finished |
//! | pod whose stop was cut short | stopped |
//! | anything of an earlier boot | not ready, exited |
//! | directory without a record | removed |

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_cgroups::{CgroupPath, Layout};
use berth_metadata::{Batch, Key, Table, schema};
use berth_shim_client::{Launcher, Shim, TaskStatus};
use futures::stream::{self, StreamExt};

use crate::boot::Boot;
use crate::container::{self, Phase};
use crate::core::{Core, container_key};
use crate::error::{Error, Result, chain};
use crate::exec;
use crate::files::ContainerFiles;
use crate::left_cgroups;
use crate::pod;
use crate::record::{self, ContainerRecord, ContainerState, Exit, PodRecord, PodState};
use crate::request::Scope;
use crate::restore;
use crate::shim::{self, Found, kill_cgroup};
use crate::undo::blocking;
use crate::volumes;

use serde::de::DeserializeOwned;

/// Shims that are asked at the same time.
const PARALLEL: usize = 32;

/// What a start found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    pub pods: usize,
    pub containers: usize,
    pub running: usize,
    pub undone: usize,
    pub unreadable: usize,
}

pub(crate) async fn recover(core: &Arc<Core>) -> Result<Recovered> {
    let state = core.config.state_dir.clone();
    let boot = blocking("look at the boot of", move || {
        let boot = Boot::of(&state)?;
        boot.begin(&state)?;
        Ok(boot)
    })
    .await?;
    core.layers.recover(core)?;
    for path in core.left_cgroups.paths() {
        left_cgroups::resume(core, path);
    }
    let mut found = Recovered::default();
    let pods = pods(core, boot, &mut found).await?;
    berth_faults::passing("recovery.after-pods");
    let containers = containers(core, boot, &mut found).await?;
    berth_faults::passing("recovery.after-containers");

    let live: HashSet<String> = pods.iter().map(|pod| pod.id.to_string()).collect();
    stream::iter(pods)
        .for_each_concurrent(PARALLEL, |record| adopt_pod(core, record))
        .await;
    found.pods = core.pods.all().len();
    let kept = snapshot_keys(core);
    let adopted = stream::iter(containers)
        .map(|record| adopt_container(core, record, &live, kept.as_ref()))
        .buffer_unordered(PARALLEL)
        .collect::<Vec<_>>()
        .await;
    found.containers = core.containers.all().len();
    found.running = adopted.iter().filter(|running| **running).count();
    berth_faults::passing("recovery.after-adoption");
    sweep_snapshots(core, kept.unwrap_or_default()).await;
    restore::sweep(core).await;
    reconcile_network(core, boot).await;
    berth_faults::passing("recovery.after-network");
    let worker = Arc::clone(core);
    blocking("mark the boot of", move || {
        Boot::remember(&worker.config.state_dir)
    })
    .await?;
    finish_stops(core);
    Ok(found)
}

/// Records of pods: from the runtime directory, then those that only the store has.
async fn pods(core: &Arc<Core>, boot: Boot, found: &mut Recovered) -> Result<Vec<PodRecord>> {
    let dir = core.config.state_dir.join("pods");
    let (pods, strays, unreadable) = scan::<PodRecord>(dir, "pod.json").await?;
    found.unreadable += unreadable;
    for stray in strays {
        found.undone += 1;
        let files = crate::files::PodFiles::new(&core.config.state_dir, &stray);
        undone(
            "pod directory",
            blocking("remove", move || {
                pod::unpin(&files)?;
                files.remove()
            })
            .await,
        );
    }
    let mut whole = Vec::new();
    for pod in pods {
        if pod.state == PodState::Creating {
            found.undone += 1;
            undone("pod", pod::undo_half_made(core, &pod).await);
        } else {
            whole.push(pod);
        }
    }
    let known: HashSet<String> = whole.iter().map(|pod| pod.id.to_string()).collect();
    for pod in stored(core, schema::pods::<PodRecord>(), found) {
        if known.contains(pod.id.as_str()) {
            continue;
        }
        if removed(boot, core.pod_files(&pod.id).dir()) {
            found.undone += 1;
            forget(core, schema::pods::<PodRecord>(), &pod.id);
            continue;
        }
        if boot == Boot::Same {
            replace_record(core, &pod).await;
        }
        whole.push(pod);
    }
    if boot == Boot::New {
        for pod in &mut whole {
            let attached = !pod.request.unattached;
            pod.network_held = attached && pod.request.namespaces.network != Scope::Node;
            pod.state = PodState::NotReady;
            pod.init_pid = None;
            let (files, record) = (core.pod_files(&pod.id), pod.clone());
            let written = blocking("write the record of", move || {
                Launcher::forget(&files.init_bundle());
                files.create()?;
                record::write(&files.record(), &record)
            });
            written.await?;
        }
        core.made_cgroups.forget_all()?;
    }
    Ok(whole)
}

/// The record in the runtime directory was set aside. Without one the next start would take the
/// directory for that of a pod that was removed.
async fn replace_record(core: &Arc<Core>, pod: &PodRecord) {
    let (path, record) = (core.pod_files(&pod.id).record(), pod.clone());
    let written = blocking("write the record of", move || record::write(&path, &record));
    if let Err(error) = written.await {
        tracing::warn!(id = %pod.id, error = chain(&error), "record not written");
    }
}

async fn containers(
    core: &Arc<Core>,
    boot: Boot,
    found: &mut Recovered,
) -> Result<Vec<ContainerRecord>> {
    let dir = core.config.state_dir.join("containers");
    let (mut records, strays, unreadable) = scan::<ContainerRecord>(dir, "container.json").await?;
    found.unreadable += unreadable;
    for stray in strays {
        found.undone += 1;
        let files = ContainerFiles::new(&core.config.state_dir, &stray);
        undone(
            "container directory",
            blocking("remove", move || files.remove()).await,
        );
    }
    let known: HashSet<String> = records.iter().map(|record| record.id.to_string()).collect();
    for record in stored(core, schema::containers::<ContainerRecord>(), found) {
        if known.contains(record.id.as_str()) {
            continue;
        }
        let files = ContainerFiles::new(&core.config.state_dir, record.id.as_str());
        if removed(boot, files.bundle()) {
            found.undone += 1;
            forget(core, schema::containers::<ContainerRecord>(), &record.id);
            continue;
        }
        records.push(record);
    }
    if boot == Boot::New {
        for record in &mut records {
            let files = ContainerFiles::new(&core.config.state_dir, record.id.as_str());
            end(record, &files);
            let written = blocking("prepare", move || {
                Launcher::forget(files.bundle());
                files.create()
            });
            written.await?;
        }
    }
    Ok(records)
}

/// The directory goes before the record in the store does.
fn removed(boot: Boot, dir: &Path) -> bool {
    boot == Boot::Same && !dir.exists()
}

fn forget<K: Key, V>(core: &Core, table: Table<K, V>, id: &K) {
    let mut batch = Batch::new();
    batch.remove(table, id);
    core.store().commit_lazily(batch);
}

/// Nothing of it can run any more.
fn end(record: &mut ContainerRecord, files: &ContainerFiles) {
    if record.exit.is_none() {
        let written = container::recorded(files.bundle()).map(|(exit, _)| exit);
        let unknown = || Exit::unknown("the host was restarted");
        record.exit = Some(written.unwrap_or_else(unknown));
    }
    record.state = ContainerState::Exited;
    record.pid = None;
}

/// Records below `dir`, the names of directories without one, and how many were unreadable.
async fn scan<T>(dir: PathBuf, file: &'static str) -> Result<(Vec<T>, Vec<String>, usize)>
where
    T: DeserializeOwned + Send + 'static,
{
    blocking("scan", move || {
        let failed = |source| Error::State {
            action: "list",
            path: dir.clone(),
            source,
        };
        crate::files::make_dir(&dir)?;
        let (mut records, mut strays, mut unreadable) = (Vec::new(), Vec::new(), 0);
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            match record::read::<T>(&entry.path().join(file)) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => strays.push(entry.file_name().to_string_lossy().into_owned()),
                Err(error) => {
                    unreadable += 1;
                    set_aside(&entry.path().join(file), &error);
                }
            }
        }
        Ok((records, strays, unreadable))
    })
    .await
}

fn set_aside(path: &Path, error: &Error) {
    tracing::error!(path = %path.display(), error = chain(error), "record set aside");
    if let Err(error) = std::fs::rename(path, path.with_extension("json.unreadable")) {
        tracing::error!(path = %path.display(), %error, "record not set aside");
    }
}

fn stored<K: Key, V: DeserializeOwned>(
    core: &Core,
    table: Table<K, V>,
    found: &mut Recovered,
) -> Vec<V> {
    match core.store().scan(table) {
        Ok(scan) => {
            found.unreadable += scan.set_aside.len();
            scan.records.into_iter().map(|(_, record)| record).collect()
        }
        Err(error) => {
            tracing::error!(error = chain(&error), "stored records cannot be read");
            Vec::new()
        }
    }
}

async fn adopt_pod(core: &Arc<Core>, mut record: PodRecord) {
    let mut init = None;
    if let Some(pid) = record.init_pid {
        let (id, bundle) = (record.id.as_str(), core.pod_files(&record.id).init_bundle());
        match (record.state, shim::find(core, id, &bundle).await) {
            (PodState::Ready, Found::Working(shim)) => {
                init = Some(pod::Init::adopt(core, &record, shim, pid));
            }
            // It is dead, or its stop was cut short.
            _ => {
                let cgroup = pod::init_cgroup(core, &record);
                undone("init", shim::reclaim(core, id, &bundle, &cgroup).await);
                record.state = PodState::NotReady;
                record.init_pid = None;
            }
        }
    }
    // What was to follow into the store may have died with the daemon.
    core.store_pod(&record);
    let known = record.state != PodState::Ready;
    core.pod_names
        .adopt(record.request.key(), record.id.clone(), known);
    pod::Task::spawn(Arc::clone(core), record, init);
}

/// True when the container still runs.
async fn adopt_container(
    core: &Arc<Core>,
    mut record: ContainerRecord,
    pods: &HashSet<String>,
    snapshots: Option<&HashSet<String>>,
) -> bool {
    let files = ContainerFiles::new(&core.config.state_dir, record.id.as_str());
    // Its volumes go first, then its own layer.
    let is_whole = |kept: &HashSet<String>| {
        kept.contains(record.id.as_str()) && record.volumes.iter().all(|key| kept.contains(key))
    };
    let half_removed =
        record.state != ContainerState::Running && snapshots.is_some_and(|kept| !is_whole(kept));
    if record.state == ContainerState::Creating
        || half_removed
        || !pods.contains(record.pod.as_str())
    {
        undone("container", discard(core, &record, &files).await);
        return false;
    }
    let phase = phase(core, &mut record, &files).await;
    let runs = matches!(phase, Phase::Running(_));
    let commands = exec::take_left_over(&files.io());
    if let Phase::Running(shim) = &phase
        && !commands.is_empty()
    {
        let shim = Arc::clone(shim);
        tokio::spawn(async move { exec::end_left_over(&shim, commands).await });
    }
    if files.bundle().exists()
        && let Err(error) = record::write(&files.record(), &record)
    {
        tracing::warn!(id = %record.id, error = chain(&error), "record not written");
    }
    core.store_container(&record);
    if let Ok(pod) = core.pod(record.pod.as_str()) {
        core.pod_names.is_known(&pod.view().request.key());
    }
    let known = record.state != ContainerState::Created;
    core.container_names
        .adopt(container_key(&record), record.id.clone(), known);
    container::Task::spawn(Arc::clone(core), record, files, phase);
    runs
}

/// What has become of a whole container, by its record and its shim.
async fn phase(core: &Arc<Core>, record: &mut ContainerRecord, files: &ContainerFiles) -> Phase {
    let launched = Launcher::has_launched(files.bundle());
    let found = shim::find(core, record.id.as_str(), files.bundle()).await;
    match (record.state, found) {
        (ContainerState::Created, _) if files.undoing_start().exists() => {
            undo_start(core, record, files).await
        }
        // The start was under way: its record follows the shim.
        (ContainerState::Running | ContainerState::Created, Found::Working(shim)) => {
            answered(core, record, files, shim).await
        }
        (ContainerState::Created, _) if !launched => Phase::Created,
        (ContainerState::Created, _) if never_ran(core, record, files).await => {
            undo_start(core, record, files).await
        }
        (ContainerState::Running | ContainerState::Created, _) => ended(core, record, files).await,
        // Its end was written down, and what it held not released.
        _ if launched => {
            let (id, bundle) = (record.id.as_str(), files.bundle());
            undone(
                "exit",
                shim::reclaim(core, id, bundle, &record.cgroup).await,
            );
            Phase::Exited
        }
        _ => Phase::Exited,
    }
}

/// Takes back what a start that was cut short has made; the container is as it was created. A daemon
/// that is killed in the middle of this leaves word of it: a process that was killed before its
/// program ran has not ended.
async fn undo_start(core: &Arc<Core>, record: &ContainerRecord, files: &ContainerFiles) -> Phase {
    let (mark, exit) = (files.undoing_start(), files.exit());
    if let Err(error) = std::fs::write(&mark, "") {
        tracing::warn!(id = %record.id, %error, "the undoing of a start is not marked");
    }
    let (id, bundle) = (record.id.as_str(), files.bundle());
    let reclaimed = shim::reclaim(core, id, bundle, &record.cgroup).await;
    undone("start", reclaimed);
    for trace in [exit, mark] {
        let _not_there = std::fs::remove_file(trace);
    }
    Phase::Created
}

/// A process has a cgroup before it exists, and leaves word of its end. Where there are no cgroups
/// nothing tells.
async fn never_ran(core: &Arc<Core>, record: &ContainerRecord, files: &ContainerFiles) -> bool {
    if core.cgroups.layout() == Layout::Absent {
        return false;
    }
    let (core, bundle) = (Arc::clone(core), files.bundle().to_owned());
    let cgroup = record.cgroup.clone();
    let asked = blocking("ask whether it ran", move || {
        let opened = CgroupPath::parse(&cgroup).and_then(|path| core.cgroups.open(&path));
        let absent = matches!(opened, Err(error) if error.is_not_found());
        Ok(absent && container::recorded(&bundle).is_none())
    });
    asked.await.unwrap_or(false)
}

/// A shim that answers is believed: its wait returns at once where the process has ended. One whose
/// process still waits at the start gate belongs to a start that was cut short, and is undone.
async fn answered(
    core: &Arc<Core>,
    record: &mut ContainerRecord,
    files: &ContainerFiles,
    shim: Arc<Shim>,
) -> Phase {
    let state = shim.state(None).await.ok();
    if let Some(state) = &state {
        if state.status == TaskStatus::Created && record.state == ContainerState::Created {
            return undo_start(core, record, files).await;
        }
        record.pid = Some(state.pid);
    }
    record.state = ContainerState::Running;
    if record.started_at == 0 {
        // The pid of what has ended may be another's by now.
        let exit = state.and_then(|state| state.exit);
        record.started_at = match exit {
            Some(exit) => record::nanos(exit.exited_at),
            None => record::began(record.pid),
        };
    }
    Phase::Running(shim)
}

/// The shim is gone: what it left is killed, and what it wrote down is the exit.
async fn ended(core: &Arc<Core>, record: &mut ContainerRecord, files: &ContainerFiles) -> Phase {
    if let Err(error) = core
        .launcher
        .clean_up(record.id.as_str(), files.bundle())
        .await
    {
        tracing::debug!(id = %record.id, error = chain(&error), "nothing to clean up");
    }
    kill_cgroup(core, &record.cgroup).await;
    Launcher::forget(files.bundle());
    let unknown = || Exit::unknown("its shim was gone when the daemon came back");
    let exit = container::recorded(files.bundle()).map(|(exit, _)| exit);
    let exit = exit.unwrap_or_else(unknown);
    if record.started_at == 0 {
        record.started_at = exit.finished_at;
    }
    record.exit = Some(exit);
    record.state = ContainerState::Exited;
    record.pid = None;
    Phase::Exited
}

async fn discard(core: &Arc<Core>, record: &ContainerRecord, files: &ContainerFiles) -> Result<()> {
    let (id, bundle) = (record.id.as_str(), files.bundle());
    shim::reclaim(core, id, bundle, &record.cgroup).await?;
    volumes::release(core, files, &record.volumes).await?;
    core.remove_own_layer(record).await?;
    restore::forget(core, record.id.as_str()).await?;
    let files = files.clone();
    blocking("remove", move || files.remove()).await?;
    core.forget_container(record);
    Ok(())
}

fn snapshot_keys(core: &Core) -> Option<HashSet<String>> {
    match core.snapshots.snapshots() {
        Ok(snapshots) => Some(snapshots.into_iter().map(|found| found.key).collect()),
        Err(error) => {
            tracing::warn!(error = chain(&error), "snapshots cannot be listed");
            None
        }
    }
}

/// Writable layers and volumes whose container is nowhere recorded belong to creations that were cut short.
async fn sweep_snapshots(core: &Arc<Core>, keys: HashSet<String>) {
    let known: HashSet<String> = core
        .containers
        .all()
        .iter()
        .map(|container| container.id().to_string())
        .collect();
    for key in keys {
        if !known.contains(volumes::owner(&key)) && !core.layers.keeps(&key) {
            undone("snapshot", core.remove_snapshot(key).await);
        }
    }
}

/// Pods of an earlier boot hold nothing: what is still noted for them is released.
async fn reconcile_network(core: &Arc<Core>, boot: Boot) {
    let holders = match boot {
        Boot::Same => core.pods.all().iter().map(|pod| pod.id().clone()).collect(),
        Boot::New => HashSet::new(),
    };
    if let Err(error) = core.network.reconcile(&holders).await {
        tracing::warn!(error = chain(&error), "network allocations not reconciled");
    }
}

/// A pod that is not ready runs nothing: a stop that was cut short goes on behind.
fn finish_stops(core: &Arc<Core>) {
    for pod in core.pods.all() {
        let runs = |container: &Arc<container::Container>| container.has_shim();
        let stopped = pod.view().state == PodState::NotReady;
        if stopped && core.containers_of(pod.id()).iter().any(runs) {
            tokio::spawn(async move {
                let outcome = pod.stop().await;
                undone("stop", outcome);
            });
        }
    }
}

fn undone(what: &'static str, outcome: Result<()>) {
    match outcome {
        Ok(()) => tracing::info!(what, "half-made: undone"),
        Err(error) => tracing::warn!(what, error = chain(&error), "half-made: not undone"),
    }
}
