//! The Task API of one shim.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::empty::Empty;
use oci_spec::runtime::{LinuxResources, Process};
use serde::Serialize;
use tokio::net::UnixStream;

use crate::copier::Copier;
use crate::error::Error;
use crate::rpc::{Patience, Rpc};
use crate::socket;
use crate::types::{Checkpoint, Exit, Mount, Stdio, TaskState};

/// For calls that look something up or signal.
const QUICK: Patience = Patience::Limited(Duration::from_secs(10));
/// For calls that make or remove something: mounts and cgroups may be slow.
const SLOW: Patience = Patience::Limited(Duration::from_secs(60));
/// Of a call that waits for the one before it.
const SLOW_TWICE: Patience = Patience::Limited(Duration::from_secs(120));

/// For bringing back processes with all their memory.
const RESTORE: Patience = Patience::Limited(Duration::from_secs(600));

/// Options of `Create` with a checkpoint, in JSON.
const RESTORE_TYPE: &str = "berth.shim.v1.Restore";
const PRIVATE_SERVICE: &str = "berth.shim.v1.Container";
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// The socket of Berth's own shim, in the bundle.
pub(crate) const SOCKET_NAME: &str = "shim.sock";

/// A connection to a shim.
#[derive(Clone)]
pub struct Shim {
    inner: Arc<Inner>,
}

struct Inner {
    rpc: Rpc,
    bundle: PathBuf,
    /// The name under which the shim serves the Task API.
    service: &'static str,
    pid: Option<u32>,
    /// Of another shim's container, and that shim's socket.
    copier: Option<Arc<Copier>>,
    socket: PathBuf,
}

impl fmt::Debug for Shim {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Shim")
            .field("id", &self.id())
            .field("bundle", &self.inner.bundle)
            .field("service", &self.inner.service)
            .finish_non_exhaustive()
    }
}

/// The service name of a version of the Task API.
pub(crate) fn service_name(version: u32) -> &'static str {
    match version {
        3 => "containerd.task.v3.Task",
        _ => "containerd.task.v2.Task",
    }
}

impl Shim {
    pub(crate) fn new(rpc: Rpc, bundle: &Path, version: u32, pid: Option<u32>) -> Self {
        Self {
            inner: Arc::new(Inner {
                rpc,
                bundle: bundle.to_owned(),
                service: service_name(version),
                pid,
                copier: None,
                socket: bundle.join(SOCKET_NAME),
            }),
        }
    }

