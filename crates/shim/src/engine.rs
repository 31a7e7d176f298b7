//! The seam between the shim's protocol and what makes containers.
//!
//! The shim asks for processes and passes descriptors; it reaps, waits and
//! answers itself. The real engine is [`crate::oci::OciEngine`]; tests use one
//! that starts ordinary processes.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::status::EngineError;

/// A mount of the container's root filesystem, from `Create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootMount {
    pub kind: String,
    pub source: String,
    pub target: String,
    pub options: Vec<String>,
}

/// Where the processes of a container come from, if they are not to be made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Images of criu.
    pub images: PathBuf,
    /// Where its log goes.
    pub work: PathBuf,
    pub criu: PathBuf,
}

/// What becomes of a container that is written down, and of what hangs on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    pub criu: PathBuf,
    /// Where its images go.
    pub images: PathBuf,
    /// Where its log goes.
    pub work: PathBuf,
    /// The processes go on afterwards; otherwise they are killed.
    pub leave_running: bool,
    /// Jobs of a shell that is outside.
    pub shell_job: bool,
    /// The container is frozen, and stays so.
    pub paused: bool,
}

/// The three standard descriptors of a process that is about to be made.
#[derive(Debug)]
pub enum ChildStdio {
    Files {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A new pseudo-terminal, whose master comes back in [`Spawned`].
    Terminal,
}

/// A new child of the shim, which the shim has to reap.
#[derive(Debug)]
pub struct Spawned {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub terminal: Option<OwnedFd>,
}

/// Statistics as the Task API carries them: a type URL and an encoded message.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub type_url: String,
    pub value: Vec<u8>,
}

/// Makes and controls one container.
pub trait Engine {
    /// Makes the container from `<bundle>/config.json`, its init waiting at the
    /// start gate. From a checkpoint, all processes wait there.
    fn create(
        &mut self,
        id: &str,
        bundle: &Path,
        rootfs: &[RootMount],
        stdio: ChildStdio,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Spawned, EngineError>;
    /// Opens the gate; returns once the user's program runs.
    fn start(&mut self) -> Result<(), EngineError>;
    /// Starts one more process, described by an OCI `process` object in JSON.
    fn exec(&mut self, process: &[u8], stdio: ChildStdio) -> Result<Spawned, EngineError>;
    /// Signals every process of the container.
    fn signal_all(&mut self, signal: i32) -> Result<(), EngineError>;
    fn pause(&mut self) -> Result<(), EngineError>;
    fn resume(&mut self) -> Result<(), EngineError>;
    /// Begins to write the processes down. Whoever does so is a child of the shim, with the pid
    /// that comes back.
    fn checkpoint(&mut self, bundle: &Path, dump: &Dump) -> Result<i32, EngineError>;
    /// Applies an OCI `resources` object in JSON.
    fn update(&mut self, resources: &[u8]) -> Result<(), EngineError>;
    fn pids(&mut self) -> Result<Vec<i32>, EngineError>;
    fn stats(&mut self) -> Result<Metrics, EngineError>;
    /// Whether the kernel killed a process of the container for memory. `killed_by_another` than us was
    /// its init, for whatever reason.
    fn oom_killed(&mut self, killed_by_another: bool) -> bool;
    /// Called when init was reaped: kills what may have outlived it.
    fn init_exited(&mut self);
    /// Removes what the container occupied. Init is dead, or is killed with
    /// `force`.
    fn delete(&mut self, force: bool) -> Result<(), EngineError>;
}
