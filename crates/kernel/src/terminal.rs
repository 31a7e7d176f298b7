//! Pseudo terminals.

#![allow(unsafe_code)] // TIOCSCTTY, TIOCGPTPEER

use crate::Result;
use crate::sys::check;
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// Both ends of a pseudo terminal, close-on-exec.
#[derive(Debug)]
pub struct Pty {
    pub master: OwnedFd,
    /// Opened without becoming anyone's controlling terminal.
    pub slave: OwnedFd,
}

/// Size of a terminal in characters; 0 means unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

/// A terminal of the devpts instance that the caller's `/dev/ptmx` belongs to.
pub fn open_pty() -> Result<Pty> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    with_slave(rustix::pty::openpt(flags)?)
}

/// A terminal of the devpts instance mounted at `devpts`.
pub fn open_pty_from<Fd: AsFd>(devpts: Fd) -> Result<Pty> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let master = crate::open_beneath(devpts, Path::new("ptmx"), flags, Mode::empty())?;
    with_slave(master)
}

fn with_slave(master: OwnedFd) -> Result<Pty> {
    rustix::pty::unlockpt(&master)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: a live descriptor and an integer argument.
    let slave = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel just made it; nobody else owns it.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    Ok(Pty { master, slave })
}

/// Makes a terminal the controlling one of the calling session leader.
pub fn make_controlling<Fd: AsFd>(terminal: Fd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal)
}

/// Sets the size; the foreground process group is told (`SIGWINCH`).
pub fn set_window_size<Fd: AsFd>(terminal: Fd, size: WindowSize) -> Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size)
}

pub fn window_size<Fd: AsFd>(terminal: Fd) -> Result<WindowSize> {
    let size = rustix::termios::tcgetwinsize(terminal)?;
    Ok(WindowSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}
