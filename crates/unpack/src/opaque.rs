//! Directories that hide what the layers beneath have in them.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;

/// Who marks directories as opaque. The kernel lets only those with CAP_SYS_ADMIN set `trusted.`
/// attributes (xattr(7)): a process that unpacks without it has another do this.
pub trait Marker {
    /// Hides what the layers beneath have in `dir`, a directory of the layer.
    ///
    /// # Errors
    /// The kernel's.
    fn opaque(&self, dir: BorrowedFd<'_>) -> io::Result<()>;
}

/// The calling process does it itself.
#[derive(Debug, Clone, Copy)]
pub struct Directly;

impl Marker for Directly {
    fn opaque(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let mark = berth_kernel::overlay_marks().opaque;
        rustix::fs::fsetxattr(dir, mark, b"y", XattrFlags::empty())?;
        Ok(())
    }
}
