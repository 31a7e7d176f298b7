//! The descriptor table.

#![allow(unsafe_code)] // dup2 onto numbers, close_range

use crate::sys::{check, check_long};
use crate::{Errno, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// Marks every descriptor from `first` on close-on-exec, those included that
/// a library opened without the flag.
pub fn close_on_exec_from(first: RawFd) -> Result<()> {
    // SAFETY: integers only; marking leaves every owner's descriptor valid.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// What was written to a Unix socket and is not read at its other end yet, as memory that the
/// kernel keeps for it (`SIOCOUTQ`, unix(7)): zero once all of it was read.
pub fn unread_by_peer<Fd: AsFd>(socket: Fd) -> Result<usize> {
    let mut unread: libc::c_int = 0;
    // SAFETY: the descriptor is live, and the ioctl fills one integer.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) })?;
    Ok(usize::try_from(unread).unwrap_or(0))
}

/// Makes the number `target` a copy of `source` that survives exec, closing
/// what was open there. For the standard streams, which nobody owns.
pub fn duplicate_onto<Fd: AsFd>(source: Fd, target: RawFd) -> Result<()> {
    let source = source.as_fd().as_raw_fd();
    if !(0..=2).contains(&target) {
        return Err(Errno::INVAL);
    }
    if source == target {
        // SAFETY: integers only.
        return check(unsafe { libc::fcntl(target, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: the source is live; numbers 0-2 have no owner in Rust.
    check(unsafe { libc::dup2(source, target) }).map(drop)
}

/// A close-on-exec copy with a number of at least `least`.
pub fn duplicate_to<Fd: AsFd>(source: Fd, least: RawFd) -> Result<OwnedFd> {
    let source = source.as_fd().as_raw_fd();
    // SAFETY: a live descriptor and integers.
    let copy = check(unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, least) })?;
    // SAFETY: the kernel just made it; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Takes ownership of a descriptor that the process was started with, such as
/// a listening socket at number 3, and marks it close-on-exec. `EBADF` if
/// nothing is open there; `EINVAL` for the standard streams.
///
/// The number must not be owned by anything else: call it once per number,
/// before other descriptors are opened.
pub fn inherit(number: RawFd) -> Result<OwnedFd> {
    if number <= 2 {
        return Err(Errno::INVAL);
    }
    // SAFETY: integers only; fails when nothing is open there.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open, and by this function's contract it came
    // with the process and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_the_peer_has_not_read_is_counted_until_it_has() {
        let (mut writer, mut reader) = UnixStream::pair().unwrap();
        assert_eq!(unread_by_peer(&writer).unwrap(), 0);
        writer.write_all(b"head").unwrap();
        assert!(unread_by_peer(&writer).unwrap() > 0);
        reader.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(unread_by_peer(&writer).unwrap(), 0);
    }
}
