//! Running a command beside a container's process.
//!
//! ```text
//!   fifos ──▶ exec, start in the shim ──▶ running ──exit──▶ ended ──release──▶ (gone)
//!                                            │                 ▲
//!                                            └──dropped: hang-up, kill
//! ```
//!
//! A command belongs to who asked for it: when its client goes away, it sees the end of its input,
//! gets SIGHUP, and is killed with its process group if that did not end it. What is to live longer
//! has to leave the group (setsid, or a service's own way to become a daemon).

mod command;
mod fifos;
mod output;
mod request;
mod sync;

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use oci_spec::runtime::Process;
use serde::Deserialize;
use tokio::net::unix::pipe;

pub use command::CommandControl;
pub(crate) use command::{end_left_over, take_left_over};
pub(crate) use fifos::{Fifos, make_fifo, open_writer};
pub use sync::ExecOutput;

pub use request::ExecRequest;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::record;
use crate::spec::exec_process;
use crate::undo::blocking;
use command::Command;

/// Which standard streams are wanted. A terminal's output is all `stdout`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StdStreams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// Our ends of the streams.
#[derive(Debug, Default)]
pub struct Pipes {
    pub stdin: Option<pipe::Sender>,
    pub stdout: Option<pipe::Receiver>,
    pub stderr: Option<pipe::Receiver>,
}

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// A name in a container's `io` directory that nothing else has, also not of a former daemon with
/// the same pid.
pub(crate) fn unique(kind: &str) -> String {
    static BEGIN: OnceLock<u64> = OnceLock::new();
    let begin = BEGIN.get_or_init(|| record::now().unsigned_abs());
    let number = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    format!("{kind}-{begin:x}-{number}")
}

impl Container {
    /// Starts `command`. Dropping the control ends it.
    pub async fn exec(
        &self,
        request: ExecRequest,
        streams: StdStreams,
    ) -> Result<(Pipes, CommandControl)> {
        let command = self.prepare(request, streams).await?;
        let pipes = command.begin().await?;
        Ok((pipes, CommandControl::new(command)))
    }

    async fn prepare(&self, request: ExecRequest, streams: StdStreams) -> Result<Command> {
        let shim = self.running("execute a command in it")?;
        let files = self.files.clone();
        let pid = self.view().pid;
        let exec_id = unique("exec");
        let prefix = files.io().join(&exec_id);
        let (process, fifos) = blocking("prepare a command in", move || {
            let base = main_process(&files.spec())?;
            let process = exec_process(&base, &request.command, streams.tty)?;
            let process = request.shape(process, pid)?;
            let fifos = Fifos::create(&prefix, streams)?;
            berth_faults::at("exec.after-fifos")?;
            Ok((process, fifos))
        })
        .await?;
        let container = self.id().to_string();
        Ok(Command::new(shim, exec_id, container, process, fifos))
    }
}

/// The container's own process, out of its specification; what else is in there is passed over, which
/// takes a tenth of the time.
fn main_process(spec: &Path) -> Result<Process> {
    #[derive(Deserialize)]
    struct Part {
        process: Option<Process>,
    }
    let part: Option<Part> = record::read(spec)?;
    part.and_then(|part| part.process).ok_or_else(|| {
        Error::invalid(
            "config.json",
            "the container's specification has no process",
        )
    })
}
