//! criu, which writes down the processes of a container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use berth_criu::{dump, log, outside};
use oci_spec::runtime::Spec;
use tokio::process::Command;

use super::Afterwards;
use crate::core::Core;
use crate::error::{Error, Result};

const CHECK: Duration = Duration::from_secs(20);

/// A criu that works on this kernel.
#[derive(Debug)]
pub(super) struct Criu {
    binary: PathBuf,
}

impl Criu {
    /// Looks for the program and lets it look at the kernel.
    pub async fn find(core: &Core) -> Result<Self> {
        let unfit = |reason: String| Error::CheckpointUnavailable { reason };
        let binary = core.criu()?;
        let mut check = Command::new(&binary);
        check.arg("check");
        let output = run(&mut check, CHECK)
            .await
            .map_err(|reason| unfit(format!("criu check: {reason}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = log::errors(&said);
            return Err(unfit(format!("criu check finds this kernel unfit: {said}")));
        }
        Ok(Self { binary })
    }

    /// Writes the processes under `init` to `images`. The log goes to `work`. When the
    /// time is over criu lets go of the processes by itself.
    pub async fn dump(
        &self,
        init: u32,
        spec: &Spec,
        images: &Path,
        work: &Path,
        limit: Duration,
        afterwards: Afterwards,
    ) -> Result<(), String> {
        write_streams(init, images).await?;
        let options = dump::Options {
            leave_running: afterwards == Afterwards::Runs,
            tcp_established: true,
            ext_unix_sk: true,
            file_locks: true,
            empty_network: outside::owns_network(spec),
            timeout: Some(limit.as_secs()),
            ..dump::Options::default()
        };
        let dump = dump::Dump {
            init,
            images,
            work,
            options: &options,
        };
        let mut command = Command::new(&self.binary);
        command.args(dump::arguments(&dump, &outside::of_dump(init, spec)));
        let output = run(&mut command, limit + CHECK).await?;
        if output.status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(work.join(dump::LOG)).unwrap_or_default();
        let reason = log::errors(&log);
        Err(format!("criu ended with {}: {reason}", output.status))
    }
}

/// What a restore replaces by streams of its own.
async fn write_streams(init: u32, images: &Path) -> Result<(), String> {
    let path = images.join(outside::DESCRIPTORS);
    let names = serde_json::to_vec(&outside::streams(init)).map_err(|error| error.to_string())?;
    let written = tokio::fs::write(&path, names).await;
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Standard error and the exit; a program that takes too long is killed.
async fn run(command: &mut Command, limit: Duration) -> Result<Output, String> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(limit, output).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}
