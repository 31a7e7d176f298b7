//! How processes end and their records go.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use super::{SIGKILL, Service, find};
use crate::engine::Engine;
use crate::events::Event;
use crate::exit_record;
use crate::io::stdio::Held;
use crate::journal::note;
use crate::process::{Caller, Exit, Process, State};
use crate::reap;
use crate::status::{Error, chain};

/// The exit status of what SIGKILL ended.
const KILLED: u32 = 128 + SIGKILL.unsigned_abs();
/// How long a container may take to die when it is killed on the way.
const DEATH: Duration = Duration::from_secs(5);

impl<E: Engine> Service<E> {
    /// Ends the record of a process; of init, that of the container.
    pub fn delete(&mut self, id: &str, exec_id: &str) -> Result<(i32, Exit), Error> {
        let container = find(&mut self.container, id)?;
        let state = container.process(exec_id)?.state;
        match state {
            State::Stopped(_) | State::Added => {}
            State::Created => self.kill_unstarted()?,
            State::Running => return Err(container.wrong_state(exec_id, state, "delete")),
        }
        if exec_id.is_empty() {
            self.engine.delete(false)?;
        }
        let container = find(&mut self.container, id)?;
        let process = container.process_mut(exec_id)?;
        let exit = match process.state {
            State::Stopped(exit) => exit,
            _ => killed_now(),
        };
        let pid = process.pid;
        self.forget(exec_id);
        self.events
            .tell(|| Event::deleted(id, exec_id, pid.unsigned_abs(), &exit));
        Ok((pid, exit))
    }

    fn forget(&mut self, exec_id: &str) {
        if !exec_id.is_empty() {
            let process = self
                .container
                .as_mut()
                .and_then(|c| c.execs.remove(exec_id));
            process.into_iter().for_each(|process| self.retire(process));
        } else if let Some(container) = self.container.take() {
            let all = std::iter::once(container.init).chain(container.execs.into_values());
            all.for_each(|process| self.retire(process));
        }
    }

    fn retire(&mut self, process: Process) {
        self.pumps.retire(process.key);
        let exit = match process.state {
            State::Stopped(exit) => exit,
            _ => killed_now(),
        };
        let waiters = process.waiters.into_iter();
        self.answers.extend(waiters.map(|caller| (caller, exit)));
    }

    /// Kills and reaps an init that still waits at the start gate.
    fn kill_unstarted(&mut self) -> Result<(), Error> {
        let Some(container) = &self.container else {
            return Ok(());
        };
        let pid = container.init.pid;
        container.init.signal(SIGKILL)?;
        let deadline = Instant::now() + DEATH;
        while !self.is_stopped() {
            if !reap::wait_for(self.init_pidfd(), deadline) {
                return Err(Error::Undying { pid });
            }
            reap::collect(|pid, exit| self.exited(pid, exit));
        }
        Ok(())
    }

    fn init_pidfd(&self) -> Option<&OwnedFd> {
        self.container
            .as_ref()
            .and_then(|container| container.init.pidfd.as_ref())
    }

    fn is_stopped(&self) -> bool {
        self.container
            .as_ref()
            .is_none_or(|container| matches!(container.init.state, State::Stopped(_)))
    }

    /// A child was reaped. Children that are not in the books were orphans.
    pub fn exited(&mut self, pid: i32, exit: Exit) {
        if self.dump_ended(pid, &exit) {
            return;
        }
        let Some(container) = &mut self.container else {
            return;
        };
        let lives = |process: &Process| {
            process.pid == pid && matches!(process.state, State::Created | State::Running)
        };
        let is_init = lives(&container.init);
        let (exec_id, process) = if is_init {
            ("", &mut container.init)
        } else {
            let mut execs = container.execs.iter_mut();
            match execs.find(|(_, process)| lives(process)) {
                Some((exec_id, process)) => (exec_id.as_str(), process),
                None => return,
            }
        };
        let mut oom_killed = false;
        if is_init {
            // At once: systemd takes a scope away when it finds it empty, and what it counted with it.
            let killed_by_another = exit.status == KILLED && !container.killed;
            oom_killed = self.engine.oom_killed(killed_by_another);
            self.engine.init_exited();
            container.paused = false;
        }
        self.pumps.drain(process.key);
        if is_init {
            if let Err(error) = exit_record::write(&container.bundle, pid, &exit, oom_killed) {
                note!("{}", chain(&error));
            }
            if oom_killed {
                self.events.tell(|| Event::out_of_memory(&container.id));
            }
        }
        self.events
            .tell(|| Event::exited(&container.id, exec_id, pid.unsigned_abs(), &exit));
        process.state = State::Stopped(exit);
        process.pidfd = None;
        process.held = Held::default();
        process.logs = Vec::new();
        let waiters = std::mem::take(&mut process.waiters);
        self.answers
            .extend(waiters.into_iter().map(|caller| (caller, exit)));
    }

    /// Answers for callers of `wait` whose process has ended.
    pub fn take_answers(&mut self) -> Vec<(Caller, Exit)> {
        std::mem::take(&mut self.answers)
    }

    /// Forgets the callers of a connection that is gone.
    pub fn forget_connection(&mut self, connection: u32) {
        if let Some(container) = &mut self.container {
            let processes =
                std::iter::once(&mut container.init).chain(container.execs.values_mut());
            for process in processes {
                process
                    .waiters
                    .retain(|caller| caller.connection != connection);
            }
        }
    }

    /// Ends the shim if its container is gone. With `now`, the container is
    /// ended first.
    pub fn shutdown(&mut self, now: bool) {
        if self.container.is_some() && !now {
            return;
        }
        if let (true, Some(container)) = (self.copying, &self.container) {
            // What has been written already still belongs to the log.
            self.pumps.drain(container.init.key);
            self.stopping = true;
            return;
        }
        if self.container.is_some() {
            if let Err(error) = self.engine.signal_all(SIGKILL) {
                note!("{}", chain(&error));
            }
            let deadline = Instant::now() + DEATH;
            while !self.is_stopped() && reap::wait_for(self.init_pidfd(), deadline) {
                reap::collect(|pid, exit| self.exited(pid, exit));
            }
            if let Err(error) = self.engine.delete(true) {
                note!("{}", chain(&error));
            }
            self.forget("");
        }
        self.stopping = true;
    }
}

fn killed_now() -> Exit {
    Exit {
        status: KILLED,
        at: SystemTime::now(),
    }
}
