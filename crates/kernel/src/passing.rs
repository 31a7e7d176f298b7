//! Passing descriptors over unix sockets.

use crate::Result;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, UCred,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// At most this many descriptors travel with one message.
const MOST: usize = 16;

/// A connected pair of close-on-exec sockets that keep message boundaries
/// and report end of file when the other end is gone (`SOCK_SEQPACKET`).
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Sends `bytes` (at least one) with copies of `fds` (at most 16). A vanished
/// reader is `EPIPE`, never a signal.
pub fn send_with_fds<Fd: AsFd>(socket: Fd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(crate::Errno::INVAL);
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
}

/// A received message.
#[derive(Debug, Default)]
pub struct Received {
    /// Bytes stored in the caller's buffer; 0 at the end of the stream.
    pub length: usize,
    /// Close-on-exec descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// Receives into `bytes`, with any descriptors that came along.
pub fn receive_with_fds<Fd: AsFd>(socket: Fd, bytes: &mut [u8]) -> Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = part {
            fds.extend(passed);
        }
    }
    Ok(Received {
        length: message.bytes,
        fds,
    })
}

/// Process, user and group id of who connected to, or made, the other end.
pub fn peer_credentials<Fd: AsFd>(socket: Fd) -> Result<UCred> {
    rustix::net::sockopt::socket_peercred(socket)
}
