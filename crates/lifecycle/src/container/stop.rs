//! The end of a container's processes, as its shim or, failing that, the kernel tells it.

use std::path::Path;
use std::sync::Arc;

use berth_shim_client::Shim;

use crate::core::Core;
use crate::error::chain;
use crate::record::{self, ContainerRecord, Exit};
use crate::shim::kill_cgroup;
use crate::undo::blocking;

/// Waits for the container's process to end. A shim that dies takes its container along: what is
/// left in the cgroup is killed, and the exit is what the shim wrote down, if it could.
pub(super) async fn exit_of(
    core: Arc<Core>,
    record: Arc<ContainerRecord>,
    shim: Arc<Shim>,
) -> Exit {
    let waited = shim.wait(None).await;
    let bundle = crate::files::ContainerFiles::new(&core.config.state_dir, record.id.as_str());
    match waited {
        Ok(exit) => {
            let oom = match shim.is_foreign() {
                true => oom_killed(&core, &record).await,
                false => recorded(bundle.bundle()).is_some_and(|(_, oom)| oom),
            };
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

/// By the cgroup, which is still there: other shims do not write it down.
async fn oom_killed(core: &Arc<Core>, record: &ContainerRecord) -> bool {
    let (core, cgroup) = (Arc::clone(core), record.cgroup.clone());
    let asked = blocking("ask how it ended", move || Ok(core.oom_killed(&cgroup)));
    asked.await.unwrap_or(false)
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
