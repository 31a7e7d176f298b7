//! Loading system call filters.

#![allow(unsafe_code)] // seccomp(2) takes a program by pointer

use crate::sys::check_long;
use crate::{Errno, Result};
use std::os::fd::{FromRawFd, OwnedFd};

/// One instruction of classic BPF, laid out as the kernel's
/// `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SockFilter {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

#[repr(C)]
struct SockProgram {
    length: u16,
    filter: *const SockFilter,
}

/// How a filter is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FilterFlags {
    /// Log every action but `ALLOW` when the system asks for logs.
    pub log: bool,
    /// Do not switch speculation mitigations on for the process.
    pub allow_speculation: bool,
    /// Answer with a descriptor that receives notifications.
    pub new_listener: bool,
    /// Let only fatal signals interrupt a notified call that was received.
    pub wait_killable: bool,
}

impl FilterFlags {
    const fn bits(self) -> libc::c_ulong {
        (if self.log { 1 << 1 } else { 0 })
            | (if self.allow_speculation { 1 << 2 } else { 0 })
            | (if self.new_listener { 1 << 3 } else { 0 })
            | (if self.wait_killable { 1 << 5 } else { 0 })
    }
}

/// Puts the calling thread, and all that it starts, under a filter for good.
/// Needs no_new_privileges or CAP_SYS_ADMIN (`EACCES`). Answers with the
/// listener, close-on-exec, when one was asked for.
pub fn load_filter(program: &[SockFilter], flags: FilterFlags) -> Result<Option<OwnedFd>> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    let program = SockProgram {
        length: u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        filter: program.as_ptr(),
    };
    // SAFETY: `program` points to as many instructions as it says, and the
    // kernel copies and verifies them within the call.
    let result = check_long(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags.bits(),
            &raw const program,
        )
    })?;
    if !flags.new_listener {
        return Ok(None);
    }
    let listener = i32::try_from(result).map_err(|_| Errno::BADF)?;
    // SAFETY: with this flag the result is a new descriptor without an owner.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(listener) }))
}
