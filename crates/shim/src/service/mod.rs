//! The Task API's operations on the one container of this shim.
//!
//! Nothing here waits for a process: `Wait` leaves its caller on the process,
//! and [`Service::exited`], called by the reaper, moves the callers to where
//! the server picks up their answers.

mod copying;
mod dumping;
mod ending;

pub use dumping::DumpRequest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use berth_kernel::WindowSize;

use crate::engine::{Checkpoint, Engine, Metrics, RootMount, Spawned};
use crate::events::{Event, Events, MadeOf};
use crate::io::log::Stream;
use crate::io::pump::Role;
use crate::io::pumps::Pumps;
use crate::io::stdio::{Owner, Prepared, StdioRequest, open_guest};
use crate::journal::note;
use crate::poller::Poller;
use crate::process::{Caller, Exit, Process, State};
use crate::status::{Error, chain};

const SIGKILL: i32 = 9;
/// Largest id that is taken, in bytes.
const ID_LEN: usize = 256;

#[derive(Debug)]
pub struct Service<E> {
    engine: E,
    pub pumps: Pumps,
    /// What has happened and is not told yet.
    pub events: Events,
    container: Option<Container>,
    dumping: Option<dumping::Dumping>,
    dumped: Vec<(Caller, Result<(), Error>)>,
    /// containerd's, or none.
    pub namespace: String,
    next_key: u32,
    answers: Vec<(Caller, Exit)>,
    stopping: bool,
    /// There is only output to copy, and nothing to stay for after its end.
    copying: bool,
}

#[derive(Debug)]
struct Container {
    id: String,
    bundle: PathBuf,
    init: Process,
    execs: BTreeMap<String, Process>,
    paused: bool,
    /// Somebody had us kill its init.
    killed: bool,
}

/// A process as `State` reports it.
#[derive(Debug)]
pub struct Report<'a> {
    pub bundle: &'a Path,
    pub process: &'a Process,
    pub paused: bool,
}

impl Container {
    fn process(&self, exec_id: &str) -> Result<&Process, Error> {
        if exec_id.is_empty() {
            return Ok(&self.init);
        }
        self.execs.get(exec_id).ok_or_else(|| Error::NoExec {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
        })
    }

    fn process_mut(&mut self, exec_id: &str) -> Result<&mut Process, Error> {
        if exec_id.is_empty() {
            return Ok(&mut self.init);
        }
        self.execs.get_mut(exec_id).ok_or_else(|| Error::NoExec {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
        })
    }

    fn wrong_state(&self, exec_id: &str, state: State, operation: &'static str) -> Error {
        let what = match exec_id {
            "" => format!("container {}", self.id),
            exec_id => format!("exec {exec_id}"),
        };
        Error::WrongState {
            what,
            state: if self.paused { "paused" } else { state.name() },
            operation,
        }
    }
}

fn find<'a>(slot: &'a mut Option<Container>, id: &str) -> Result<&'a mut Container, Error> {
    slot.as_mut()
        .filter(|container| container.id == id)
        .ok_or_else(|| Error::NoContainer { id: id.to_owned() })
}

impl<E: Engine> Service<E> {
    pub fn new(engine: E, poller: Rc<Poller>) -> Self {
        Self {
            engine,
            pumps: Pumps::new(poller),
            events: Events::default(),
            container: None,
            dumping: None,
            dumped: Vec::new(),
            namespace: String::new(),
            next_key: 0,
            answers: Vec::new(),
            stopping: false,
            copying: false,
        }
    }

