//! `copy`: the log of a container that another shim runs.
//!
//! Shims of others write output to FIFOs and leave the rest to whoever reads them. This process
//! is that reader: it writes the log in the CRI format, opens it anew when told to, and serves
//! attached clients, all by the same calls as for a container of our own. It outlives the daemon,
//! as a shim does, and ends with the output, or by `Shutdown`.

use std::path::Path;

use containerd_shim_protos::ttrpc::proto::Code;

use crate::args::Args;
use crate::engine::{Checkpoint, ChildStdio, Dump, Engine, Metrics, RootMount, Spawned};
use crate::serve;
use crate::status::{EngineError, Error};

/// Serves on the inherited socket and copies `-stdout` and `-stderr` to `-log`. A proper end removes
/// `-socket`: one that is still there belongs to a copier that died, whose work is to be taken up
/// again.
pub fn copy(args: &Args) -> Result<(), Error> {
    let mut server = serve::prepare(|_| Elsewhere)?;
    let copied = server.copy(args).and_then(|()| server.run());
    // Where it could not even begin.
    let _ = std::fs::remove_file(&args.socket);
    copied
}

/// The container is another shim's: nothing of it can be done here.
#[derive(Debug)]
struct Elsewhere;

fn refused<T>(operation: &'static str) -> Result<T, EngineError> {
    Err(EngineError::Step {
        operation,
        code: Code::FAILED_PRECONDITION,
        source: "the container is run by another shim: ask that one".into(),
    })
}

impl Engine for Elsewhere {
    fn create(
        &mut self,
        _id: &str,
        _bundle: &Path,
        _rootfs: &[RootMount],
        _stdio: ChildStdio,
        _checkpoint: Option<&Checkpoint>,
    ) -> Result<Spawned, EngineError> {
        refused("create")
    }

    fn start(&mut self) -> Result<(), EngineError> {
        refused("start")
    }

    fn exec(&mut self, _process: &[u8], _stdio: ChildStdio) -> Result<Spawned, EngineError> {
        refused("exec")
    }

    fn signal_all(&mut self, _signal: i32) -> Result<(), EngineError> {
        refused("kill")
    }

    fn pause(&mut self) -> Result<(), EngineError> {
        refused("pause")
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        refused("resume")
    }

    fn checkpoint(&mut self, _bundle: &Path, _dump: &Dump) -> Result<i32, EngineError> {
        refused("checkpoint")
    }

    fn update(&mut self, _resources: &[u8]) -> Result<(), EngineError> {
        refused("update")
    }

    fn pids(&mut self) -> Result<Vec<i32>, EngineError> {
        refused("pids")
    }

    fn stats(&mut self) -> Result<Metrics, EngineError> {
        refused("stats")
    }

    fn oom_killed(&mut self, _killed_by_another: bool) -> bool {
        false
    }

    fn init_exited(&mut self) {}

    fn delete(&mut self, _force: bool) -> Result<(), EngineError> {
        refused("delete")
    }
}
