//! A read-only view of one executable.

use std::os::fd::OwnedFd;
use std::path::Path;

use berth_kernel::{AttributeChange, MountFlags, clone_tree, set_attributes};

/// A detached, read-only mount of just this file. It disappears with the last
/// descriptor or process that uses it.
pub fn read_only_view(binary: &Path) -> std::io::Result<OwnedFd> {
    let view = clone_tree(rustix::fs::CWD, binary, false)?;
    let change = AttributeChange {
        set: MountFlags::MOUNT_ATTR_RDONLY | MountFlags::MOUNT_ATTR_NODEV,
        ..AttributeChange::default()
    };
    set_attributes(&view, &change, None, false)?;
    Ok(view)
}