    pub fn create(
        &mut self,
        id: &str,
        bundle: &Path,
        rootfs: &[RootMount],
        stdio: StdioRequest,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<u32, Error> {
        if self.container.is_some() {
            return Err(Error::ContainerExists { id: id.to_owned() });
        }
        check_id("id", id)?;
        if !bundle.is_absolute() {
            return Err(Error::Argument {
                field: "bundle",
                value: bundle.display().to_string(),
            });
        }
        let mut init = Process::added(self.key(), stdio, Vec::new());
        let owner = Owner {
            key: init.key,
            namespace: &self.namespace,
            id,
        };
        let mut prepared = init.stdio.open(owner)?;
        let spawned = self
            .engine
            .create(id, bundle, rootfs, prepared.take_child(), checkpoint)?;
        if let Err(error) = self.adopt(&mut init, prepared, spawned, State::Created) {
            if let Err(error) = self.engine.delete(true) {
                note!("{}", chain(&error));
            }
            return Err(error);
        }
        let pid = init.pid.unsigned_abs();
        self.events.tell(|| {
            let images = checkpoint.map(|it| it.images.display().to_string());
            let made_of = MadeOf {
                rootfs,
                stdio: &init.stdio,
                checkpoint: images.as_deref().unwrap_or_default(),
            };
            Event::created(id, &bundle.display().to_string(), pid, made_of)
        });
        self.container = Some(Container {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            init,
            execs: BTreeMap::new(),
            paused: false,
            killed: false,
        });
        Ok(pid)
    }

    pub fn exec(
        &mut self,
        id: &str,
        exec_id: &str,
        stdio: StdioRequest,
        spec: Vec<u8>,
    ) -> Result<(), Error> {
        check_id("exec_id", exec_id)?;
        let key = self.key();
        let container = find(&mut self.container, id)?;
        if container.execs.contains_key(exec_id) {
            return Err(Error::ExecExists {
                exec_id: exec_id.to_owned(),
            });
        }
        if matches!(container.init.state, State::Stopped(_)) {
            return Err(container.wrong_state("", container.init.state, "exec"));
        }
        let process = Process::added(key, stdio, spec);
        container.execs.insert(exec_id.to_owned(), process);
        self.events.tell(|| Event::exec_added(id, exec_id));
        Ok(())
    }

    pub fn start(&mut self, id: &str, exec_id: &str) -> Result<u32, Error> {
        let pid = self.started(id, exec_id)?;
        self.events.tell(|| Event::started(id, exec_id, pid));
        Ok(pid)
    }

    fn started(&mut self, id: &str, exec_id: &str) -> Result<u32, Error> {
        self.refuse_while_dumping(id, "start")?;
        let container = find(&mut self.container, id)?;
        let state = container.process(exec_id)?.state;
        if exec_id.is_empty() {
            if state != State::Created {
                return Err(container.wrong_state("", state, "start"));
            }
            self.engine.start()?;
            container.init.state = State::Running;
            return Ok(container.init.pid.unsigned_abs());
        }
        if state != State::Added || container.init.state != State::Running || container.paused {
            let blocker = match state {
                State::Added => container.init.state,
                state => state,
            };
            return Err(container.wrong_state(exec_id, blocker, "start"));
        }
        let process = container.process_mut(exec_id)?;
        let owner = Owner {
            key: process.key,
            namespace: &self.namespace,
            id: exec_id,
        };
        let mut prepared = process.stdio.open(owner)?;
        let spec = std::mem::take(&mut process.spec);
        let spawned = self.engine.exec(&spec, prepared.take_child())?;
        // Out and in again, so that it can be handed to `adopt` with the pumps.
        let Some(mut process) = container.execs.remove(exec_id) else {
            return Err(Error::Finished);
        };
        let adopted = self.adopt(&mut process, prepared, spawned, State::Running);
        let pid = process.pid.unsigned_abs();
        find(&mut self.container, id)?
            .execs
            .insert(exec_id.to_owned(), process);
        adopted.map(|()| pid)
    }

    fn adopt(
        &mut self,
        process: &mut Process,
        prepared: Prepared,
        spawned: Spawned,
        state: State,
    ) -> Result<(), Error> {
        process.pid = spawned.pid;
        process.pidfd = Some(spawned.pidfd);
        process.state = state;
        process.terminal = spawned.terminal;
        let (held, pumps) = prepared.into_pumps(process.key, process.terminal.as_ref())?;
        process.held = held;
        for pump in pumps {
            if let Some(log) = pump.log()
                && !process.logs.iter().any(|known| Rc::ptr_eq(known, log))
            {
                process.logs.push(Rc::clone(log));
            }
            self.pumps.add(pump);
        }
        Ok(())
    }

    pub fn report(&mut self, id: &str, exec_id: &str) -> Result<Report<'_>, Error> {
        let container = find(&mut self.container, id)?;
        Ok(Report {
            bundle: &container.bundle,
            paused: container.paused,
            process: container.process(exec_id)?,
        })
    }

    /// The pid of init, 0 if there is none.
    pub fn init_pid(&self) -> i32 {
        self.container
            .as_ref()
            .map_or(0, |container| container.init.pid)
    }

