//! What a caller wants that no spec can say.

use std::os::fd::{OwnedFd, RawFd};

/// Number of the first descriptor after the standard streams.
const FIRST_DESCRIPTOR: RawFd = 3;

/// For one process, the first or a later one.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessOptions {
    /// How many descriptors from number 3 on the program keeps. They are open
    /// in the caller without close-on-exec.
    pub preserved_fds: u16,
    /// Stay in the caller's session keyring.
    pub keep_keyring: bool,
    /// Be killed when the caller ends, for a container that no cgroup holds: nobody could find it
    /// afterwards. A program that gains privileges escapes this (`PR_SET_PDEATHSIG(2const)`).
    pub ends_with_caller: bool,
}

impl ProcessOptions {
    pub(crate) fn first_closed(self) -> RawFd {
        FIRST_DESCRIPTOR + RawFd::from(self.preserved_fds)
    }
}

/// For a container that is being made.
#[derive(Debug, Default)]
pub struct CreateOptions {
    pub process: ProcessOptions,
    /// Move the root over `/` where `pivot_root` is impossible, as on an
    /// initramfs. The old root stays mounted below it.
    pub no_pivot: bool,
    /// Have systemd make the cgroup, whatever form the spec's path has.
    pub systemd_cgroup: bool,
    /// A listening `SOCK_SEQPACKET` socket by which another process may open
    /// the start gate after [`Container::leave`](crate::Container::leave).
    pub start_socket: Option<OwnedFd>,
}
