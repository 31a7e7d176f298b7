//! One command: begun in the shim, waited for, and ended whatever happens to who asked for it.

use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_shim_client::Shim;
use oci_spec::runtime::Process;
use tokio::time::timeout;

use super::{Fifos, Pipes};
use crate::error::{Error, Result, chain};

const SIGHUP: u32 = 1;
const SIGKILL: u32 = 9;
/// Between the hang-up and the kill.
const AFTER_HANGUP: Duration = Duration::from_millis(300);
/// How long a killed command may take to be gone.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// A command that the shim is to run, or runs. Dropped, it is ended behind.
pub(crate) struct Command {
    shim: Arc<Shim>,
    exec_id: String,
    container: String,
    process: Process,
    /// `None` once the release has them.
    fifos: Option<Fifos>,
}

impl Command {
    pub fn new(
        shim: Arc<Shim>,
        exec_id: String,
        container: String,
        process: Process,
        fifos: Fifos,
    ) -> Self {
        Self {
            shim,
            exec_id,
            container,
            process,
            fifos: Some(fifos),
        }
    }

    /// Returns once the program runs.
    pub async fn begin(&self) -> Result<Pipes> {
        let Some(fifos) = &self.fifos else {
            return Ok(Pipes::default());
        };
        let (stdout, stderr) = fifos.readers()?;
        let failed = || Error::of_shim("execute a command in", &self.container);
        let (exec_id, stdio) = (self.exec_id.as_str(), fifos.stdio());
        let adding = self.shim.exec(exec_id, &self.process, &stdio);
        let begun = self.shim.make_and_start(adding, Some(exec_id)).await;
        let ((), started) = begun.map_err(failed())?;
        started.map_err(failed())?;
        berth_faults::at("exec.after-start")?;
        Ok(Pipes {
            stdin: fifos.writer()?,
            stdout,
            stderr,
        })
    }

    /// The exit status, once what the command wrote can be read.
    pub async fn wait(&self) -> Result<u32> {
        let exit = self.shim.wait(Some(&self.exec_id)).await;
        exit.map(|exit| exit.status)
            .map_err(|source| self.failed("wait for a command in", source))
    }

    fn failed(&self, action: &'static str, source: berth_shim_client::Error) -> Error {
        let id = self.container.clone();
        Error::Shim { action, id, source }
    }

    /// Ends the command if it still runs, and has the shim forget it.
    pub async fn release(mut self) {
        let fifos = self.fifos.take().map(ManuallyDrop::new);
        release(&self.shim, &self.exec_id, Duration::ZERO).await;
        drop(fifos.map(ManuallyDrop::into_inner));
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        let Some(fifos) = self.fifos.take() else {
            return;
        };
        // Where the daemon ends before the release does, they tell its successor what is left over.
        let fifos = ManuallyDrop::new(fifos);
        let (shim, exec_id) = (Arc::clone(&self.shim), std::mem::take(&mut self.exec_id));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                release(&shim, &exec_id, AFTER_HANGUP).await;
                drop(ManuallyDrop::into_inner(fifos));
            });
        }
    }
}

/// With no patience the command is killed at once.
async fn release(shim: &Shim, exec_id: &str, patience: Duration) {
    let exec = Some(exec_id);
    let forget = async {
        if shim.delete(exec).await.is_ok() {
            return;
        }
        if !patience.is_zero() {
            let _ = shim.close_stdin(exec).await;
            let _ = shim.kill(exec, SIGHUP, true).await;
            let _ = timeout(patience, shim.wait(exec)).await;
        }
        // The whole group, also when its leader has ended: what it left behind belongs to it.
        let _ = shim.kill(exec, SIGKILL, true).await;
        let _ = shim.wait(exec).await;
        if let Err(error) = shim.delete(exec).await {
            tracing::debug!(exec_id, error = chain(&error), "not deleted");
        }
    };
    if timeout(AFTER_KILL, forget).await.is_err() {
        tracing::warn!(exec_id, "a killed command is still there");
    }
}

/// Ends commands whose clients went with a former daemon.
pub(crate) async fn end_left_over(shim: &Shim, commands: BTreeSet<String>) {
    for exec_id in commands {
        tracing::info!(
            container = shim.id(),
            exec_id,
            "ending a command whose client is gone"
        );
        release(shim, &exec_id, AFTER_HANGUP).await;
    }
}

/// Removes the FIFOs of former clients from `io`; answers with the commands that they were of.
/// Blocking, for one small directory in memory.
pub(crate) fn take_left_over(io: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(io).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        if stem.starts_with("exec-") {
            found.insert(stem.to_owned());
        }
        if stem.starts_with("exec-") || stem.starts_with("attach-") {
            let _ = std::fs::remove_file(&path);
        }
    }
    found
}

/// What can be done to a command while it runs.
pub struct CommandControl {
    command: Command,
}

impl CommandControl {
    pub(super) fn new(command: Command) -> Self {
        Self { command }
    }

    pub async fn resize(&self, width: u16, height: u16) -> Result<()> {
        let (shim, exec) = (&self.command.shim, Some(self.command.exec_id.as_str()));
        shim.resize_pty(exec, width.into(), height.into())
            .await
            .map_err(|source| self.command.failed("resize the terminal of", source))
    }

    /// For when our writer is closed: the command sees the end of its input.
    pub async fn close_stdin(&self) -> Result<()> {
        let (shim, exec) = (&self.command.shim, Some(self.command.exec_id.as_str()));
        shim.close_stdin(exec)
            .await
            .map_err(|source| self.command.failed("close the input of", source))
    }

    /// Ends it at once, with its process group.
    pub async fn kill(self) {
        self.command.release().await;
    }

    /// The exit status; what the command wrote can be read by then.
    pub async fn ended(&self) -> Result<u32> {
        self.command.wait().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifos_of_former_clients_name_their_commands_and_go() {
        let io = tempfile::tempdir().unwrap();
        for name in [
            "exec-7-1.in",
            "exec-7-1.out",
            "exec-7-2.err",
            "attach-7-3.out",
            "stdin",
        ] {
            std::fs::write(io.path().join(name), "").unwrap();
        }
        let found = take_left_over(io.path());
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            ["exec-7-1", "exec-7-2"]
        );
        let left: Vec<_> = std::fs::read_dir(io.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["stdin"]);
        assert!(take_left_over(Path::new("/nonexistent")).is_empty());
    }
}