    pub fn kill(&mut self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<(), Error> {
        let signal = i32::try_from(signal)
            .ok()
            .filter(|signal| (1..=64).contains(signal))
            .ok_or_else(|| Error::Argument {
                field: "signal",
                value: signal.to_string(),
            })?;
        let container = find(&mut self.container, id)?;
        let process = container.process(exec_id)?;
        if all && exec_id.is_empty() {
            if matches!(process.state, State::Stopped(_)) {
                return Err(Error::Finished);
            }
            self.engine.signal_all(signal)?;
        } else if all {
            process.signal_group(signal)?;
        } else {
            process.signal(signal)?;
        }
        container.killed |= signal == SIGKILL && exec_id.is_empty();
        // A frozen process dies only when it thaws.
        if signal == SIGKILL && container.paused {
            self.engine.resume()?;
            container.paused = false;
        }
        Ok(())
    }

    pub fn pause(&mut self, id: &str) -> Result<(), Error> {
        self.refuse_while_dumping(id, "pause")?;
        let container = find(&mut self.container, id)?;
        if container.init.state != State::Running || container.paused {
            return Err(container.wrong_state("", container.init.state, "pause"));
        }
        self.engine.pause()?;
        container.paused = true;
        self.events.tell(|| Event::paused(id));
        Ok(())
    }

    pub fn resume(&mut self, id: &str) -> Result<(), Error> {
        self.refuse_while_dumping(id, "resume")?;
        let container = find(&mut self.container, id)?;
        if !container.paused {
            return Err(container.wrong_state("", container.init.state, "resume"));
        }
        self.engine.resume()?;
        container.paused = false;
        self.events.tell(|| Event::resumed(id));
        Ok(())
    }

    pub fn update(&mut self, id: &str, resources: &[u8]) -> Result<(), Error> {
        let container = find(&mut self.container, id)?;
        if matches!(container.init.state, State::Stopped(_)) {
            return Err(container.wrong_state("", container.init.state, "update"));
        }
        Ok(self.engine.update(resources)?)
    }

    /// The processes of the container; with the exec id of those that the shim
    /// started by `Exec`.
    pub fn pids(&mut self, id: &str) -> Result<Vec<i32>, Error> {
        let container = find(&mut self.container, id)?;
        if matches!(container.init.state, State::Stopped(_)) {
            return Ok(Vec::new());
        }
        Ok(self.engine.pids()?)
    }

    pub fn stats(&mut self, id: &str) -> Result<Metrics, Error> {
        find(&mut self.container, id)?;
        Ok(self.engine.stats()?)
    }

    /// `Some` if the process has ended; otherwise the caller is answered later.
    pub fn wait(&mut self, id: &str, exec_id: &str, caller: Caller) -> Result<Option<Exit>, Error> {
        let process = find(&mut self.container, id)?.process_mut(exec_id)?;
        if let State::Stopped(exit) = process.state {
            return Ok(Some(exit));
        }
        process.waiters.push(caller);
        Ok(None)
    }

    pub fn resize(
        &mut self,
        id: &str,
        exec_id: &str,
        columns: u16,
        rows: u16,
    ) -> Result<(), Error> {
        let process = find(&mut self.container, id)?.process(exec_id)?;
        let Some(terminal) = &process.terminal else {
            return Ok(());
        };
        berth_kernel::set_window_size(terminal, WindowSize { rows, columns })
            .map_err(|source| Error::system("resize terminal", source))
    }

    /// Closes our end of the process's input: it sees the end of its input once
    /// the last client has closed its own.
    pub fn close_stdin(&mut self, id: &str, exec_id: &str) -> Result<(), Error> {
        let process = find(&mut self.container, id)?.process_mut(exec_id)?;
        process.held.stdin = None;
        self.pumps.finish_input(process.key);
        Ok(())
    }

    pub fn reopen_logs(&mut self, id: &str, exec_id: &str) -> Result<(), Error> {
        let container = find(&mut self.container, id)?;
        let process = container.process(exec_id)?;
        if !matches!(process.state, State::Created | State::Running) {
            return Err(container.wrong_state(exec_id, process.state, "reopen log"));
        }
        process
            .logs
            .iter()
            .try_for_each(|log| log.borrow_mut().reopen())
    }

    /// Copies the output of a process to FIFOs, from now on, beside its log.
    pub fn attach(
        &mut self,
        id: &str,
        exec_id: &str,
        stdout: &str,
        stderr: &str,
    ) -> Result<(), Error> {
        let container = find(&mut self.container, id)?;
        let process = container.process(exec_id)?;
        let mut attached = true;
        for (path, stream) in [(stdout, Stream::Stdout), (stderr, Stream::Stderr)] {
            if !path.is_empty() {
                let client = open_guest(path)?;
                attached &= self.pumps.attach(process.key, Role::Output(stream), client);
            }
        }
        if !attached {
            return Err(container.wrong_state(exec_id, process.state, "attach"));
        }
        Ok(())
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping || (self.copying && self.pumps.is_empty())
    }

    pub fn has_container(&self) -> bool {
        self.container.is_some()
    }

    fn key(&mut self) -> u32 {
        self.next_key += 1;
        self.next_key
    }
}

fn check_id(field: &'static str, id: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if id.is_empty() || id.len() > ID_LEN || !id.bytes().all(plain) || id.starts_with('.') {
        return Err(Error::Argument {
            field,
            value: id.chars().take(ID_LEN).collect(),
        });
    }
    Ok(())
}
