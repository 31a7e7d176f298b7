//! Starting a container: its shim, its process, its record.

use std::sync::Arc;

use berth_shim_client::{Mount, Shim, Stdio};

use tracing::Instrument;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::files::ContainerFiles;
use crate::record::ContainerRecord;
use crate::undo::{Undo, blocking};

/// A shim that holds a process which has begun to run.
pub(super) struct Started {
    pub shim: Arc<Shim>,
    pub pid: u32,
}

/// Launches the shim, has it create the process and opens the start gate. On failure the shim and
/// everything that it acquired is gone.
pub(super) async fn start(
    core: &Arc<Core>,
    record: &ContainerRecord,
    files: &ContainerFiles,
) -> Result<Started> {
    let mut undo = Undo::default();
    match steps(core, record, files, &mut undo).await {
        Ok(started) => Ok(started),
        Err(error) => {
            undo.run().await;
            Err(error)
        }
    }
}

async fn steps(
    core: &Arc<Core>,
    record: &ContainerRecord,
    files: &ContainerFiles,
    undo: &mut Undo,
) -> Result<Started> {
    let id = record.id.as_str();
    let failed = |action| {
        move |source| Error::Shim {
            action,
            id: id.to_owned(),
            source,
        }
    };
    let snapshots = Arc::clone(&core.snapshots);
    let key = id.to_owned();
    let log = record.log_path.clone();
    let mounts: Vec<Mount> = blocking("start", move || {
        if let Some(parent) = log.as_deref().and_then(|log| log.parent()) {
            crate::files::make_dir(parent)?;
        }
        let mounts = snapshots.mounts(&key);
        let mounts = mounts.map_err(|source| Error::Snapshot { id: key, source })?;
        Ok(mounts.into_iter().map(shim_mount).collect())
    })
    .await?;

    let launching = core.launcher.launch(id, files.bundle());
    let launched = launching
        .instrument(tracing::info_span!("shim launch"))
        .await;
    let shim = Arc::new(launched.map_err(failed("launch"))?);
    let disposal = super::stop::dispose(Arc::clone(core), record.clone(), Arc::clone(&shim));
    undo.push("shim", disposal);
    let stdio = stdio(record);
    let creating = shim
        .create(&mounts, &stdio)
        .instrument(tracing::info_span!("shim create"));
    let pid = creating.await.map_err(failed("create"))?;
    let starting = shim
        .start(None)
        .instrument(tracing::info_span!("shim start"));
    starting.await.map_err(failed("start"))?;
    Ok(Started { shim, pid })
}

fn shim_mount(mount: berth_snapshots::Mount) -> Mount {
    let berth_snapshots::Mount {
        kind,
        source,
        target,
        options,
    } = mount;
    Mount {
        kind,
        source,
        target,
        options,
    }
}

fn stdio(record: &ContainerRecord) -> Stdio {
    let log = record
        .log_path
        .as_ref()
        .map(|path| format!("cri-log://{}", path.display()));
    let log = log.unwrap_or_default();
    Stdio {
        terminal: record.request.tty,
        stdin: String::new(),
        stderr: if record.request.tty {
            String::new()
        } else {
            log.clone()
        },
        stdout: log,
    }
}