    /// Connects to another shim, whose output `copier` looks after.
    pub(crate) async fn connect_foreign(
        id: &str,
        bundle: &Path,
        path: &Path,
        version: u32,
        copier: Arc<Copier>,
    ) -> Result<Self, Error> {
        let stream = connected(id, path).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                rpc: Rpc::new(id, stream),
                bundle: bundle.to_owned(),
                service: service_name(version),
                pid: None,
                copier: Some(copier),
                socket: path.to_owned(),
            }),
        })
    }

    /// Connects to a running shim of Berth, after a restart of the daemon.
    /// Fails with [`Error::NotRunning`] if none is there.
    pub async fn connect(id: &str, bundle: &Path) -> Result<Self, Error> {
        let path = bundle.join(SOCKET_NAME);
        Self::connect_to(id, bundle, &path, 2, None).await
    }

    pub(crate) async fn connect_to(
        id: &str,
        bundle: &Path,
        path: &Path,
        version: u32,
        pid: Option<u32>,
    ) -> Result<Self, Error> {
        let stream = connected(id, path).await?;
        Ok(Self::new(Rpc::new(id, stream), bundle, version, pid))
    }

    /// Whether the shim is not one of Berth's. Such a one writes no exit record.
    pub fn is_foreign(&self) -> bool {
        self.inner.copier.is_some()
    }

    pub fn id(&self) -> &str {
        self.inner.rpc.id()
    }

    pub fn bundle(&self) -> &Path {
        &self.inner.bundle
    }

    /// The shim's own pid, if this process launched it.
    pub fn launched_pid(&self) -> Option<u32> {
        self.inner.pid
    }

    /// Completes when the connection is lost: the shim has ended or died.
    pub async fn gone(&self) {
        self.inner.rpc.gone().await;
    }

    pub fn is_gone(&self) -> bool {
        self.inner.rpc.is_gone()
    }

    /// Makes the container from the bundle, its init waiting to be started.
    /// Returns the pid of init.
    pub async fn create(&self, rootfs: &[Mount], stdio: &Stdio) -> Result<u32, Error> {
        let message = api::CreateTaskRequest::new();
        self.create_as(message, rootfs, stdio, SLOW).await
    }

    /// [`Shim::create`] from a checkpoint: all processes wait to be started. Only for Berth's own
    /// shim.
    pub async fn restore(
        &self,
        rootfs: &[Mount],
        stdio: &Stdio,
        checkpoint: &Checkpoint,
    ) -> Result<u32, Error> {
        let mut message = api::CreateTaskRequest::new();
        message.checkpoint = checkpoint.images.display().to_string();
        let given = serde_json::json!({ "criu": checkpoint.criu, "work": checkpoint.work });
        let mut options = Any::new();
        RESTORE_TYPE.clone_into(&mut options.type_url);
        options.value = given.to_string().into_bytes();
        message.options = Some(options).into();
        self.create_as(message, rootfs, stdio, RESTORE).await
    }

    async fn create_as(
        &self,
        mut message: api::CreateTaskRequest,
        rootfs: &[Mount],
        stdio: &Stdio,
        patience: Patience,
    ) -> Result<u32, Error> {
        let stdio = &match &self.inner.copier {
            Some(copier) => {
                let (told, output) = crate::foreign::output(&self.inner.bundle, stdio)?;
                copier.start(output).await?;
                if let Some((type_url, value)) = copier.options.clone() {
                    let mut options = Any::new();
                    (options.type_url, options.value) = (type_url, value);
                    message.options = Some(options).into();
                }
                told
            }
            None => stdio.clone(),
        };
        message.id = self.id().to_owned();
        message.bundle = self.inner.bundle.display().to_string();
        message.terminal = stdio.terminal;
        message.stdin.clone_from(&stdio.stdin);
        message.stdout.clone_from(&stdio.stdout);
        message.stderr.clone_from(&stdio.stderr);
        message.rootfs = rootfs.iter().map(mount_message).collect();
        let answer: api::CreateTaskResponse = self.task("Create", &message, patience).await?;
        Ok(answer.pid)
    }

    /// Starts init, or an exec that was added. Returns its pid once the user's
    /// program runs.
    pub async fn start(&self, exec: Option<&str>) -> Result<u32, Error> {
        self.start_within(exec, SLOW).await
    }

    async fn start_within(&self, exec: Option<&str>, patience: Patience) -> Result<u32, Error> {
        let mut message = api::StartRequest::new();
        message.id = self.id().to_owned();
        message.exec_id = exec_id(exec);
        let answer: api::StartResponse = self.task("Start", &message, patience).await?;
        Ok(answer.pid)
    }

    /// `making` (of init, or an exec) and the start of what it makes: what came of the one, and if
    /// it was made, of the other. Berth's own shim is told both at once: it handles calls in the
    /// order in which they come, and has nothing to start where the first one failed. Another shim
    /// is told one after the other.
    pub async fn make_and_start<T>(
        &self,
        making: impl Future<Output = Result<T, Error>>,
        exec: Option<&str>,
    ) -> Result<(T, Result<u32, Error>), Error> {
        if self.is_foreign() {
            let made = making.await?;
            return Ok((made, self.start(exec).await));
        }
        let starting = self.start_within(exec, SLOW_TWICE);
        let (made, started) = tokio::join!(biased; making, starting);
        Ok((made?, started))
    }

    /// Adds a process, to be started with [`Shim::start`].
    pub async fn exec(&self, exec: &str, process: &Process, stdio: &Stdio) -> Result<(), Error> {
        let mut message = api::ExecProcessRequest::new();
        message.id = self.id().to_owned();
        message.exec_id = exec.to_owned();
        message.terminal = stdio.terminal;
        message.stdin.clone_from(&stdio.stdin);
        message.stdout.clone_from(&stdio.stdout);
        message.stderr.clone_from(&stdio.stderr);
        message.spec = Some(self.json(PROCESS_TYPE, "process", process)?).into();
        self.empty("Exec", &message, QUICK).await
    }

    /// Waits for the end of init or of an exec, without a time limit.
    pub async fn wait(&self, exec: Option<&str>) -> Result<Exit, Error> {
        let mut message = api::WaitRequest::new();
        message.id = self.id().to_owned();
        message.exec_id = exec_id(exec);
        let answer: api::WaitResponse = self.task("Wait", &message, Patience::Endless).await?;
        if let (Some(copier), None) = (&self.inner.copier, exec) {
            copier.finished().await;
        }
        Ok(Exit::new(answer.exit_status, answer.exited_at.as_ref()))
    }

    /// Signals one process, or with `all` every process of the container.
    /// [`Error::is_not_found`] holds when it has already ended.
    pub async fn kill(&self, exec: Option<&str>, signal: u32, all: bool) -> Result<(), Error> {
        let mut message = api::KillRequest::new();
        message.id = self.id().to_owned();
        message.exec_id = exec_id(exec);
        message.signal = signal;
        message.all = all;
        self.empty("Kill", &message, QUICK).await
    }

    /// Removes an ended exec, or the container with what it occupies.
    pub async fn delete(&self, exec: Option<&str>) -> Result<Exit, Error> {
        let mut message = api::DeleteRequest::new();
        message.id = self.id().to_owned();
        message.exec_id = exec_id(exec);
        let answer: api::DeleteResponse = self.task("Delete", &message, SLOW).await?;
        Ok(Exit::new(answer.exit_status, answer.exited_at.as_ref()))
    }

    pub async fn state(&self, exec: Option<&str>) -> Result<TaskState, Error> {
        let mut message = api::StateRequest::new();
        message.id = self.id().to_owned();
        message.exec_id = exec_id(exec);
        let answer: api::StateResponse = self.task("State", &message, QUICK).await?;
        Ok(TaskState::from_message(&answer))
    }

    /// The pids of all processes in the container's cgroup.
    pub async fn pids(&self) -> Result<Vec<u32>, Error> {
        let mut message = api::PidsRequest::new();
        message.id = self.id().to_owned();
        let answer: api::PidsResponse = self.task("Pids", &message, QUICK).await?;
        Ok(answer.processes.iter().map(|process| process.pid).collect())
    }

    pub async fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        let mut message = api::UpdateTaskRequest::new();
        message.id = self.id().to_owned();
        message.resources = Some(self.json(RESOURCES_TYPE, "resources", resources)?).into();
        self.empty("Update", &message, SLOW).await
    }

    pub async fn pause(&self) -> Result<(), Error> {
        let mut message = api::PauseRequest::new();
        message.id = self.id().to_owned();
        self.empty("Pause", &message, SLOW).await
    }

    pub async fn resume(&self) -> Result<(), Error> {
        let mut message = api::ResumeRequest::new();
        message.id = self.id().to_owned();
        self.empty("Resume", &message, SLOW).await
    }

    /// Has the shim write the container's processes to `images`; they go on. Logs go to `work`.
    /// The daemon does so itself for Berth's own shim, which serves this for containerd.
    pub async fn checkpoint(
        &self,
        images: &Path,
        work: &Path,
        limit: Duration,
    ) -> Result<(), Error> {
        const METHOD: &str = "Checkpoint";
        let mut message = api::CheckpointTaskRequest::new();
        message.id = self.id().to_owned();
        message.path = images.display().to_string();
        let options = crate::options::checkpoint_options(&work.display().to_string());
        let (type_url, value) = options.map_err(|source| Error::Message {
            method: METHOD,
            id: self.id().to_owned(),
            source,
        })?;
        let mut any = Any::new();
        (any.type_url, any.value) = (type_url.to_owned(), value);
        message.options = Some(any).into();
        self.empty(METHOD, &message, Patience::Limited(limit)).await
    }

    /// The size is in character cells.
    pub async fn resize_pty(
        &self,
        exec: Option<&str>,
        width: u32,
        height: u32,
    ) -> Result<(), Error> {
        let mut message = api::ResizePtyRequest::new();
        message.id = self.id().to_owned();
        message.exec_id = exec_id(exec);
        message.width = width;
        message.height = height;
        self.empty("ResizePty", &message, QUICK).await
    }

    /// Lets the process see the end of its input once all clients have closed
    /// theirs.
    pub async fn close_stdin(&self, exec: Option<&str>) -> Result<(), Error> {
        let mut message = api::CloseIORequest::new();
        message.id = self.id().to_owned();
        message.exec_id = exec_id(exec);
        message.stdin = true;
        self.empty("CloseIO", &message, QUICK).await
    }

    /// Statistics as the shim encodes them: a type URL and a message.
    pub async fn stats(&self) -> Result<(String, Vec<u8>), Error> {
        let mut message = api::StatsRequest::new();
        message.id = self.id().to_owned();
        let mut answer: api::StatsResponse = self.task("Stats", &message, QUICK).await?;
        let stats = answer.stats.take().unwrap_or_default();
        Ok((stats.type_url, stats.value))
    }

    /// The shim's pid and that of init, 0 before `create`.
    pub async fn pids_of_shim_and_init(&self) -> Result<(u32, u32), Error> {
        let mut message = api::ConnectRequest::new();
        message.id = self.id().to_owned();
        let answer: api::ConnectResponse = self.task("Connect", &message, QUICK).await?;
        Ok((answer.shim_pid, answer.task_pid))
    }

    /// Opens the log files of init again, after they were renamed. Only
    /// Berth's own shim knows this call.
    pub async fn reopen_log(&self) -> Result<(), Error> {
        let mut message = api::StateRequest::new();
        message.id = self.id().to_owned();
        self.private("ReopenLog", &message).await
    }

    /// Copies output from now on to FIFOs that the caller already reads, beside
    /// the log. `None` leaves that stream alone; a terminal has only `stdout`.
    /// Only Berth's own shim knows this call.
    pub async fn attach(
        &self,
        exec: Option<&str>,
        stdout: Option<&Path>,
        stderr: Option<&Path>,
    ) -> Result<(), Error> {
        let text = |path: Option<&Path>| path.map_or(String::new(), |p| p.display().to_string());
        let mut message = api::ExecProcessRequest::new();
        message.id = self.id().to_owned();
        message.exec_id = exec_id(exec);
        message.stdout = text(stdout);
        message.stderr = text(stderr);
        self.private("Attach", &message).await
    }

    /// Ends the shim if its container was deleted.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let mut message = api::ShutdownRequest::new();
        message.id = self.id().to_owned();
        let told = match self.empty("Shutdown", &message, QUICK).await {
            // Some shims end before they have answered.
            Err(Error::Gone { .. }) => Ok(()),
            other => other,
        };
        if let Some(copier) = &self.inner.copier {
            copier.shutdown().await;
            // Not every shim removes it.
            if told.is_ok() {
                let _removed_already = std::fs::remove_file(&self.inner.socket);
            }
        }
        told
    }

    async fn task<A: containerd_shim_protos::protobuf::Message>(
        &self,
        method: &'static str,
        message: &impl containerd_shim_protos::protobuf::Message,
        patience: Patience,
    ) -> Result<A, Error> {
        let service = self.inner.service;
        self.inner
            .rpc
            .call(service, method, message, patience)
            .await
    }

    async fn empty(
        &self,
        method: &'static str,
        message: &impl containerd_shim_protos::protobuf::Message,
        patience: Patience,
    ) -> Result<(), Error> {
        self.task::<Empty>(method, message, patience)
            .await
            .map(drop)
    }

    async fn private(
        &self,
        method: &'static str,
        message: &impl containerd_shim_protos::protobuf::Message,
    ) -> Result<(), Error> {
        let rpc = match &self.inner.copier {
            Some(copier) => copier.rpc().ok_or_else(|| Error::Copier {
                id: self.id().to_owned(),
                reason: "its output has ended".to_owned(),
            })?,
            None => self.inner.rpc.clone(),
        };
        rpc.call::<Empty>(PRIVATE_SERVICE, method, message, QUICK)
            .await
            .map(drop)
    }

    fn json(
        &self,
        type_url: &str,
        what: &'static str,
        value: &impl Serialize,
    ) -> Result<Any, Error> {
        let mut any = Any::new();
        any.type_url = type_url.to_owned();
        any.value = serde_json::to_vec(value).map_err(|source| Error::Encode {
            what,
            id: self.id().to_owned(),
            source,
        })?;
        Ok(any)
    }
}

async fn connected(id: &str, path: &Path) -> Result<UnixStream, Error> {
    socket::connect(path)
        .await
        .map_err(|source| Error::NotRunning {
            id: id.to_owned(),
            path: path.to_owned(),
            source,
        })
}

fn exec_id(exec: Option<&str>) -> String {
    exec.unwrap_or_default().to_owned()
}

fn mount_message(mount: &Mount) -> api::Mount {
    let mut message = api::Mount::new();
    message.type_.clone_from(&mount.kind);
    message.source.clone_from(&mount.source);
    message.target.clone_from(&mount.target);
    message.options.clone_from(&mount.options);
    message
}
