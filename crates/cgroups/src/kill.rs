//! The processes of a cgroup, and signals to all of them.

use crate::cgroup::Cgroup;
use crate::control::{ControlDir, read_all};
use crate::error::{Error, Result};
use crate::layout::{Controller, Layout};
use crate::remove::each_directory;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::{BorrowedFd, OwnedFd};

/// Rounds of signalling SIGKILL before what still forks is left to the
/// caller; with a freezer one round is enough.
const ROUNDS: usize = 16;

impl Cgroup {
    /// The processes (thread group ids) of this cgroup and of all below it,
    /// as seen from this process's PID namespace, in no particular order.
    /// Zombies count until they are reaped.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let directory = self.process_tree()?;
        let mut pids = Vec::new();
        let walked = each_directory(directory.path(), |fd| read_pids(fd, &mut pids));
        match walked {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(self.not_found()),
            Err(source) => {
                return Err(Error::Read {
                    file: directory.file("cgroup.procs"),
                    source,
                });
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Sends `signal` to every process of this cgroup and of all below it.
    ///
    /// SIGKILL goes through `cgroup.kill` where the kernel has it, so that
    /// nothing can fork its way out; elsewhere the cgroup is frozen for the
    /// duration. Other signals reach the processes that are there now. The
    /// processes are not waited for. A cgroup that is gone has none: success.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        let invalid = || Error::InvalidResource {
            setting: "signal",
            value: signal.to_string(),
            problem: "is not a signal",
        };
        let named = Signal::from_named_raw(signal).ok_or_else(invalid)?;
        let result = if named == Signal::KILL {
            self.kill_hard()
        } else {
            self.signal_each(named).map(|_| ())
        };
        match result {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    fn kill_hard(&self) -> Result<()> {
        let killed = match self.unified() {
            Some(unified) if unified.has("cgroup.kill") => {
                unified.write("cgroup.kill", "1")?;
                true
            }
            _ => false,
        };
        if killed && self.layout() == Layout::V2 {
            return Ok(());
        }
        // Processes may be in the v1 hierarchies only: if they could not be
        // cloned into the unified tree, or were moved by their own manager.
        if self.pids()?.is_empty() {
            return Ok(());
        }
        let frozen = self.freeze().is_ok();
        let result = self.kill_rounds(frozen);
        if frozen {
            self.thaw()?;
        }
        result
    }

    fn kill_rounds(&self, frozen: bool) -> Result<()> {
        let mut before = Vec::new();
        for _ in 0..ROUNDS {
            let now = self.signal_each(Signal::KILL)?;
            if frozen || now.iter().all(|pid| before.contains(pid)) {
                break;
            }
            before = now;
        }
        Ok(())
    }

    /// Signals each process once and returns those that were there.
    ///
    /// A process is signalled by a descriptor that was opened before the
    /// cgroup was read a second time: if it is listed then, the descriptor
    /// cannot be of a later process that inherited the number.
    fn signal_each(&self, signal: Signal) -> Result<Vec<i32>> {
        let candidates: Vec<(i32, OwnedFd)> = self
            .pids()?
            .into_iter()
            .filter_map(|pid| {
                let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
                Some((pid, fd))
            })
            .collect();
        let present = self.pids()?;
        for (pid, fd) in &candidates {
            if present.binary_search(pid).is_err() {
                continue;
            }
            match pidfd_send_signal(fd, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    return Err(Error::Signal {
                        path: self.path().to_string(),
                        pid: *pid,
                        signal: signal.as_raw(),
                        source: errno.into(),
                    });
                }
            }
        }
        Ok(present)
    }

    /// The hierarchy that tells the processes. Joining v1 is what the
    /// executor always does, so v1 is asked first.
    fn process_tree(&self) -> Result<&ControlDir> {
        [Controller::Pids, Controller::Freezer, Controller::Memory]
            .into_iter()
            .find_map(|controller| self.v1(controller))
            .filter(|directory| directory.exists())
            .or_else(|| self.unified().filter(|directory| directory.exists()))
            .or_else(|| {
                self.members()
                    .map(|(_, directory)| directory)
                    .find(|directory| directory.exists())
            })
            .ok_or_else(|| self.not_found())
    }
}

fn read_pids(directory: BorrowedFd<'_>, pids: &mut Vec<i32>) -> std::result::Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = match rustix::fs::openat(directory, c"cgroup.procs", flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let content = match read_all(&fd) {
        Ok(content) => content,
        Err(e) => match Errno::from_io_error(&e) {
            // Removed meanwhile; or a threaded cgroup, whose processes are
            // listed by its domain.
            Some(Errno::NODEV | Errno::OPNOTSUPP) => return Ok(()),
            Some(errno) => return Err(errno),
            None => return Err(Errno::IO),
        },
    };
    // A process outside of our PID namespace reads as 0.
    let seen = content.lines().filter_map(|line| line.parse().ok());
    pids.extend(seen.filter(|pid: &i32| *pid > 0));
    Ok(())
}
