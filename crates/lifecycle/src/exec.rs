//! Running a command beside a container's process and collecting what it prints.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_shim_client::{Shim, Stdio};
use oci_spec::runtime::Spec;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, timeout_at};

use crate::container::Container;
use crate::error::{Error, Result, chain};
use crate::spec::exec_process;
use crate::undo::blocking;

/// Kept of each stream, in bytes (CVE-2022-31030); what is beyond is read and dropped, so that the
/// command is neither blocked nor killed by its own output.
const MAX_OUTPUT: usize = 16 << 20;
const SIGKILL: u32 = 9;
/// With no timeout asked for, nothing is waited for longer than this.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a killed command may take to be gone.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

impl Container {
    /// Runs `command`; `timeout` covers the draining of its output too, and zero means none.
    pub async fn exec_sync(&self, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let shim = self.running("execute a command in it")?;
        let limit = if timeout.is_zero() {
            FOREVER
        } else {
            timeout.min(FOREVER)
        };
        let deadline = Instant::now() + limit;
        let files = self.files.clone();
        let wanted = command.to_vec();
        let exec_id = format!(
            "exec-{}-{}",
            std::process::id(),
            SEQUENCE.fetch_add(1, Ordering::Relaxed)
        );
        let prefix = files.io().join(&exec_id);
        let (process, fifos) = blocking("prepare a command in", move || {
            let spec = Spec::load(files.spec())?;
            let base = spec.process().as_ref().ok_or_else(|| {
                Error::invalid(
                    "config.json",
                    "the container's specification has no process",
                )
            })?;
            Ok((exec_process(base, &wanted, false)?, Fifos::create(&prefix)?))
        })
        .await?;

        let running = Running {
            shim,
            exec_id,
            container: self.id().to_string(),
            fifos,
        };
        let result = running.run(&process, deadline).await;
        running.release().await;
        match result {
            Err(Error::ExecTimeout { .. }) => Err(Error::ExecTimeout {
                command: command.join(" "),
                timeout,
            }),
            result => result,
        }
    }
}

/// Two FIFOs on the runtime directory, removed when dropped.
struct Fifos {
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Fifos {
    fn create(prefix: &Path) -> Result<Self> {
        let fifos = Self {
            stdout: prefix.with_extension("out"),
            stderr: prefix.with_extension("err"),
        };
        for path in [&fifos.stdout, &fifos.stderr] {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                .map_err(|errno| Error::State {
                    action: "create the FIFO",
                    path: path.clone(),
                    source: errno.into(),
                })?;
        }
        Ok(fifos)
    }

    fn open(path: &Path) -> Result<pipe::Receiver> {
        pipe::OpenOptions::new()
            .open_receiver(path)
            .map_err(|source| Error::State {
                action: "open the FIFO",
                path: path.to_owned(),
                source,
            })
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        for path in [&self.stdout, &self.stderr] {
            let _ = std::fs::remove_file(path);
        }
    }
}

struct Running {
    shim: Arc<Shim>,
    exec_id: String,
    container: String,
    fifos: Fifos,
}

impl Running {
    async fn run(
        &self,
        process: &oci_spec::runtime::Process,
        deadline: Instant,
    ) -> Result<ExecOutput> {
        let failed = |action| Error::of_shim(action, &self.container);
        let timed_out = || Error::ExecTimeout {
            command: String::new(),
            timeout: Duration::ZERO,
        };
        // Opened before the command exists: nothing that it prints can be lost.
        let mut stdout = Fifos::open(&self.fifos.stdout)?;
        let mut stderr = Fifos::open(&self.fifos.stderr)?;
        let stdio = Stdio {
            terminal: false,
            stdin: String::new(),
            stdout: self.fifos.stdout.display().to_string(),
            stderr: self.fifos.stderr.display().to_string(),
        };
        let begun = async {
            self.shim
                .exec(&self.exec_id, process, &stdio)
                .await
                .map_err(failed("execute a command in"))?;
            self.shim
                .start(Some(&self.exec_id))
                .await
                .map_err(failed("execute a command in"))
        };
        timeout_at(deadline, begun)
            .await
            .map_err(|_| timed_out())??;

        let (mut out, mut err) = (Vec::new(), Vec::new());
        let finished = async {
            let (exit, _, _) = tokio::join!(
                self.shim.wait(Some(&self.exec_id)),
                drain(&mut stdout, &mut out),
                drain(&mut stderr, &mut err),
            );
            exit.map_err(failed("wait for a command in"))
        };
        let exit = timeout_at(deadline, finished)
            .await
            .map_err(|_| timed_out())??;
        let exit_code = i32::try_from(exit.status).unwrap_or(255);
        Ok(ExecOutput {
            stdout: out,
            stderr: err,
            exit_code,
        })
    }

    /// Ends the command if it still runs, and has the shim forget it.
    async fn release(&self) {
        let exec = Some(self.exec_id.as_str());
        let forget = async {
            if self.shim.delete(exec).await.is_err() {
                let _ = self.shim.kill(exec, SIGKILL, false).await;
                let _ = self.shim.wait(exec).await;
                if let Err(error) = self.shim.delete(exec).await {
                    tracing::debug!(exec_id = self.exec_id, error = chain(&error), "not deleted");
                }
            }
        };
        if tokio::time::timeout(AFTER_KILL, forget).await.is_err() {
            tracing::warn!(exec_id = self.exec_id, "a killed command is still there");
        }
    }
}

/// Reads to the end, keeping the first [`MAX_OUTPUT`] bytes.
async fn drain(pipe: &mut pipe::Receiver, kept: &mut Vec<u8>) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                let room = MAX_OUTPUT - kept.len();
                kept.extend_from_slice(&buffer[..read.min(room)]);
            }
        }
    }
}
