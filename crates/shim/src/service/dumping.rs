//! Checkpoints: begun here, ended by the reaper.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use berth_criu::{dump, log};

use super::{Service, find};
use crate::engine::{Dump, Engine};
use crate::events::Event;
use crate::process::{Caller, Exit, State};
use crate::status::Error;

/// A checkpoint that is being written.
#[derive(Debug)]
pub(super) struct Dumping {
    /// Of who writes it.
    pid: i32,
    caller: Caller,
    id: String,
    images: PathBuf,
    work: PathBuf,
}

/// What a caller asks for beside the place.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct DumpRequest {
    /// The container ends.
    pub exit: bool,
    pub shell_job: bool,
    /// Beside the images if it is empty.
    pub work: PathBuf,
}

impl<E: Engine> Service<E> {
    /// Begins a checkpoint; the caller is answered when it is written.
    pub fn checkpoint(
        &mut self,
        id: &str,
        images: &Path,
        request: DumpRequest,
        caller: Caller,
    ) -> Result<(), Error> {
        self.refuse_while_dumping(id, "checkpoint")?;
        let container = find(&mut self.container, id)?;
        let state = container.init.state;
        if state != State::Running {
            return Err(container.wrong_state("", state, "checkpoint"));
        }
        if container.init.stdio.terminal {
            return Err(Error::Unsupported {
                method: "a checkpoint of a container with a terminal",
            });
        }
        let work = match request.work.as_os_str().is_empty() {
            true => images,
            false => &request.work,
        };
        for (field, path) in [("path", images), ("work_path", work)] {
            make_private(field, path)?;
        }
        let dump = Dump {
            criu: berth_criu::find(None).ok_or(Error::NoCriu)?,
            images: images.to_owned(),
            work: work.to_owned(),
            leave_running: !request.exit,
            shell_job: request.shell_job,
            paused: container.paused,
        };
        let pid = self.engine.checkpoint(&container.bundle, &dump)?;
        self.dumping = Some(Dumping {
            pid,
            caller,
            id: id.to_owned(),
            images: dump.images,
            work: dump.work,
        });
        Ok(())
    }

    /// What would change the processes has to wait until they are written down.
    pub(super) fn refuse_while_dumping(
        &self,
        id: &str,
        operation: &'static str,
    ) -> Result<(), Error> {
        match &self.dumping {
            Some(dumping) if dumping.id == id => Err(Error::WrongState {
                what: format!("container {id}"),
                state: "being checkpointed",
                operation,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the child that was reaped is the one that wrote a checkpoint.
    pub(super) fn dump_ended(&mut self, pid: i32, exit: &Exit) -> bool {
        let Some(dumping) = self.dumping.take_if(|dumping| dumping.pid == pid) else {
            return false;
        };
        let done = match exit.status {
            0 => {
                let images = dumping.images.display().to_string();
                self.events
                    .tell(|| Event::checkpointed(&dumping.id, &images));
                Ok(())
            }
            status => Err(Error::Dump {
                id: dumping.id,
                status,
                reason: reason(&dumping.work),
            }),
        };
        self.dumped.push((dumping.caller, done));
        true
    }

    /// Answers for callers whose checkpoint is written, or failed.
    pub fn take_dumped(&mut self) -> Vec<(Caller, Result<(), Error>)> {
        std::mem::take(&mut self.dumped)
    }
}

/// What is in there is the container's memory: for nobody else.
fn make_private(field: &'static str, path: &Path) -> Result<(), Error> {
    if !path.is_absolute() {
        return Err(Error::Argument {
            field,
            value: path.display().to_string(),
        });
    }
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::path("make", path, source))
}

fn reason(work: &Path) -> String {
    let said = std::fs::read(work.join(dump::LOG)).unwrap_or_default();
    log::errors(&String::from_utf8_lossy(&said))
}
