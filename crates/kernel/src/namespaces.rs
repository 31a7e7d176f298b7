//! Namespaces: making, joining and pinning them.

#![allow(unsafe_code)] // setns and unshare

use crate::sys::check;
use crate::{Result, attach, clone_tree};
use rustix::fs::{CWD, Mode, OFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Namespace {
    Mount,
    Uts,
    Ipc,
    Pid,
    Network,
    User,
    Cgroup,
    Time,
}

impl Namespace {
    pub const ALL: [Self; 8] = [
        Self::Mount,
        Self::Uts,
        Self::Ipc,
        Self::Pid,
        Self::Network,
        Self::User,
        Self::Cgroup,
        Self::Time,
    ];

    /// The kind's `CLONE_NEW…` flag.
    #[must_use]
    pub const fn bit(self) -> u64 {
        match self {
            Self::Mount => libc::CLONE_NEWNS as u64,
            Self::Uts => libc::CLONE_NEWUTS as u64,
            Self::Ipc => libc::CLONE_NEWIPC as u64,
            Self::Pid => libc::CLONE_NEWPID as u64,
            Self::Network => libc::CLONE_NEWNET as u64,
            Self::User => libc::CLONE_NEWUSER as u64,
            Self::Cgroup => libc::CLONE_NEWCGROUP as u64,
            Self::Time => 0x80,
        }
    }

    /// The kind's file name under `/proc/<pid>/ns`.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::Pid => "pid",
            Self::Network => "net",
            Self::User => "user",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }
}

/// A set of namespace kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamespaceSet(u64);

impl NamespaceSet {
    pub const EMPTY: Self = Self(0);

    #[must_use]
    pub const fn with(self, kind: Namespace) -> Self {
        Self(self.0 | kind.bit())
    }

    #[must_use]
    pub const fn without(self, kind: Namespace) -> Self {
        Self(self.0 & !kind.bit())
    }

    #[must_use]
    pub const fn contains(self, kind: Namespace) -> bool {
        self.0 & kind.bit() != 0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The `CLONE_NEW…` flags of the set.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    pub fn iter(self) -> impl Iterator<Item = Namespace> {
        Namespace::ALL
            .into_iter()
            .filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<Namespace> for NamespaceSet {
    fn from_iter<T: IntoIterator<Item = Namespace>>(kinds: T) -> Self {
        kinds.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// Moves the calling thread into new namespaces. A new PID namespace is for
/// its next children; mount and user namespaces need a single-threaded caller
/// or one that shares no file system state (`EINVAL`).
pub fn unshare(kinds: NamespaceSet) -> Result<()> {
    // SAFETY: only CLONE_NEW* flags can be in a set; none of them changes how
    // memory or descriptors are shared between threads.
    check(unsafe { libc::unshare(kinds.bits() as libc::c_int) }).map(drop)
}

/// Whether ids are mapped, so that being root says nothing about the host's files: the first user
/// namespace maps all ids onto themselves (`user_namespaces(7)`).
#[must_use]
pub fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps_everything(&map))
}

fn maps_everything(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Moves the calling thread into existing namespaces.
///
/// `fd` is either one namespace's file, with exactly its kind in `kinds` (or
/// none, when any kind will do), or a pidfd, with all kinds to take over from
/// that process at once. A PID namespace is for the next children.
pub fn join<Fd: AsFd>(fd: Fd, kinds: NamespaceSet) -> Result<()> {
    // SAFETY: a live descriptor and CLONE_NEW* flags.
    check(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kinds.bits() as libc::c_int) }).map(drop)
}

/// Opens a namespace by its file: `/proc/<pid>/ns/<kind>` or a pinned one.
pub fn open_namespace(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Keeps a namespace alive by binding its file onto `target`, an existing
/// empty file in the caller's mount namespace. Undone by [`crate::detach`].
///
/// For the calling thread's own namespace pass
/// `/proc/thread-self/ns/<kind>`.
pub fn pin_namespace(source: &Path, target: &Path) -> Result<()> {
    let mount = clone_tree(CWD, source, false)?;
    let place = rustix::fs::open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(&mount, &place)
}
