//! Namespaces held open by a process that does nothing else.
//!
//! A user namespace cannot be entered or made by a thread of a process with
//! several threads (user_namespaces(7)), so it is a child that is born in it.
//! The child lives until the holder is dropped; by then what it holds is
//! either pinned or open somewhere else.

#![allow(unsafe_code)] // clone3 in a process with threads; raw calls in the child

use crate::clone::CloneArguments;
use crate::sys::check_long;
use crate::{Errno, Namespace, NamespaceSet, Result, exit_now, pidfd_send_signal};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

const CLONE_PIDFD: u64 = 0x1000;
const SIGKILL: i32 = 9;
/// Most lines that the kernel takes in one map (user_namespaces(7)).
const MOST_MAPPINGS: usize = 340;

/// A range of ids that have other numbers inside a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdMapping {
    /// First id inside.
    pub inside: u32,
    /// First id outside, as the caller sees ids.
    pub outside: u32,
    pub length: u32,
}

/// A process that keeps namespaces alive; dropping it ends the process.
#[derive(Debug)]
pub struct NamespaceHolder {
    pid: Pid,
    pidfd: OwnedFd,
    /// The child ends when this closes, also if the caller is killed.
    _lifeline: OwnedFd,
}

impl NamespaceHolder {
    /// A child in new namespaces. With [`Namespace::User`] among them all
    /// others belong to that one; it has no ids until [`Self::map_ids`].
    pub fn new(namespaces: NamespaceSet) -> Result<Self> {
        Self::spawn(namespaces, None)
    }

    /// A child in a user namespace that exists, to look at its maps.
    pub fn within(user_namespace: BorrowedFd<'_>) -> Result<Self> {
        let (held, waiting) = crate::socket_pair()?;
        let holder = Self::spawn(NamespaceSet::EMPTY, Some((user_namespace, waiting.as_fd())))?;
        drop(waiting);
        let mut byte = [0u8; 1];
        match rustix::io::read(&held, &mut byte)? {
            1 => Ok(holder),
            _ => Err(Errno::PERM),
        }
    }

    /// Safe in a process with threads: the child makes nothing but raw calls.
    fn spawn(
        namespaces: NamespaceSet,
        join: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    ) -> Result<Self> {
        let (lifeline, end) = crate::socket_pair()?;
        let watched = end.as_raw_fd();
        let join = join.map(|(namespace, told)| (namespace.as_raw_fd(), told.as_raw_fd()));
        let mut pidfd: RawFd = -1;
        let mut arguments = CloneArguments {
            flags: CLONE_PIDFD | namespaces.bits(),
            pidfd: (&raw mut pidfd) as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArguments::default()
        };
        // SAFETY: `arguments` has the layout and size that are passed, and it
        // and `pidfd` outlive the call. Without CLONE_VM the child has its
        // own copy of memory; other threads' locks in it do not matter, since
        // the child only makes raw system calls until it ends.
        let pid = check_long(unsafe {
            libc::syscall(
                libc::SYS_clone3,
                &raw mut arguments,
                size_of::<CloneArguments>(),
            )
        })?;
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            live(watched, join)
        };
        // SAFETY: the kernel stored a new descriptor there, owned by nobody
        // else yet.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self {
            pid,
            pidfd,
            _lifeline: lifeline,
        })
    }

    /// Gives the new user namespace its ids; once only. The caller's right to
    /// the outer ids is the kernel's to judge (`EPERM`); maps that overlap or
    /// are empty are `EINVAL`, more ranges than it takes `E2BIG`.
    pub fn map_ids(&self, uids: &[IdMapping], gids: &[IdMapping]) -> Result<()> {
        for (file, mappings) in [("gid_map", gids), ("uid_map", uids)] {
            if mappings.len() > MOST_MAPPINGS {
                return Err(Errno::TOOBIG);
            }
            let text: String = mappings
                .iter()
                .map(|range| format!("{} {} {}\n", range.inside, range.outside, range.length))
                .collect();
            let path = format!("/proc/{}/{file}", self.pid.as_raw_pid());
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let map = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
            // One write: the kernel takes no second.
            if rustix::io::write(&map, text.as_bytes())? != text.len() {
                return Err(Errno::TOOBIG);
            }
        }
        Ok(())
    }

    /// The user and group ids of the namespace, as the caller sees them.
    pub fn ids(&self) -> Result<(Vec<IdMapping>, Vec<IdMapping>)> {
        mapped_ids(self.pid.as_raw_pid())
    }

    /// The child's id, in the caller's PID namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// The file of one of its namespaces, valid while the holder lives.
    #[must_use]
    pub fn namespace(&self, kind: Namespace) -> PathBuf {
        let pid = self.pid.as_raw_pid();
        PathBuf::from(format!("/proc/{pid}/ns/{}", kind.file_name()))
    }
}

impl Drop for NamespaceHolder {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = pidfd_send_signal(&self.pidfd, SIGKILL);
        let id = WaitId::PidFd(self.pidfd.as_fd());
        while let Err(Errno::INTR) = waitid(id.clone(), WaitIdOptions::EXITED) {}
    }
}

/// The user and group ids of a process's user namespace, as the caller sees
/// them.
pub fn mapped_ids(pid: i32) -> Result<(Vec<IdMapping>, Vec<IdMapping>)> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        let text = std::fs::read_to_string(path)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        text.lines().map(mapping).collect::<Result<Vec<_>>>()
    };
    Ok((read("uid_map")?, read("gid_map")?))
}

fn mapping(line: &str) -> Result<IdMapping> {
    let mut numbers = line.split_whitespace().map(str::parse);
    let mut next = || match numbers.next() {
        Some(Ok(number)) => Ok(number),
        _ => Err(Errno::PROTO),
    };
    Ok(IdMapping {
        inside: next()?,
        outside: next()?,
        length: next()?,
    })
}

/// The child: lets go of everything that it inherited, and waits for the end.
fn live(watched: RawFd, join: Option<(RawFd, RawFd)>) -> ! {
    let mut byte = 0u8;
    // SAFETY: integers, and pointers to a byte on this stack. Descriptors are
    // closed in the child's own table, which nothing of Rust uses any more.
    unsafe {
        if let Some((namespace, told)) = join {
            if libc::setns(namespace, libc::CLONE_NEWUSER) != 0 {
                exit_now(1);
            }
            libc::write(told, (&raw const byte).cast(), 1);
        }
        if watched > 0 {
            libc::syscall(libc::SYS_close_range, 0, watched - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, watched + 1, libc::c_uint::MAX, 0);
        // The other end closes, or an interruption: nothing is ever sent.
        while libc::read(watched, (&raw mut byte).cast(), 1) < 0 {}
    }
    exit_now(0)
}
