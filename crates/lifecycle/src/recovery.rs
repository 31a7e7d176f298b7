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
//! | only in the store (the host was rebooted) | not ready, exited |
//! | directory without a record | removed |

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_metadata::{Key, Table, schema};
use berth_shim_client::{Launcher, Shim, TaskStatus};
use futures::stream::{self, StreamExt};

use crate::container::{self, Phase};
use crate::core::{Core, container_key};
use crate::error::{Error, Result, chain};
use crate::exec;
use crate::files::ContainerFiles;
use crate::pod;
use crate::record::{self, ContainerRecord, ContainerState, Exit, PodRecord, PodState};
use crate::request::Scope;
use crate::shim::{self, kill_cgroup};
use crate::undo::blocking;
use crate::volumes;

use serde::de::DeserializeOwned;

/// Shims that are asked at the same time.
const PARALLEL: usize = 32;
/// A shim that does not answer within this is dead.
const ANSWER: Duration = Duration::from_secs(3);

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
    let mut found = Recovered::default();
    let pods = pods(core, &mut found).await?;
    let containers = containers(core, &mut found).await?;

    let live: HashSet<String> = pods.iter().map(|pod| pod.id.to_string()).collect();
    stream::iter(pods)
        .for_each_concurrent(PARALLEL, |record| adopt_pod(core, record))
        .await;
    found.pods = core.pods.all().len();
    let adopted = stream::iter(containers)
        .map(|record| adopt_container(core, record, &live))
        .buffer_unordered(PARALLEL)
        .collect::<Vec<_>>()
        .await;
    found.containers = core.containers.all().len();
    found.running = adopted.iter().filter(|running| **running).count();
    sweep_snapshots(core).await;
    let holders = core.pods.all().iter().map(|pod| pod.id().clone()).collect();
    if let Err(error) = core.network.reconcile(&holders).await {
        tracing::warn!(error = chain(&error), "network allocations not reconciled");
    }
    Ok(found)
}

/// Records of pods: from the runtime directory, then those that only the store has.
async fn pods(core: &Arc<Core>, found: &mut Recovered) -> Result<Vec<PodRecord>> {
    let dir = core.config.state_dir.join("pods");
    let (mut pods, strays, unreadable) = scan::<PodRecord>(dir, "pod.json").await?;
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
    for pod in pods.drain(..) {
        if pod.state == PodState::Creating {
            found.undone += 1;
            undone("pod", pod::undo_half_made(core, &pod).await);
        } else {
            whole.push(pod);
        }
    }
    let known: HashSet<String> = whole.iter().map(|pod| pod.id.to_string()).collect();
    for mut pod in stored(core, schema::pods::<PodRecord>(), found) {
        if !known.contains(pod.id.as_str()) {
            pod.state = PodState::NotReady;
            pod.init_pid = None;
            pod.network_held = pod.request.namespaces.network != Scope::Node;
            whole.push(pod);
        }
    }
    Ok(whole)
}

async fn containers(core: &Arc<Core>, found: &mut Recovered) -> Result<Vec<ContainerRecord>> {
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
    for mut record in stored(core, schema::containers::<ContainerRecord>(), found) {
        if !known.contains(record.id.as_str()) {
            if record.exit.is_none() {
                record.exit = Some(Exit::unknown("the host was restarted"));
            }
            record.state = ContainerState::Exited;
            record.pid = None;
            records.push(record);
        }
    }
    Ok(records)
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
    if let (PodState::Ready, Some(pid)) = (record.state, record.init_pid) {
        let bundle = core.pod_files(&record.id).init_bundle();
        match connect(core, record.id.as_str(), &bundle).await {
            Some(shim) => init = Some(pod::Init::adopt(&record, shim, pid)),
            None => {
                record.state = PodState::NotReady;
                record.init_pid = None;
            }
        }
    }
    core.pod_names
        .adopt(record.request.key(), record.id.clone());
    pod::Task::spawn(Arc::clone(core), record, init);
}

