//! Loading system call filters, and answering those that ask.

#![allow(unsafe_code)] // seccomp(2) takes a program by pointer, its ioctls structures

use crate::sys::{check, check_long};
use crate::{Errno, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

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

/// A call that waits for an answer (seccomp_unotify(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    pub id: u64,
    /// Of the thread, in the PID namespace of who receives.
    pub pid: u32,
    pub number: i32,
    pub arguments: [u64; 6],
}

/// What a call that waits is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Fail with this number.
    Errno(u16),
    /// Return this without being made.
    Value(i64),
    /// Be made after all. No boundary of trust: what it points to may have changed.
    Continue,
}

/// Waits for the next notification. `ENOENT` if the call was interrupted meanwhile.
pub fn receive_notification<Fd: AsFd>(listener: Fd) -> Result<Notification> {
    // SAFETY: the structure is of plain integers, and the kernel wants it zeroed.
    let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the ioctl fills a structure of this type.
    check(unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut raw) })?;
    Ok(Notification {
        id: raw.id,
        pid: raw.pid,
        number: raw.data.nr,
        arguments: raw.data.args,
    })
}

/// Answers the call with this id. `ENOENT` if nobody waits for it any more.
pub fn answer_notification<Fd: AsFd>(listener: Fd, id: u64, answer: Answer) -> Result<()> {
    const CONTINUE: u32 = 1;
    let (val, error, flags) = match answer {
        Answer::Errno(number) => (0, -i32::from(number), 0),
        Answer::Value(value) => (value, 0, 0),
        Answer::Continue => (0, 0, CONTINUE),
    };
    let mut raw = libc::seccomp_notif_resp {
        id,
        val,
        error,
        flags,
    };
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the ioctl reads a structure of this type.
    check(unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut raw) }).map(drop)
}
