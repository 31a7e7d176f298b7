//! The finished filter.

use std::path::PathBuf;

/// One instruction of classic BPF, laid out as the kernel's
/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    /// Instructions to skip if the test holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    pub k: u32,
}

/// A filter and how it is to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// At most 4096, the kernel's limit.
    pub instructions: Vec<Instruction>,
    pub flags: Flags,
    /// Who receives notifications, if the filter makes any.
    pub listener: Option<Listener>,
    /// Names in the profile that no architecture knows; their rules are not
    /// in the program. Newer profiles on an older Berth have some, so this is
    /// for a log, not an error.
    pub unknown: Vec<String>,
}

/// Flags for `seccomp(2)`.
///
/// A profile's `TSYNC` is not among them: the filter is loaded by a process
/// with one thread, where there is nothing to synchronise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// `SECCOMP_FILTER_FLAG_LOG`.
    pub log: bool,
    /// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`. On if the profile names no flags.
    pub allow_speculation: bool,
    /// `SECCOMP_FILTER_FLAG_NEW_LISTENER`. On if an action is to notify.
    pub new_listener: bool,
    /// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
    pub wait_killable: bool,
}

impl Flags {
    /// The argument of `seccomp(2)`.
    #[must_use]
    pub fn bits(self) -> u32 {
        u32::from(self.log) << 1
            | u32::from(self.allow_speculation) << 2
            | u32::from(self.new_listener) << 3
            | u32::from(self.wait_killable) << 5
    }
}

/// The agent that a container's notifications go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The unix socket that the descriptor is sent to.
    pub path: PathBuf,
    /// Handed over unread.
    pub metadata: String,
}
