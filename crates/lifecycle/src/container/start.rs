//! Starting a container: its root filesystem and log, its shim, its process.

use std::sync::Arc;

use berth_shim_client::{Mount, Stdio};

use super::owners::Owners;
use crate::attach::Outputs;
use crate::core::Core;
use crate::error::{Error, Result, chain};
use crate::files::ContainerFiles;
use crate::handlers::Runner;
use crate::record::{ContainerRecord, PodRecord};
use crate::restore;
use crate::shim::{self, Launch, Started, Work};
use crate::undo::{Undo, blocking};

/// Has a shim run the container's process. On failure the shim and everything that it acquired is
/// gone.
pub(super) async fn start(
    core: &Arc<Core>,
    record: &ContainerRecord,
    files: &ContainerFiles,
    clients: &[Outputs],
) -> Result<Started> {
    let pod = core.pod(record.pod.as_str())?.view();
    let runner = runner(core, &pod)?;
    let checkpoint = restore::checkpoint(core, record.id.as_str())?;
    let restored = checkpoint.is_some();
    let mut eased = false;
    let work = async {
        let rootfs;
        (rootfs, eased) = prepare(core, &pod, record, files, &runner).await?;
        berth_faults::at("container.start.after-prepare")?;
        Ok(Work {
            rootfs,
            stdio: stdio(record, files),
            checkpoint,
            clients,
        })
    };
    let launch = Launch {
        id: record.id.as_str(),
        name: record.id.to_string(),
        bundle: files.bundle(),
        cgroup: record.cgroup.clone(),
        runner: runner.clone(),
    };
    let mut undo = Undo::default();
    let started = shim::start(core, launch, work, &mut undo).await;
    if eased {
        hold(core, record).await;
    }
    if started.is_err() {
        undo.run().await;
    }
    if restored && let Err(error) = restore::forget(core, record.id.as_str()).await {
        tracing::warn!(id = %record.id, error = chain(&error), "its checkpoint stays");
    }
    started
}

/// The layer is mounted: from here on it takes no more than it may.
async fn hold(core: &Core, record: &ContainerRecord) {
    let (snapshots, key) = (Arc::clone(&core.snapshots), record.id.to_string());
    let held = blocking("limit the layer of", move || {
        let held = snapshots.hold(&key);
        held.map_err(|source| Error::Snapshot { id: key, source })
    });
    if let Err(error) = held.await {
        tracing::warn!(id = %record.id, error = chain(&error), "its limit is not what it should be");
    }
}

/// As the container's pod was made. Pipes of another shim belong to the pod's root, so that its
/// processes can open them again by `/dev/stdout`.
fn runner(core: &Core, pod: &PodRecord) -> Result<Runner> {
    let handler = core.config.handlers.find(&pod.handler)?;
    Ok(match (&handler.runner, &pod.request.namespaces.user) {
        (Runner::Foreign(shim), Some(user)) => {
            let (uid, gid) = user.root();
            Runner::Foreign(shim.clone().with_streams_of(uid, gid))
        }
        (runner, _) => runner.clone(),
    })
}

/// Makes the directory of the log and the FIFO for input, and says what the root filesystem is
/// made of, and whether its limit has to be set again once it is mounted.
async fn prepare(
    core: &Arc<Core>,
    pod: &PodRecord,
    record: &ContainerRecord,
    files: &ContainerFiles,
    runner: &Runner,
) -> Result<(Vec<Mount>, bool)> {
    let snapshots = Arc::clone(&core.snapshots);
    let key = record.id.to_string();
    let owners = Owners::of(runner, pod.request.namespaces.user.as_ref());
    let context = context(core, pod, record, runner)?;
    let log = record.log_path.clone();
    let stdin = record.request.stdin.then(|| files.stdin());
    blocking("start", move || {
        if let Some(parent) = log.as_deref().and_then(|log| log.parent()) {
            crate::files::make_dir(parent)?;
        }
        if let Some(stdin) = stdin {
            crate::exec::make_fifo(&stdin)?;
        }
        let eased = snapshots.ease(&key);
        let mounts = eased.and_then(|eased| Ok((snapshots.mounts(&key)?, eased)));
        let (mounts, eased) = mounts.map_err(|source| Error::Snapshot { id: key, source })?;
        let mounts = mounts
            .into_iter()
            .map(|mount| owners.shim_mount(mount, context.as_deref()));
        Ok((mounts.collect::<Result<_>>()?, eased))
    })
    .await
}

/// The mount option that labels the root filesystem for SELinux. containerd mounts by one string, in
/// which a label's commas have to be quoted; each of our own options is told to the kernel by itself.
fn context(
    core: &Core,
    pod: &PodRecord,
    record: &ContainerRecord,
    runner: &Runner,
) -> Result<Option<String>> {
    let confinement = &core.config.confinement;
    let labels = confinement.labels(&record.request.security, &pod.selinux_level)?;
    Ok(labels.files.map(|label| match runner {
        Runner::Own => format!("context={label}"),
        Runner::Foreign(_) => format!("context=\"{label}\""),
    }))
}

/// Output without a log is read all the same: clients may attach to it.
fn stdio(record: &ContainerRecord, files: &ContainerFiles) -> Stdio {
    let log = match &record.log_path {
        Some(path) => format!("cri-log://{}", path.display()),
        None => "discard://".to_owned(),
    };
    let stdin = record.request.stdin.then(|| files.stdin());
    Stdio {
        terminal: record.request.tty,
        stdin: stdin.map_or(String::new(), |path| path.display().to_string()),
        stderr: if record.request.tty {
            String::new()
        } else {
            log.clone()
        },
        stdout: log,
    }
}
