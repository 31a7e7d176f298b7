//! What the shim knows of one process of its container.
//!
//! ```text
//!  exec:  Added ──start──► Running ──exit──► Stopped
//!  init:  Created ─start─► Running ──exit──► Stopped
//!            └───────────────exit──────────────▲
//! ```
//!
//! `Delete` ends the record in `Added`, `Created` and `Stopped`.

use std::os::fd::OwnedFd;
use std::time::SystemTime;

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use rustix::process::WaitStatus;

use crate::descendants;
use crate::io::pump::SharedLog;
use crate::io::stdio::{Held, StdioRequest};
use crate::status::Error;

const SIGKILL: i32 = 9;

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 plus the signal that killed the process.
    pub status: u32,
    pub at: SystemTime,
}

impl Exit {
    pub fn now(status: WaitStatus) -> Self {
        let status = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            // Neither stopped nor continued children are ever waited for.
            (None, None) => 255,
        };
        Self {
            status: status.unsigned_abs(),
            at: SystemTime::now(),
        }
    }

    pub fn timestamp(&self) -> Timestamp {
        Timestamp::from(self.at)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Added,
    Created,
    Running,
    Stopped(Exit),
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// Who asked, so that the answer finds its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub connection: u32,
    pub stream: u32,
}

#[derive(Debug)]
pub struct Process {
    /// Names the process among the pumps; never used twice.
    pub key: u32,
    /// 0 until it was started.
    pub pid: i32,
    pub pidfd: Option<OwnedFd>,
    pub state: State,
    pub stdio: StdioRequest,
    /// The OCI process of an exec that was not started yet.
    pub spec: Vec<u8>,
    /// Our ends of the FIFOs that the process uses directly.
    pub held: Held,
    /// The pty master, for resizing.
    pub terminal: Option<OwnedFd>,
    /// The logs that its output goes to, until it has ended.
    pub logs: Vec<SharedLog>,
    pub waiters: Vec<Caller>,
}

impl Process {
    pub fn added(key: u32, stdio: StdioRequest, spec: Vec<u8>) -> Self {
        Self {
            key,
            pid: 0,
            pidfd: None,
            state: State::Added,
            stdio,
            spec,
            held: Held::default(),
            terminal: None,
            logs: Vec::new(),
            waiters: Vec::new(),
        }
    }

    /// Signals this very process: a pid that was reused in the meantime is
    /// never hit.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        let (State::Created | State::Running, Some(pidfd)) = (self.state, &self.pidfd) else {
            return Err(match self.state {
                State::Added => Error::WrongState {
                    what: "the process".into(),
                    state: self.state.name(),
                    operation: "kill",
                },
                _ => Error::Finished,
            });
        };
        crate::signals::send(pidfd, signal)
    }

    /// Signals the process with its group, of which it is the leader: every process of ours begins
    /// a session. What is killed takes along also those of its descendants that have begun sessions
    /// of their own. Only while it is not reaped, so that its pid is still its own.
    pub fn signal_group(&self, signal: i32) -> Result<(), Error> {
        if signal == SIGKILL && matches!(self.state, State::Created | State::Running) {
            descendants::kill(self.pid);
        }
        self.signal(signal)?;
        let group = rustix::process::Pid::from_raw(self.pid);
        let signal = rustix::process::Signal::from_named_raw(signal);
        if let (Some(group), Some(signal)) = (group, signal) {
            // The leader has the signal; a group that is empty by now needs none.
            let _ = rustix::process::kill_process_group(group, signal);
        }
        Ok(())
    }
}
