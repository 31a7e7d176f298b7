//! Project quotas: limits on what a directory and everything made in it may take of a file system.
//!
//! ext4 and XFS know them by the same calls, whose figures are those of XFS: `quotactl_fd(2)`
//! (Linux 5.14) with the commands of `<linux/dqblk_xfs.h>`, and the attributes of
//! `<linux/fs.h>` that chattr(1) calls `P` and lsattr(1) shows with `-p`.

#![allow(unsafe_code)] // quotactl_fd and the two ioctls that no library has

use crate::sys::check_long;
use crate::{Errno, Result};
use std::os::fd::{AsFd, AsRawFd};

/// Quotas count in these, whatever the file system's blocks are.
const UNIT: u64 = 512;

/// `QCMD(command, PRJQUOTA)`.
const fn command(number: u32) -> libc::c_long {
    const PROJECT: u32 = 2;
    const OF_XFS: u32 = (b'X' as u32) << 8;
    (((OF_XFS + number) << 8) | PROJECT) as libc::c_long
}

const GET: libc::c_long = command(3);
const SET_LIMITS: libc::c_long = command(4);
const GET_STATE: libc::c_long = command(8);
const GET_NEXT: libc::c_long = command(9);

const PROJECT_ENFORCED: u16 = 1 << 5;
const PROJECT_FLAG: i8 = 2;
const SOFT_AND_HARD_BLOCKS: u16 = 1 << 2 | 1 << 3;

/// New files in the directory are of its project.
const INHERIT: u32 = 0x200;

/// What a project takes and may take. Zero for a project that the file system knows nothing of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProjectUsage {
    /// Allocated, in units of 512.
    pub bytes: u64,
    pub inodes: u64,
    /// Of bytes; 0 means none.
    pub limit: u64,
}

/// The kernel's `struct fs_disk_quota`, version 1.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    field_mask: u16,
    id: u32,
    block_hard_limit: u64,
    block_soft_limit: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    blocks: u64,
    inodes: u64,
    inode_timer: i32,
    block_timer: i32,
    inode_warnings: u16,
    block_warnings: u16,
    timers_high: [i8; 4],
    realtime_hard_limit: u64,
    realtime_soft_limit: u64,
    realtime_blocks: u64,
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: i16,
    more_padding: [u8; 8],
}

impl DiskQuota {
    fn usage(&self) -> ProjectUsage {
        ProjectUsage {
            bytes: self.blocks.saturating_mul(UNIT),
            inodes: self.inodes,
            limit: self.block_hard_limit.saturating_mul(UNIT),
        }
    }
}

/// The kernel's `struct fs_quota_statv`, version 1. Only the flags are looked at.
#[repr(C)]
#[derive(Default)]
struct QuotaState {
    version: i8,
    padding: u8,
    flags: u16,
    in_core: u32,
    rest: [u64; 19],
}

/// The kernel's `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_on_write_extent_size: u32,
    padding: [u8; 8],
}

const _: () = {
    assert!(size_of::<DiskQuota>() == 112);
    assert!(size_of::<QuotaState>() == 160);
    assert!(size_of::<Attributes>() == 28);
};

const GET_ATTRIBUTES: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const SET_ATTRIBUTES: libc::Ioctl = 0x401c_5820_u32 as libc::Ioctl;

/// Whether the file system that `file` lies on holds projects to their limits. `ENOSYS` where the
/// kernel or the file system has no quotas, or none are on.
pub fn project_quotas_enforced<Fd: AsFd>(file: Fd) -> Result<bool> {
    let mut state = QuotaState {
        version: 1,
        ..QuotaState::default()
    };
    control(file, GET_STATE, 0, &mut state)?;
    Ok(state.flags & PROJECT_ENFORCED != 0)
}

