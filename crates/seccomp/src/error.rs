//! What is wrong with a profile.

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Reasons to refuse a profile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The profile is not the JSON that it should be.
    #[error("parse the seccomp profile")]
    Json { source: serde_json::Error },

    /// The profile is larger than any sensible one.
    #[error("the seccomp profile has {bytes} bytes, more than the {limit} allowed")]
    ProfileTooLarge { bytes: usize, limit: usize },

    /// A field of the profile has a value that has no meaning.
    #[error("seccomp profile: {field} {value:?} {problem}")]
    InvalidField {
        field: &'static str,
        value: String,
        problem: &'static str,
    },

    /// A condition speaks of an argument that system calls do not have.
    #[error("seccomp rule for {syscall}: argument {index} is not one of 0 to 5")]
    ArgumentIndex { syscall: String, index: usize },

    /// An error number was given that the kernel cannot return.
    #[error("seccomp rule for {syscall}: error number {errno} is not possible for {action}")]
    Errno {
        syscall: String,
        action: String,
        errno: u32,
    },

    /// Notification was asked for where it cannot work.
    #[error("seccomp profile: notification {problem}")]
    Notify { problem: &'static str },

    /// This build does not run on an architecture that it can filter.
    #[error("seccomp filters are not known for this architecture ({name})")]
    UnknownNative { name: &'static str },

    /// The kernel takes no program of this length.
    #[error("the seccomp program has {length} instructions, more than the {limit} allowed")]
    TooLong { length: usize, limit: usize },
}
