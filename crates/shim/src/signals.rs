//! Signals as readiness: a child that died makes a descriptor readable.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_kernel::{Errno, SignalDescriptor, pidfd_send_signal};

use crate::status::Error;

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// The signals that the shim takes. Those that ask a process to end are taken
/// and dropped: a shim ends when its container has been deleted, not when
/// somebody ends a service or a session that it happens to be in.
#[derive(Debug)]
pub struct Signals(SignalDescriptor);

impl Signals {
    /// Blocks the signals for this thread; from now on they wait here.
    pub fn take_over() -> Result<Self, Error> {
        SignalDescriptor::new(&[SIGCHLD, SIGTERM, SIGINT, SIGHUP])
            .map(Self)
            .map_err(|source| Error::system("take over signals", source))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Empties the queue. Several ends may have come as one, so the caller
    /// reaps until nothing is left.
    pub fn drain(&self) {
        while let Ok(Some(_)) = self.0.read() {}
    }
}

/// Sends a signal to the process behind a pidfd.
pub fn send(pidfd: &OwnedFd, signal: i32) -> Result<(), Error> {
    match pidfd_send_signal(pidfd, signal) {
        Ok(()) => Ok(()),
        Err(Errno::SRCH) => Err(Error::Finished),
        Err(source) => Err(Error::system("send signal", source)),
    }
}