/// What a project takes of the file system that `file` lies on. Needs `CAP_SYS_ADMIN`.
pub fn project_usage<Fd: AsFd>(file: Fd, project: u32) -> Result<ProjectUsage> {
    let mut quota = DiskQuota::default();
    match control(file, GET, project, &mut quota) {
        // XFS has no record of what was never used.
        Err(Errno::NOENT | Errno::SRCH) => Ok(ProjectUsage::default()),
        got => got.map(|()| quota.usage()),
    }
}

/// The first project from `from` on that takes something or is limited. Needs `CAP_SYS_ADMIN`.
pub fn next_project<Fd: AsFd>(file: Fd, from: u32) -> Result<Option<(u32, ProjectUsage)>> {
    let mut quota = DiskQuota::default();
    match control(file, GET_NEXT, from, &mut quota) {
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        got => got.map(|()| Some((quota.id, quota.usage()))),
    }
}

/// Limits a project to so many bytes, rounded down to 512 but never to none; 0 lifts the limit.
/// Needs `CAP_SYS_ADMIN`.
pub fn limit_project<Fd: AsFd>(file: Fd, project: u32, bytes: u64) -> Result<()> {
    let units = match bytes {
        0 => 0,
        some => (some / UNIT).max(1),
    };
    let mut quota = DiskQuota {
        version: 1,
        flags: PROJECT_FLAG,
        field_mask: SOFT_AND_HARD_BLOCKS,
        id: project,
        block_hard_limit: units,
        ..DiskQuota::default()
    };
    control(file, SET_LIMITS, project, &mut quota)
}

/// The project of a file or directory, if what is made in it is to be of it, too.
pub fn inherited_project<Fd: AsFd>(file: Fd) -> Result<Option<u32>> {
    let attributes = attributes(&file)?;
    let inherits = attributes.flags & INHERIT != 0 && attributes.project != 0;
    Ok(inherits.then_some(attributes.project))
}

/// Makes an empty directory, and all that will be made in it, part of a project; 0 takes it out.
pub fn set_inherited_project<Fd: AsFd>(directory: Fd, project: u32) -> Result<()> {
    let mut attributes = attributes(&directory)?;
    attributes.project = project;
    match project {
        0 => attributes.flags &= !INHERIT,
        _ => attributes.flags |= INHERIT,
    }
    let fd = directory.as_fd().as_raw_fd();
    // SAFETY: the call reads `Attributes`, which has the kernel's layout and outlives it.
    check_long(unsafe { libc::ioctl(fd, SET_ATTRIBUTES, &raw const attributes) }.into()).map(drop)
}

fn attributes<Fd: AsFd>(file: &Fd) -> Result<Attributes> {
    let mut attributes = Attributes::default();
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the call writes `Attributes`, which has the kernel's layout and outlives it.
    check_long(unsafe { libc::ioctl(fd, GET_ATTRIBUTES, &raw mut attributes) }.into())?;
    Ok(attributes)
}

/// `T` is what the command reads or writes: each has one, and is called in one place.
fn control<Fd: AsFd, T>(file: Fd, command: libc::c_long, project: u32, data: &mut T) -> Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: `data` has the layout that the command takes, is not shared and outlives the call.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            fd,
            command,
            project,
            std::ptr::from_mut(data),
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn commands_are_those_of_project_quotas() {
        let commands = [GET, SET_LIMITS, GET_STATE, GET_NEXT];
        assert_eq!(commands, [0x58_0302, 0x58_0402, 0x58_0802, 0x58_0902]);
    }

    #[test]
    fn a_file_system_without_quotas_says_so() {
        let proc = File::open("/proc/self").unwrap();
        assert_eq!(project_quotas_enforced(&proc), Err(Errno::NOSYS));
        assert!(set_inherited_project(&proc, 7).is_err());
    }

    #[test]
    fn an_ordinary_directory_is_of_no_project() {
        let place = tempfile::tempdir().unwrap();
        let dir = File::open(place.path()).unwrap();
        // Not every file system has the attributes.
        assert!(matches!(
            inherited_project(&dir),
            Ok(None) | Err(Errno::NOTTY | Errno::OPNOTSUPP)
        ));
    }
}
