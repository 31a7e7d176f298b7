//! An image's root directory for reading, without a mount that anyone could see.

use std::os::fd::OwnedFd;
use std::path::Path;

use berth_snapshots::Mount;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;

use crate::error::{Error, Result};

/// Opens the image below a container's writable layer: the only lower layer as it is, several as a
/// detached overlay that ends with the descriptor. `None` for an image without layers.
pub fn open(mounts: &[Mount]) -> Result<Option<OwnedFd>> {
    let lowers: Vec<&Path> = mounts
        .iter()
        .flat_map(|mount| &mount.options)
        .filter_map(|option| option.strip_prefix("lowerdir="))
        .flat_map(|list| list.split(':'))
        .map(Path::new)
        .collect();
    match lowers.as_slice() {
        [] => Ok(None),
        [only] => directory(only).map(Some),
        [top, ..] => {
            let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
            berth_kernel::mount_overlay(&lowers, &[], read_only)
                .map(Some)
                .map_err(|errno| failed("read the image at", top, errno))
        }
    }
}

fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed("open", path, errno))
}

fn failed(action: &'static str, path: &Path, errno: rustix::io::Errno) -> Error {
    Error::State {
        action,
        path: path.to_owned(),
        source: errno.into(),
    }
}
