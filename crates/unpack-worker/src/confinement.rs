//! What a worker gives up before it reads the first byte of a layer.

use std::io;
use std::path::Path;

use berth_kernel::{CapabilitySet, Errno, FilesystemContext, MountFlags, Propagation};
use rustix::fs::{Mode, OFlags};
use rustix::process::Resource;

use crate::filter;
use crate::process::{self, Side};

/// To own, mode and label what an archive says, in directories that others own already.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// Beside the directories that unpacking holds open.
const DESCRIPTORS: u64 = 512;
/// A zstd window and the names of all directories may take 128 MiB each; threads reserve more than
/// they use.
const ADDRESS_SPACE: u64 = 2 << 30;
/// Much longer than the largest layer takes.
const CPU_SECONDS: u64 = 3600;

/// Goes on in a child that is confined to what the calling process, which has one thread, has open;
/// nothing undoes that. The caller waits until the child has ended and is told its status; the
/// child is told `None`.
///
/// # Errors
/// Which step failed, and why.
pub fn shut_in() -> io::Result<Option<u8>> {
    match process::apart()? {
        Side::Outer(status) => Ok(Some(status)),
        Side::Inner => confine().map(|()| None),
    }
}

fn confine() -> io::Result<()> {
    leave_the_file_system().map_err(during("leaving the file system"))?;
    limit().map_err(during("setting limits"))?;
    drop_privileges().map_err(during("dropping privileges"))?;
    filter::load()
}

fn during(step: &'static str) -> impl Fn(Errno) -> io::Error {
    move |errno| {
        let cause = io::Error::from(errno);
        io::Error::new(cause.kind(), format!("{step}: {cause}"))
    }
}

/// The root is an empty file system that takes no writes; what was mounted is gone.
fn leave_the_file_system() -> berth_kernel::Result<()> {
    berth_kernel::set_propagation(Path::new("/"), Propagation::Private, true)?;
    let flags = MountFlags::MOUNT_ATTR_RDONLY
        | MountFlags::MOUNT_ATTR_NOSUID
        | MountFlags::MOUNT_ATTR_NODEV
        | MountFlags::MOUNT_ATTR_NOEXEC;
    let root = FilesystemContext::open("tmpfs")?;
    root.set("size", "4k")?;
    let root = root.mount(flags)?;
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(c"/", place, Mode::empty())?;
    berth_kernel::attach(&root, &place)?;
    match berth_kernel::pivot_into(&root) {
        // The old root is the initramfs. What is below this one is out of reach for a process
        // without CAP_SYS_CHROOT and without a descriptor from there.
        Err(Errno::INVAL) => {
            rustix::process::fchdir(&root)?;
            rustix::process::chroot(c".")?;
            rustix::process::chdir(c"/")
        }
        moved => moved,
    }
}

fn limit() -> berth_kernel::Result<()> {
    for (resource, most) in [
        (Resource::Nofile, DESCRIPTORS),
        (Resource::As, ADDRESS_SPACE),
        (Resource::Cpu, CPU_SECONDS),
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
    ] {
        berth_kernel::set_limit(resource, Some(most), Some(most))?;
    }
    Ok(())
}

fn drop_privileges() -> berth_kernel::Result<()> {
    berth_kernel::set_groups(&[])?;
    berth_kernel::drop_bounding(CAPABILITIES)?;
    berth_kernel::clear_ambient()?;
    berth_kernel::set_capabilities(CAPABILITIES, CAPABILITIES, CapabilitySet::empty())?;
    berth_kernel::set_dumpable(false)?;
    berth_kernel::no_new_privileges()
}
