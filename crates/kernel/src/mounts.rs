//! Mounts by descriptor: made detached, shaped, then attached.

#![allow(unsafe_code)] // mount_setattr, and pivot_root with equal arguments

use crate::Result;
use crate::sys::{check, check_long};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// `MOUNT_ATTR_…` flags of one mount.
pub type MountFlags = MountAttrFlags;

/// How mounts and unmounts below a mount travel to its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Private,
    /// Receives from its former peers, sends nothing.
    Slave,
    Shared,
    /// Private, and cannot be bound elsewhere.
    Unbindable,
}

impl Propagation {
    const fn bits(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// A file system that is being configured. Dropping it releases it.
#[derive(Debug)]
pub struct FilesystemContext {
    fd: OwnedFd,
}

impl FilesystemContext {
    /// Starts a new instance of a file system type; `ENODEV` if the kernel
    /// does not have the type.
    pub fn open(kind: &str) -> Result<Self> {
        let fd = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        Ok(Self { fd })
    }

    /// Sets `key` to `value`, at most 255 bytes long.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        rustix::mount::fsconfig_set_string(&self.fd, key, value)
    }

    /// Sets a key to a path, such as a `lowerdir+` of overlay.
    pub fn set_path_string(&self, key: &str, value: &Path) -> Result<()> {
        rustix::mount::fsconfig_set_string(&self.fd, key, value)
    }

    /// Sets a key to an open file.
    pub fn set_fd<Fd: AsFd>(&self, key: &str, value: Fd) -> Result<()> {
        rustix::mount::fsconfig_set_fd(&self.fd, key, value)
    }

    pub fn set_flag(&self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(&self.fd, key)
    }

    /// Makes the file system and answers with a detached mount of it, which
    /// is gone when the descriptor closes before it is attached.
    pub fn mount(&self, flags: MountFlags) -> Result<OwnedFd> {
        rustix::mount::fsconfig_create(&self.fd)?;
        rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, flags)
    }

    /// Applies what was set to the living file system ([`pick_filesystem`]).
    pub fn reconfigure(&self) -> Result<()> {
        rustix::mount::fsconfig_reconfigure(&self.fd)
    }

    /// What the kernel has to say about the last failure: its log lines,
    /// joined, or an empty string.
    #[must_use]
    pub fn complaint(&self) -> String {
        let mut lines = Vec::new();
        let mut buffer = [0u8; 512];
        while let Ok(length) = rustix::io::read(&self.fd, &mut buffer) {
            let line = String::from_utf8_lossy(&buffer[..length]);
            lines.push(line.trim_end().to_owned());
            if lines.len() == 16 {
                break;
            }
        }
        lines.join("; ")
    }
}

/// A detached, read-only mount of just the file at `path`. What is executed
/// from it cannot be written through `/proc/<pid>/exe`, whoever gets hold of
/// that link. It disappears with the last descriptor or process that uses it.
pub fn read_only_view(path: &Path) -> Result<OwnedFd> {
    let view = clone_tree(rustix::fs::CWD, path, false)?;
    let change = AttributeChange {
        set: MountFlags::MOUNT_ATTR_RDONLY | MountFlags::MOUNT_ATTR_NODEV,
        ..AttributeChange::default()
    };
    set_attributes(&view, &change, None, false)?;
    Ok(view)
}

/// The file system behind a mount, to be reconfigured.
pub fn pick_filesystem<Fd: AsFd>(mount: Fd) -> Result<FilesystemContext> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let fd = rustix::mount::fspick(mount, c"", flags)?;
    Ok(FilesystemContext { fd })
}

/// A detached copy of the mount at `path` (relative to `directory`; empty for
/// `directory` itself), with the mounts below it when `recursive`. A symbolic
/// link at the end of `path` is followed.
pub fn clone_tree<Fd: AsFd>(directory: Fd, path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    rustix::mount::open_tree(directory, path, flags)
}

/// Attaches a detached mount (or moves an attached one) onto the file or
/// directory that `target`, an `O_PATH` descriptor, stands for.
pub fn attach<M: AsFd, T: AsFd>(mount: M, target: T) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags)
}

/// Detaches the topmost mount at `path`, without following a symbolic link at
/// its end. The file system goes when its last user does.
pub fn detach(path: &Path) -> Result<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
}

/// A change of one mount's attributes.
#[derive(Debug, Clone, Copy)]
pub struct AttributeChange {
    pub set: MountFlags,
    pub clear: MountFlags,
    pub propagation: Option<Propagation>,
}

impl Default for AttributeChange {
    fn default() -> Self {
        Self {
            set: MountFlags::empty(),
            clear: MountFlags::empty(),
            propagation: None,
        }
    }
}

/// The kernel's `struct mount_attr`, version 0.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Changes a mount, and all below it when `recursive`; all of them or none.
/// With `user_namespace` the mount's ids are mapped through that namespace.
pub fn set_attributes<Fd: AsFd>(
    mount: Fd,
    change: &AttributeChange,
    user_namespace: Option<&OwnedFd>,
    recursive: bool,
) -> Result<()> {
    let mut attributes = MountAttributes {
        set: u64::from(change.set.bits()),
        clear: u64::from(change.clear.bits()),
        propagation: change.propagation.map_or(0, Propagation::bits),
        user_namespace: 0,
    };
    if let Some(namespace) = user_namespace {
        attributes.set |= u64::from(MountFlags::MOUNT_ATTR_IDMAP.bits());
        attributes.user_namespace = namespace.as_raw_fd() as u64;
    }
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `attributes` has the layout and size that are passed and
    // outlives the call; the path is a literal.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw mut attributes,
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}

/// Changes how the mount at `path` propagates, and all below it when
/// `recursive`.
pub fn set_propagation(path: &Path, propagation: Propagation, recursive: bool) -> Result<()> {
    let tree = rustix::mount::open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let change = AttributeChange {
        propagation: Some(propagation),
        ..AttributeChange::default()
    };
    set_attributes(tree, &change, None, recursive)
}

/// Makes the mount that `root` stands for the root and the working directory
/// of the calling process's mount namespace, and lets go of the old root.
///
/// The old root ends up stacked on the new one, so that the new root needs no
/// directory for it (pivot_root(2)). It is detached from there as a slave:
/// peers in other namespaces keep their mounts. `EINVAL` if the new root, or
/// the mount that it is attached to, is shared.
pub fn pivot_into<Fd: AsFd>(root: Fd) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old_root = rustix::fs::open(c"/", flags, Mode::empty())?;
    rustix::process::fchdir(root)?;
    // SAFETY: both paths are literals; the call changes only which directory
    // paths start from.
    check_long(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    let change = AttributeChange {
        propagation: Some(Propagation::Slave),
        ..AttributeChange::default()
    };
    set_attributes(&old_root, &change, None, true)?;
    rustix::process::fchdir(&old_root)?;
    // SAFETY: the path is a literal.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
    rustix::process::chdir(c"/")
}

/// Makes the directory that `root` stands for the root and the working
/// directory of the calling process. Its mount namespace stays as it is.
pub fn enter_root<Fd: AsFd>(root: Fd) -> Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(c".")?;
    rustix::process::chdir(c"/")
}

/// Moves the mount that `root` stands for over the root and makes it the root
/// of the calling process, where `pivot_root` is impossible because the old
/// root is the initramfs. What was mounted before stays below it.
pub fn move_into<Fd: AsFd>(root: Fd) -> Result<()> {
    rustix::process::fchdir(root)?;
    rustix::mount::mount_move(c".", c"/")?;
    rustix::process::chroot(c".")?;
    rustix::process::chdir(c"/")
}
