//! Mounts that show other owners than their file system has (mount_setattr(2),
//! "ID-mapped mounts").

use crate::report::Failure;
use crate::step::Step;
use berth_kernel::rustix::fs::{CWD, Mode, OFlags};
use berth_kernel::{AttributeChange, Propagation};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Maps the ids of a detached mount, and of all below it when `recursive`:
/// all or none. `EINVAL` if a file system cannot be mapped.
pub(crate) fn apply(
    mount: &OwnedFd,
    shift: &OwnedFd,
    recursive: bool,
    subject: &Path,
) -> Result<(), Failure> {
    berth_kernel::set_attributes(mount, &AttributeChange::default(), Some(shift), recursive)
        .map_err(Failure::at(Step::MapMount, subject))
}

/// Covers each directory with a mapped copy of itself, in the calling
/// process's own mount namespace. An overlay that is made of them then has
/// mapped layers; one cannot be mapped as a whole.
pub(crate) fn shift_layers(layers: &[PathBuf], shift: &OwnedFd) -> Result<(), Failure> {
    let mut copies = Vec::with_capacity(layers.len());
    for layer in layers {
        let failed = || Failure::at(Step::OpenMountSource, layer);
        let copy = berth_kernel::clone_tree(CWD, layer, false).map_err(failed())?;
        let change = AttributeChange {
            propagation: Some(Propagation::Private),
            ..AttributeChange::default()
        };
        berth_kernel::set_attributes(&copy, &change, None, false).map_err(failed())?;
        apply(&copy, shift, false, layer)?;
        copies.push(copy);
    }
    for (copy, layer) in copies.iter().zip(layers) {
        let failed = || Failure::at(Step::Attach, layer);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = berth_kernel::rustix::fs::open(layer, flags, Mode::empty()).map_err(failed())?;
        berth_kernel::attach(copy, &place).map_err(failed())?;
    }
    Ok(())
}
