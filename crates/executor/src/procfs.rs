//! A procfs of the child's own, attached nowhere.
//!
//! Kernel settings are written through it: its type is certain, and nothing
//! in the container's root can redirect a path in it.

use berth_kernel::rustix::fs::{Mode, OFlags};
use berth_kernel::{Errno, FilesystemContext, MountFlags, Result};
use std::os::fd::OwnedFd;
use std::path::Path;

#[derive(Debug)]
pub(crate) struct Procfs {
    mount: OwnedFd,
}

impl Procfs {
    /// The view of the calling process's PID namespace.
    pub(crate) fn new() -> Result<Self> {
        let context = FilesystemContext::open("proc")?;
        let flags = MountFlags::MOUNT_ATTR_NOSUID
            | MountFlags::MOUNT_ATTR_NODEV
            | MountFlags::MOUNT_ATTR_NOEXEC;
        Ok(Self {
            mount: context.mount(flags)?,
        })
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        let path = path.strip_prefix("/").unwrap_or(path);
        berth_kernel::open_beneath(&self.mount, path, flags, Mode::empty())
    }

    /// Writes all of `value` in one call.
    pub(crate) fn write(&self, path: &Path, value: &str) -> Result<()> {
        let file = self.open(path, OFlags::WRONLY)?;
        match berth_kernel::rustix::io::write(&file, value.as_bytes())? {
            written if written == value.len() => Ok(()),
            _ => Err(Errno::IO),
        }
    }

    /// The first bytes of a file, without white space around them.
    pub(crate) fn read_short(&self, path: &Path) -> Result<String> {
        let file = self.open(path, OFlags::RDONLY)?;
        let mut buffer = [0u8; 64];
        let length = berth_kernel::rustix::io::read(&file, &mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        Ok(text.trim().to_owned())
    }
}
