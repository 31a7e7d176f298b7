//! What can go wrong between a bundle and a running process.

use crate::hooks::HookFailure;
use crate::step::Step;
use berth_kernel::Errno;
use std::path::PathBuf;

/// Every variant names the container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec asks for something that makes no sense.
    #[error("container {id}: invalid {field} {value:?}: {problem}")]
    InvalidSpec {
        id: String,
        field: &'static str,
        value: String,
        problem: &'static str,
    },
    /// The spec asks for something that this runtime does not do.
    #[error("container {id}: {feature} is not supported")]
    Unsupported { id: String, feature: &'static str },
    #[error("container {id}: cannot {operation}")]
    Cgroup {
        id: String,
        operation: &'static str,
        source: berth_cgroups::Error,
    },
    #[error("container {id}: cannot compile seccomp profile")]
    Seccomp {
        id: String,
        source: berth_seccomp::Error,
    },
    /// Whoever is to answer the calls that a filter notifies of cannot be told.
    #[error("container {id}: cannot {operation} the seccomp agent at {}", path.display())]
    SeccompAgent {
        id: String,
        operation: &'static str,
        path: PathBuf,
        source: Errno,
    },
    /// A call of the runtime itself failed, before or beside the child.
    #[error("container {id}: cannot {operation}{}", display_path(path.as_ref()))]
    Host {
        id: String,
        operation: &'static str,
        path: Option<PathBuf>,
        source: Errno,
    },
    /// A step in the child failed.
    #[error("container {id}: cannot {step} {subject}")]
    Setup {
        id: String,
        step: Step,
        /// The path, name or value that the step was about; may be empty.
        subject: String,
        source: Errno,
    },
    /// A hook of the spec failed beside the runtime.
    #[error("container {id}: {failure}")]
    Hook { id: String, failure: HookFailure },
    /// The program could not be found or executed. The text names the program
    /// in the words that users of other runtimes know.
    #[error("unable to start container process: {}", describe_exec(program, *problem, *errno))]
    ExecFailed {
        id: String,
        program: String,
        problem: ExecProblem,
        errno: Errno,
    },
    /// criu, or what its images would have led to.
    #[error("container {id}: cannot be restored: {reason}")]
    Restore { id: String, reason: String },
    /// The child was killed before it could exec.
    #[error("container {id}: its process ended before it was set up")]
    ChildDied { id: String },
    #[error("container {id}: its process was not set up within {seconds} s")]
    Timeout { id: String, seconds: u64 },
    #[error("container {id} is not running")]
    NotRunning { id: String },
    #[error("container {id} has been started already")]
    AlreadyStarted { id: String },
    #[error("container {id} is still running")]
    StillRunning { id: String },
}

/// Where the way to a running program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecProblem {
    /// A bare name that no directory of `PATH` has.
    NotInPath,
    /// A path, or the match in `PATH`, that cannot be executed.
    Lookup,
    /// The kernel refused the exec.
    Exec,
}

impl Error {
    /// The exit status by which shells and container engines tell a failed
    /// exec: 127 when the program is missing, 126 when it cannot run.
    #[must_use]
    pub fn exit_status(&self) -> Option<u8> {
        match self {
            Self::ExecFailed { errno, .. } if *errno == Errno::NOENT => Some(127),
            Self::ExecFailed { .. } => Some(126),
            _ => None,
        }
    }

    pub(crate) fn is_of_hook(&self) -> bool {
        matches!(
            self,
            Self::Hook { .. }
                | Self::Setup {
                    step: Step::RunHook,
                    ..
                }
        )
    }

    pub(crate) fn host(id: &str, operation: &'static str) -> impl Fn(Errno) -> Self {
        move |source| Self::Host {
            id: id.to_owned(),
            operation,
            path: None,
            source,
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

fn display_path(path: Option<&PathBuf>) -> String {
    path.map(|path| format!(" {}", path.display()))
        .unwrap_or_default()
}

fn describe_exec(program: &str, problem: ExecProblem, errno: Errno) -> String {
    let reason = reason(errno);
    match problem {
        ExecProblem::NotInPath => {
            format!("exec: {program:?}: executable file not found in $PATH")
        }
        ExecProblem::Lookup if errno == Errno::NOENT || errno == Errno::NOTDIR => {
            format!("exec: {program:?}: stat {program}: {reason}")
        }
        ExecProblem::Lookup => format!("exec: {program:?}: {reason}"),
        ExecProblem::Exec => format!("exec {program}: {reason}"),
    }
}

/// The C library's words without number and capital, as in a Go runtime.
fn reason(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}

/// An error and its causes on one line, for where it leaves the process or becomes a reason.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_exec_reads_as_users_expect_and_has_its_status() {
        let cases = [
            (
                "foo",
                ExecProblem::NotInPath,
                Errno::NOENT,
                "exec: \"foo\": executable file not found in $PATH",
                127,
            ),
            (
                "/foo",
                ExecProblem::Lookup,
                Errno::NOENT,
                "exec: \"/foo\": stat /foo: no such file or directory",
                127,
            ),
            (
                "/etc",
                ExecProblem::Lookup,
                Errno::ISDIR,
                "exec: \"/etc\": is a directory",
                126,
            ),
            (
                "/foo",
                ExecProblem::Lookup,
                Errno::ACCESS,
                "exec: \"/foo\": permission denied",
                126,
            ),
            (
                "/foo",
                ExecProblem::Exec,
                Errno::NOEXEC,
                "exec /foo: exec format error",
                126,
            ),
        ];
        for (program, problem, errno, text, status) in cases {
            let error = Error::ExecFailed {
                id: "c".to_owned(),
                program: program.to_owned(),
                problem,
                errno,
            };
            let expected = format!("unable to start container process: {text}");
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.exit_status(), Some(status));
        }
    }
}