/// True when the container still runs.
async fn adopt_container(
    core: &Arc<Core>,
    mut record: ContainerRecord,
    pods: &HashSet<String>,
) -> bool {
    let files = ContainerFiles::new(&core.config.state_dir, record.id.as_str());
    if record.state == ContainerState::Creating || !pods.contains(record.pod.as_str()) {
        undone("container", discard(core, &record, &files).await);
        return false;
    }
    let mut phase = match record.state {
        ContainerState::Created => Phase::Created,
        _ => Phase::Exited,
    };
    // A container whose start was under way has a shim although its record does not say so.
    if matches!(
        record.state,
        ContainerState::Running | ContainerState::Created
    ) && Launcher::has_launched(files.bundle())
    {
        phase = match connect(core, record.id.as_str(), files.bundle()).await {
            Some(shim) => answered(core, &mut record, &files, shim).await,
            None => ended(core, &mut record, &files).await,
        };
    } else if record.state == ContainerState::Running {
        phase = ended(core, &mut record, &files).await;
    }
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
    core.container_names
        .adopt(container_key(&record), record.id.clone());
    container::Task::spawn(Arc::clone(core), record, files, phase);
    runs
}

async fn connect(core: &Core, id: &str, bundle: &Path) -> Option<Arc<Shim>> {
    let connecting = async {
        let shim = core.launcher.connect(id, bundle).await?;
        shim.state(None).await?;
        Ok::<_, berth_shim_client::Error>(shim)
    };
    match tokio::time::timeout(ANSWER, connecting).await {
        Ok(Ok(shim)) => Some(Arc::new(shim)),
        Ok(Err(error)) => {
            tracing::warn!(id, error = chain(&error), "the shim does not answer");
            None
        }
        Err(_) => {
            tracing::warn!(id, "the shim does not answer in time");
            None
        }
    }
}

/// A shim that answers is believed: its wait returns at once where the process has ended. One whose
/// process still waits at the start gate belongs to a start that was cut short, and is undone.
async fn answered(
    core: &Arc<Core>,
    record: &mut ContainerRecord,
    files: &ContainerFiles,
    shim: Arc<Shim>,
) -> Phase {
    let state = shim.state(None).await;
    if let Ok(state) = state {
        if state.status == TaskStatus::Created && record.state == ContainerState::Created {
            let disposal = shim::dispose(Arc::clone(core), shim, record.cgroup.clone());
            undone("start", disposal.await);
            // The next restart must not take the socket for that of a start under way.
            Launcher::forget(files.bundle());
            return Phase::Created;
        }
        record.pid = Some(state.pid);
    }
    record.state = ContainerState::Running;
    if record.started_at == 0 {
        record.started_at = record::now();
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
    let unknown = || Exit::unknown("its shim was gone when the daemon came back");
    let exit = container::recorded(files.bundle()).map(|(exit, _)| exit);
    record.exit = Some(exit.unwrap_or_else(unknown));
    record.state = ContainerState::Exited;
    record.pid = None;
    Phase::Exited
}

async fn discard(core: &Arc<Core>, record: &ContainerRecord, files: &ContainerFiles) -> Result<()> {
    if let Some(shim) = connect(core, record.id.as_str(), files.bundle()).await {
        shim::dispose(Arc::clone(core), shim, record.cgroup.clone()).await?;
    } else if Launcher::has_launched(files.bundle()) {
        let cleaned = core
            .launcher
            .clean_up(record.id.as_str(), files.bundle())
            .await;
        if let Err(error) = cleaned {
            tracing::debug!(id = %record.id, error = chain(&error), "nothing to clean up");
        }
    }
    kill_cgroup(core, &record.cgroup).await;
    volumes::release(core, files, &record.volumes).await?;
    core.remove_snapshot(record.id.to_string()).await?;
    let files = files.clone();
    blocking("remove", move || files.remove()).await?;
    core.forget_container(record);
    Ok(())
}

/// Writable layers and volumes whose container is nowhere recorded belong to creations that were cut short.
async fn sweep_snapshots(core: &Arc<Core>) {
    let snapshots = match core.snapshots.snapshots() {
        Ok(snapshots) => snapshots,
        Err(error) => {
            tracing::warn!(error = chain(&error), "snapshots cannot be listed");
            return;
        }
    };
    let known: HashSet<String> = core
        .containers
        .all()
        .iter()
        .map(|container| container.id().to_string())
        .collect();
    for snapshot in snapshots
        .into_iter()
        .filter(|snapshot| !known.contains(volumes::owner(&snapshot.key)))
    {
        undone("snapshot", core.remove_snapshot(snapshot.key).await);
    }
}

fn undone(what: &'static str, outcome: Result<()>) {
    match outcome {
        Ok(()) => tracing::info!(what, "half-made: undone"),
        Err(error) => tracing::warn!(what, error = chain(&error), "half-made: not undone"),
    }
}
