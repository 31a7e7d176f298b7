//! Signals as descriptors, and a clean slate for programs to be started.

#![allow(unsafe_code)] // signal sets are built by libc; signalfd

use crate::sys::check;
use crate::{Errno, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const HIGHEST_SIGNAL: i32 = 64;

fn signal_set(signals: &[i32]) -> Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in signals {
        // SAFETY: the set is initialised; a bad number is reported.
        check(unsafe { libc::sigaddset(&raw mut set, *signal) })?;
    }
    Ok(set)
}

/// Blocks signals for the calling thread and for what it starts.
pub fn block_signals(signals: &[i32]) -> Result<()> {
    let set = signal_set(signals)?;
    // SAFETY: an initialised set, and no interest in the old one.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })
        .map(drop)
}

/// Gives every signal its default action and unblocks all. A Rust program
/// ignores `SIGPIPE`, and ignored signals stay ignored over exec.
pub fn reset_signals() -> Result<()> {
    default_dispositions();
    let none = signal_set(&[])?;
    // SAFETY: an initialised set, and no interest in the old one.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) })
        .map(drop)
}

/// Gives every signal its default action; the mask stays.
///
/// By the kernel's own call: the C library keeps two signals to itself, and
/// whoever started this process may have had them ignored.
pub fn default_dispositions() {
    /// Handler, flags, restorer and mask of the kernel's `struct sigaction`,
    /// all zero: the default action.
    const DEFAULT: [u64; 4] = [0; 4];
    const MASK_SIZE: usize = 8;
    for signal in 1..=HIGHEST_SIGNAL {
        // SAFETY: the action is as large as the kernel reads and installs no
        // handler. KILL and STOP are refused, which leaves them as they are.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                MASK_SIZE,
            );
        }
    }
}

/// A received signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalInfo {
    pub signal: i32,
    /// Who sent it; for `SIGCHLD` the child.
    pub pid: i32,
    /// For `SIGCHLD`: exit status or signal number, as `code` says.
    pub status: i32,
    /// `si_code`.
    pub code: i32,
}

/// Signals read from a descriptor. Several `SIGCHLD` may arrive as one: reap
/// until there is nothing left.
#[derive(Debug)]
pub struct SignalDescriptor {
    fd: OwnedFd,
}

impl SignalDescriptor {
    /// Blocks the signals and makes a non-blocking, close-on-exec descriptor
    /// that delivers them.
    pub fn new(signals: &[i32]) -> Result<Self> {
        block_signals(signals)?;
        let set = signal_set(signals)?;
        // SAFETY: an initialised set; -1 asks for a new descriptor.
        let fd = check(unsafe {
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        })?;
        // SAFETY: the kernel just made it; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// The next pending signal, or `None` when there is none now.
    pub fn read(&self) -> Result<Option<SignalInfo>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        loop {
            // SAFETY: the buffer is as large as the size that is passed.
            let read = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
            if usize::try_from(read).is_ok_and(|read| read == size) {
                break;
            }
            match crate::sys::last_errno() {
                Errno::INTR => {}
                Errno::AGAIN => return Ok(None),
                errno => return Err(errno),
            }
        }
        // SAFETY: the kernel filled the whole structure (checked above).
        let info = unsafe { info.assume_init() };
        Ok(Some(SignalInfo {
            signal: info.ssi_signo.cast_signed(),
            pid: info.ssi_pid.cast_signed(),
            status: info.ssi_status,
            code: info.ssi_code,
        }))
    }
}

impl AsFd for SignalDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_from_the_descriptor() {
        let signal = libc::SIGRTMIN() + 5;
        let descriptor = SignalDescriptor::new(&[signal]).unwrap();
        assert_eq!(descriptor.read().unwrap(), None);
        // SAFETY: the signal is blocked in this thread, which it is sent to.
        unsafe { libc::raise(signal) };
        let info = descriptor.read().unwrap().unwrap();
        assert_eq!(info.signal, signal);
        assert_eq!(info.pid.cast_unsigned(), std::process::id());
        assert_eq!(descriptor.read().unwrap(), None);
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        assert_eq!(block_signals(&[0]).unwrap_err(), Errno::INVAL);
    }
}
