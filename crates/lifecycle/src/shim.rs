//! One shim's life as the core sees it: launched with its process, released with what it holds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_shim_client::{Checkpoint, Launcher, Mount, Shim, Stdio};
use tracing::Instrument;

use crate::attach::Outputs;
use crate::core::Core;
use crate::error::{Error, Result, chain};
use crate::handlers::Runner;
use crate::left_cgroups::remove_later;
use crate::undo::{Undo, blocking};

/// A shim that does not answer its last calls within this is given up and cleaned up behind.
const FAREWELL: Duration = Duration::from_secs(5);
/// A shim of a former daemon that does not answer within this is dead.
const ANSWER: Duration = Duration::from_secs(3);
const SIGKILL: u32 = 9;

/// What a shim is launched for.
pub(crate) struct Launch<'a> {
    pub id: &'a str,
    /// Whose process it is, in errors.
    pub name: String,
    pub bundle: &'a Path,
    pub cgroup: String,
    pub runner: Runner,
}

/// What a shim that was launched is told.
pub(crate) struct Work<'a> {
    pub rootfs: Vec<Mount>,
    pub stdio: Stdio,
    /// Where its processes come from, if they are not to be made anew.
    pub checkpoint: Option<Checkpoint>,
    /// Who sees all of its output, from the first byte.
    pub clients: &'a [Outputs],
}

/// A shim whose process has begun to run.
pub(crate) struct Started {
    pub shim: Arc<Shim>,
    pub pid: u32,
}

/// Launches the shim while `work` is made ready, has it create the process and opens the start gate.
/// `undo` takes it back with everything that it acquired, from the moment at which there is something.
pub(crate) async fn start(
    core: &Arc<Core>,
    launch: Launch<'_>,
    work: impl Future<Output = Result<Work<'_>>>,
    undo: &mut Undo,
) -> Result<Started> {
    let failed = |action| Error::of_shim(action, &launch.name);
    let launching = async {
        match &launch.runner {
            Runner::Own => core.launcher.launch(launch.id, launch.bundle).await,
            Runner::Foreign(shim) => shim.launch(&core.launcher, launch.id, launch.bundle).await,
        }
    };
    let launching = launching.instrument(tracing::info_span!("shim launch"));
    // In this order: the shim comes into being while this thread does the work.
    let (launched, work) = tokio::join!(launching, work);
    let shim = Arc::new(launched.map_err(failed("launch"))?);
    let disposal = dispose(Arc::clone(core), Arc::clone(&shim), launch.cgroup);
    undo.push("shim", disposal);
    let work = work?;
    berth_faults::at("shim.start.after-launch")?;
    let creating = async {
        match &work.checkpoint {
            None => shim.create(&work.rootfs, &work.stdio).await,
            Some(from) => shim.restore(&work.rootfs, &work.stdio, from).await,
        }
    };
    let creating = creating.instrument(tracing::info_span!("shim create"));
    let action = match work.checkpoint {
        None => "create",
        Some(_) => "restore",
    };
    let clients = work.clients;
    let starting = async {
        // What comes from images may take its time, and starts within its own.
        if clients.is_empty() && work.checkpoint.is_none() {
            let both = shim.make_and_start(creating, None).await;
            return both.map_err(failed(action));
        }
        let pid = creating.await.map_err(failed(action))?;
        for client in clients {
            let (stdout, stderr) = (client.stdout.as_deref(), client.stderr.as_deref());
            let attached = shim.attach(None, stdout, stderr).await;
            attached.map_err(failed("attach to"))?;
        }
        Ok((pid, shim.start(None).await))
    };
    let starting = starting.instrument(tracing::info_span!("shim start"));
    let (pid, started) = starting.await?;
    started.map_err(failed("start"))?;
    berth_faults::at("shim.start.after-start")?;
    Ok(Started { shim, pid })
}

