//! Paths that a container must not see or must not change.

use crate::mounts::{attach, empty_directory};
use crate::places;
use crate::report::Failure;
use crate::step::Step;
use berth_kernel::rustix::fs::CWD;
use berth_kernel::{AttributeChange, Errno, MountFlags};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// What covers masked paths, made when the first one is found.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    /// The empty directory over the first masked one, cloned for the others:
    /// kernels before 6.15 clone only what is attached.
    directory: Option<OwnedFd>,
}

impl Masks {
    /// Covers a directory with the empty one and a file with the host's null
    /// device. A path that is missing needs no cover.
    pub(crate) fn cover(&mut self, root: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
        let failed = || Failure::at(Step::MaskPath, path);
        let Some(place) = find(root, path).map_err(failed())? else {
            return Ok(());
        };
        if !places::is_directory(&place).map_err(failed())? {
            // By the host's path: whatever the image holds as /dev/null has
            // no part in this.
            let null = berth_kernel::clone_tree(CWD, Path::new("/dev/null"), false);
            return attach(&null.map_err(failed())?, &place, path);
        }
        if let Some(empty) = &self.directory {
            let copy = berth_kernel::clone_tree(empty, Path::new(""), false);
            return attach(&copy.map_err(failed())?, &place, path);
        }
        let empty = empty_directory().map_err(failed())?;
        attach(&empty, &place, path)?;
        self.directory = Some(empty);
        Ok(())
    }
}

/// Binds a path onto itself, read-only with all below it. A path that is
/// missing is left out.
pub(crate) fn protect(root: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
    let failed = || Failure::at(Step::ProtectPath, path);
    let Some(place) = find(root, path).map_err(failed())? else {
        return Ok(());
    };
    let copy = berth_kernel::clone_tree(&place, Path::new(""), true).map_err(failed())?;
    let change = AttributeChange {
        set: MountFlags::MOUNT_ATTR_RDONLY,
        ..AttributeChange::default()
    };
    berth_kernel::set_attributes(&copy, &change, None, true).map_err(failed())?;
    attach(&copy, &place, path)
}

fn find(root: BorrowedFd<'_>, path: &Path) -> berth_kernel::Result<Option<OwnedFd>> {
    match places::find(root, path) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}
