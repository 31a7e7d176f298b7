//! Making processes, and holding on to them by descriptor.

#![allow(unsafe_code)] // clone3 and pidfd_send_signal with any signal number

use crate::sys::check_long;
use crate::{Errno, NamespaceSet, Result};
use rustix::process::{Pid, PidfdFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The kernel's `struct clone_args`, version 2 (Linux 5.7, with `cgroup`).
#[repr(C, align(8))]
#[derive(Default)]
pub(crate) struct CloneArguments {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A clone to be made: a fork with namespaces and a cgroup.
#[derive(Debug, Default)]
pub struct Clone3<'a> {
    /// New namespaces of the child.
    pub namespaces: NamespaceSet,
    /// Directory of the unified cgroup hierarchy that the child starts in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Become a sibling of the caller instead of its child.
    pub sibling: bool,
}

/// Which side of the clone this is.
#[derive(Debug)]
pub enum Cloned {
    /// `pid` is in the caller's own PID namespace.
    Parent {
        pid: Pid,
        pidfd: OwnedFd,
    },
    Child,
}

impl Clone3<'_> {
    /// Clones the calling process with a copied address space.
    ///
    /// `EBUSY` if the caller has more than one thread: the child would inherit
    /// locks that nobody can release. The child signals `SIGCHLD` when it ends.
    pub fn run(&self) -> Result<Cloned> {
        if !is_single_threaded()? {
            return Err(Errno::BUSY);
        }
        let mut pidfd: RawFd = -1;
        let mut arguments = CloneArguments {
            flags: CLONE_PIDFD | self.namespaces.bits(),
            pidfd: (&raw mut pidfd) as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArguments::default()
        };
        if let Some(cgroup) = self.cgroup {
            arguments.flags |= CLONE_INTO_CGROUP;
            arguments.cgroup = cgroup.as_raw_fd() as u64;
        }
        if self.sibling {
            // The kernel takes the exit signal of the caller's own parent.
            arguments.flags |= libc::CLONE_PARENT as u64;
            arguments.exit_signal = 0;
        }
        // SAFETY: `arguments` has the layout and size that are passed, and it
        // and `pidfd` outlive the call. Without CLONE_VM the child gets its
        // own copy of memory and continues on a copy of this stack; the
        // process has one thread (checked above), so the copy is consistent.
        let pid = check_long(unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw mut arguments,
                size_of::<CloneArguments>(),
            )
        })?;
        match i32::try_from(pid).ok().and_then(Pid::from_raw) {
            None => Ok(Cloned::Child),
            Some(pid) => {
                // SAFETY: the kernel stored a new descriptor there, owned by
                // nobody else yet.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                Ok(Cloned::Parent { pid, pidfd })
            }
        }
    }
}

/// Whether the calling process has exactly one thread. Rests on the link
/// count of `/proc/self/task`, which is two plus the number of threads.
pub fn is_single_threaded() -> Result<bool> {
    Ok(rustix::fs::stat(c"/proc/self/task")?.st_nlink == 3)
}

/// When a process that has not ended was started, in clock ticks since the boot
/// (`proc_pid_stat(5)`): with its number, what no later process has. `None`
/// for one that has ended, reaped or not.
#[must_use]
pub fn process_start(pid: i32) -> Option<u64> {
    const STATE: usize = 0;
    const START_TIME: usize = 19;
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name in the second field may hold anything, also parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    if matches!(*fields.get(STATE)?, "Z" | "X") {
        return None;
    }
    fields.get(START_TIME)?.parse().ok()
}

/// What one process tells another of a clone, in eight bytes in the machine's order: the pid and a
/// word about it, or no pid and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClonedWord(std::result::Result<(Pid, i32), Errno>);

impl ClonedWord {
    pub const LENGTH: usize = 8;

    #[must_use]
    pub fn new(outcome: Result<(Pid, i32)>) -> Self {
        Self(outcome)
    }

    pub fn outcome(self) -> Result<(Pid, i32)> {
        self.0
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let (pid, word) = match self.0 {
            Ok((pid, word)) => (pid.as_raw_pid(), word),
            Err(errno) => (0, errno.raw_os_error()),
        };
        let mut bytes = [0; Self::LENGTH];
        let (first, second) = bytes.split_at_mut(4);
        first.copy_from_slice(&pid.to_ne_bytes());
        second.copy_from_slice(&word.to_ne_bytes());
        bytes
    }

    /// `None` of anything but eight bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (first, second) = bytes.split_at_checked(4)?;
        let number = |bytes: &[u8]| bytes.try_into().ok().map(i32::from_ne_bytes);
        let (pid, word) = (number(first)?, number(second)?);
        Some(Self(match Pid::from_raw(pid) {
            Some(pid) => Ok((pid, word)),
            None => Err(Errno::from_raw_os_error(word)),
        }))
    }
}

/// For how long a process that has not ended has been there, to a clock tick.
#[must_use]
pub fn process_age(pid: i32) -> Option<Duration> {
    let ticks = rustix::param::clock_ticks_per_second();
    let began = Duration::from_millis(process_start(pid)?.checked_mul(1000)? / ticks);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).ok()?;
    let nanoseconds = u32::try_from(now.tv_nsec).ok()?;
    Some(Duration::new(seconds, nanoseconds).saturating_sub(began))
}

/// Ends the process at once: no destructors, no exit handlers, no flushing.
/// The way out of a cloned child that cannot exec.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(status) }
}

/// A close-on-exec descriptor of a process; it stays valid, and names the
/// same process, after that one has ended.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
}

/// Sends any signal number (also real-time ones); 0 only probes. `ESRCH` if
/// the process has been reaped.
pub fn pidfd_send_signal<Fd: AsFd>(pidfd: Fd, signal: i32) -> Result<()> {
    // SAFETY: a live descriptor, an integer, no siginfo and no flags.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_of_a_clone_arrives_as_it_was_sent() {
        let pid = Pid::from_raw(4711).unwrap();
        for outcome in [Ok((pid, 1)), Ok((pid, 0)), Err(Errno::AGAIN)] {
            let bytes = ClonedWord::new(outcome).to_bytes();
            assert_eq!(ClonedWord::from_bytes(&bytes).unwrap().outcome(), outcome);
            assert_eq!(ClonedWord::from_bytes(&bytes[1..]), None);
        }
    }
}