/// Releases a shim and what it holds: its process, running or not, the mounts, the cgroup, itself.
pub(crate) async fn dispose(core: Arc<Core>, shim: Arc<Shim>, cgroup: String) -> Result<()> {
    let farewell = async {
        // A process that is gone cannot be killed, and its wait is answered at once.
        let _ = shim.kill(None, SIGKILL, true).await;
        berth_faults::passing("shim.dispose.after-kill");
        let _ = shim.wait(None).await;
        let deleted = shim.delete(None).await;
        berth_faults::passing("shim.dispose.after-delete");
        if let Err(error) = &deleted {
            tracing::debug!(
                id = shim.id(),
                error = chain(error),
                "the shim did not delete"
            );
        }
        let _ = shim.shutdown().await;
        berth_faults::passing("shim.dispose.after-shutdown");
        deleted.is_ok()
    };
    let parted = tokio::time::timeout(FAREWELL, farewell).await;
    if parted.is_err() {
        tracing::warn!(
            id = shim.id(),
            "the shim does not answer; cleaning up behind it"
        );
    }
    // What another runtime keeps of its container is known to its own clean-up only.
    if shim.is_foreign() && !parted.unwrap_or(false) {
        let cleaned = core.launcher.clean_up(shim.id(), shim.bundle()).await;
        if let Err(error) = cleaned {
            tracing::warn!(id = shim.id(), error = chain(&error), "not cleaned up");
        }
    }
    kill_cgroup(&core, &cgroup).await;
    // The next daemon is not to look for it.
    Launcher::forget(shim.bundle());
    Ok(())
}

/// What is behind a bundle, as a start finds it.
pub(crate) enum Found {
    /// A shim with its process, which waits, runs or has ended.
    Working(Arc<Shim>),
    /// A shim that was not told yet what to run, or has deleted it.
    Empty(Arc<Shim>),
    /// None was launched, or it is dead.
    Gone,
}

/// Asks the shim of a bundle whether it is there.
pub(crate) async fn find(core: &Core, id: &str, bundle: &Path) -> Found {
    if !Launcher::has_launched(bundle) {
        return Found::Gone;
    }
    let asking = async {
        let shim = Arc::new(core.launcher.connect(id, bundle).await?);
        match shim.state(None).await {
            Ok(_) => Ok(Found::Working(shim)),
            Err(error) if error.is_not_found() => Ok(Found::Empty(shim)),
            Err(error) => Err(error),
        }
    };
    match tokio::time::timeout(ANSWER, asking).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(id, error = chain(&error), "the shim does not answer");
            Found::Gone
        }
        Err(_) => {
            tracing::warn!(id, "the shim does not answer in time");
            Found::Gone
        }
    }
}

/// Releases whatever a former daemon left behind a bundle: a shim in any state with its process, or
/// what a dead one held. Where there is nothing, nothing is done.
pub(crate) async fn reclaim(core: &Arc<Core>, id: &str, bundle: &Path, cgroup: &str) -> Result<()> {
    match find(core, id, bundle).await {
        Found::Working(shim) | Found::Empty(shim) => {
            dispose(Arc::clone(core), shim, cgroup.to_owned()).await?;
        }
        Found::Gone => {
            if Launcher::has_launched(bundle)
                && let Err(error) = core.launcher.clean_up(id, bundle).await
            {
                tracing::debug!(id, error = chain(&error), "nothing to clean up");
            }
            kill_cgroup(core, cgroup).await;
            Launcher::forget(bundle);
        }
    }
    Ok(())
}

/// Kills what is in `cgroup` and removes it; one that is gone already is fine. What stays busy is
/// removed behind the caller's back.
pub(crate) async fn kill_cgroup(core: &Arc<Core>, cgroup: &str) {
    let worker = Arc::clone(core);
    let path = cgroup.to_owned();
    let done = blocking("remove the cgroup of", move || worker.remove_cgroup(&path)).await;
    if let Err(error) = done {
        tracing::warn!(
            cgroup,
            error = chain(&error),
            "a cgroup could not be removed yet"
        );
        remove_later(core, cgroup).await;
    }
}

/// Sends `signal` to the first process, or `SIGKILL` to all; one that has ended needs none.
pub(crate) async fn signal(shim: &Shim, signal: u32) -> Result<()> {
    let all = signal == SIGKILL;
    match shim.kill(None, signal, all).await {
        Err(error) if error.is_gone() || error.is_not_found() => Ok(()),
        outcome => outcome.map_err(Error::of_shim("signal", shim.id())),
    }
}
