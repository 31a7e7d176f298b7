//! The end of a container's processes, as its shim or, failing that, the kernel tells it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_shim_client::Shim;

use crate::core::Core;
use crate::error::{Error, Result, chain};
use crate::record::{self, ContainerRecord, Exit};
use crate::undo::blocking;

/// A shim that does not answer its last calls within this is given up and cleaned up behind.
const FAREWELL: Duration = Duration::from_secs(5);
const SIGKILL: u32 = 9;

/// Waits for the container's process to end. A shim that dies takes its container along: what is
/// left in the cgroup is killed, and the exit is what the shim wrote down, if it could.
pub(super) async fn exit_of(core: Arc<Core>, record: ContainerRecord, shim: Arc<Shim>) -> Exit {
    let waited = shim.wait(None).await;
    let bundle = crate::files::ContainerFiles::new(&core.config.state_dir, record.id.as_str());
    match waited {
        Ok(exit) => {
            let oom = recorded(bundle.bundle()).is_some_and(|(_, oom)| oom);
            Exit::of_process(exit.status, oom, record::nanos(exit.exited_at))
        }
        Err(error) => {
            tracing::warn!(id = %record.id, error = chain(&error), "the shim is gone");
            // The process does not die with its shim: the launcher ends what is left.
            if let Err(error) = core
                .launcher
                .clean_up(record.id.as_str(), bundle.bundle())
                .await
            {
                tracing::warn!(id = %record.id, error = chain(&error), "not cleaned up");
            }
            kill_cgroup(&core, &record.cgroup).await;
            match recorded(bundle.bundle()) {
                Some((exit, _)) => exit,
                None => Exit {
                    code: 137,
                    reason: "Error".to_owned(),
                    message: "the shim died and the container was killed with it".to_owned(),
                    finished_at: record::now(),
                },
            }
        }
    }
}

/// The exit that the shim wrote into the bundle, and whether the kernel ran out of memory for it.
pub(crate) fn recorded(bundle: &Path) -> Option<(Exit, bool)> {
    match berth_shim_client::read_exit_record(bundle) {
        Ok(record) => record.map(|record| {
            let finished_at = record::nanos(record.exited_at);
            let exit = Exit::of_process(record.exit_status, record.oom_killed, finished_at);
            (exit, record.oom_killed)
        }),
        Err(error) => {
            tracing::warn!(bundle = %bundle.display(), error = chain(&error), "exit record unreadable");
            None
        }
    }
}

/// Releases a shim and what it holds: the stopped process, the mounts, the cgroup, itself.
pub(crate) async fn dispose(
    core: Arc<Core>,
    record: ContainerRecord,
    shim: Arc<Shim>,
) -> Result<()> {
    let farewell = async {
        // Deleting what still runs is refused; a process that is gone cannot be killed.
        let _ = shim.kill(None, SIGKILL, true).await;
        if let Err(error) = shim.delete(None).await {
            tracing::debug!(id = %record.id, error = chain(&error), "the shim did not delete");
        }
        let _ = shim.shutdown().await;
    };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::warn!(id = %record.id, "the shim does not answer; cleaning up behind it");
    }
    kill_cgroup(&core, &record.cgroup).await;
    Ok(())
}

/// Kills what is in `cgroup` and removes it; one that is gone already is fine.
pub(crate) async fn kill_cgroup(core: &Arc<Core>, cgroup: &str) {
    let worker = Arc::clone(core);
    let path = cgroup.to_owned();
    let done = blocking("remove the cgroup of", move || worker.remove_cgroup(&path)).await;
    if let Err(error) = done {
        tracing::warn!(
            cgroup,
            error = chain(&error),
            "a cgroup could not be removed"
        );
    }
}

/// Sends `signal` to the container's first process; one that has ended needs none.
pub(super) async fn signal(shim: &Shim, record: &ContainerRecord, signal: u32) -> Result<()> {
    let all = signal == SIGKILL;
    match shim.kill(None, signal, all).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_gone() || error.is_not_found() => Ok(()),
        Err(source) => Err(Error::Shim {
            action: "signal",
            id: record.id.to_string(),
            source,
        }),
    }
}
