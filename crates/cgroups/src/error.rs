//! What can go wrong with a cgroup, always with the file concerned.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Failures of cgroup operations.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// [`Layout::Absent`](crate::Layout::Absent).
    #[error(
        "this daemon runs as an ordinary user who was given no cgroup: nothing can be limited, \
         updated or paused"
    )]
    Absent,

    /// The text is not an acceptable cgroup path.
    #[error("cgroup path {path:?} {problem}")]
    InvalidPath { path: String, problem: &'static str },

    /// The mount table could not be read.
    #[error("read the mount table {path}")]
    MountTable { path: PathBuf, source: io::Error },

    /// No cgroup file system is mounted at all.
    #[error("no cgroup hierarchy is mounted (looked in {looked_in})")]
    NoHierarchy { looked_in: PathBuf },

    /// The cgroup has no directory in any hierarchy.
    #[error("cgroup {path} does not exist")]
    NotFound { path: String },

    /// A cgroup directory could not be made.
    #[error("create cgroup directory {path}")]
    CreateDir { path: PathBuf, source: io::Error },

    /// On the unified tree, no process can be put into a cgroup that is or is
    /// below a threaded one (cgroup-v2.rst, "Threads").
    #[error(
        "cgroup {path} can hold no container: its cgroup.type is {kind:?}, because of {above}, \
         whose type is {kind_above:?}"
    )]
    Threaded {
        path: PathBuf,
        kind: String,
        /// The nearest cgroup that makes it so.
        above: PathBuf,
        kind_above: String,
    },

    /// A cgroup directory or file could not be opened.
    #[error("open {path}")]
    Open { path: PathBuf, source: io::Error },

    /// A control file could not be read.
    #[error("read {file}")]
    Read { file: PathBuf, source: io::Error },

    /// A control file refused a value.
    #[error("write {value:?} to {file}")]
    Write {
        file: PathBuf,
        value: String,
        source: io::Error,
    },

    /// A control file held something unexpected.
    #[error("{file} holds {content:?}, which is not understood")]
    Malformed { file: PathBuf, content: String },

    /// The memory in use does not fit under the limit asked for.
    #[error("memory limit {limit} for {file} is below the usage of {usage} bytes")]
    LimitBelowUsage {
        file: PathBuf,
        /// Bytes asked for.
        limit: i64,
        /// Bytes in use.
        usage: u64,
    },

    /// A value was asked for whose controller no hierarchy offers.
    #[error("cgroup controller {controller} is not available for {path}")]
    ControllerMissing {
        controller: &'static str,
        path: String,
    },

    /// The setting does not exist on this side of the hierarchy.
    #[error("{setting} does not exist on cgroup {version}")]
    Unsupported {
        setting: &'static str,
        /// `v1` or `v2`.
        version: &'static str,
    },

    /// The resources asked for contradict themselves or the kernel's ranges.
    #[error("{setting} {value:?} {problem}")]
    InvalidResource {
        setting: &'static str,
        value: String,
        problem: &'static str,
    },

    /// The v2 device program could not be loaded or attached.
    #[error("attach the device program to {path}")]
    DeviceProgram { path: PathBuf, source: io::Error },

    /// Not every process of the cgroup stopped (or resumed) in time.
    #[error("{path} is still {state:?} after {waited:?}")]
    FreezeTimeout {
        path: PathBuf,
        state: String,
        waited: Duration,
    },

    /// systemd did not do what a unit needs.
    #[error("{operation} unit {unit}")]
    Systemd {
        operation: &'static str,
        unit: String,
        source: crate::systemd::SystemdFailure,
    },

    /// A unit was asked for where systemd has no say over cgroups.
    #[error("unit {unit} needs systemd as PID 1, root, and cgroup v2 alone")]
    NoSystemd { unit: String },

    /// A process of the cgroup could not be signalled.
    #[error("send signal {signal} to process {pid} of cgroup {path}")]
    Signal {
        path: String,
        pid: i32,
        signal: i32,
        source: io::Error,
    },

    /// A cgroup directory could not be removed.
    #[error("remove cgroup directory {path}")]
    Remove { path: PathBuf, source: io::Error },

    /// A cgroup still held processes when the time for removing it was over.
    #[error("cgroup directory {path} is still busy after {waited:?}")]
    Busy { path: PathBuf, waited: Duration },
}

/// Who can do something about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Whoever asked: no cgroup of this host takes such a value.
    Request,
    /// The cgroup at this moment: it uses more than it would be given.
    Usage,
    /// The host.
    Host,
}

impl Error {
    #[must_use]
    pub fn blame(&self) -> Blame {
        use rustix::io::Errno;
        match self {
            Self::InvalidPath { .. }
            | Self::ControllerMissing { .. }
            | Self::Threaded { .. }
            | Self::Unsupported { .. }
            | Self::NoSystemd { .. }
            | Self::InvalidResource { .. } => Blame::Request,
            Self::LimitBelowUsage { .. } => Blame::Usage,
            Self::Write { source, .. } => match Errno::from_io_error(source) {
                // ENOSPC is a cpuset that would be empty.
                Some(
                    Errno::INVAL | Errno::RANGE | Errno::NOENT | Errno::OVERFLOW | Errno::NOSPC,
                ) => Blame::Request,
                Some(Errno::BUSY) => Blame::Usage,
                _ => Blame::Host,
            },
            _ => Blame::Host,
        }
    }

    /// True if the cgroup (not a single control file) is gone.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// The kernel's errno, where the kernel refused.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::MountTable { source, .. }
            | Self::CreateDir { source, .. }
            | Self::Open { source, .. }
            | Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::DeviceProgram { source, .. }
            | Self::Signal { source, .. }
            | Self::Remove { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
