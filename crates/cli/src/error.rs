//! What can go wrong, what people can do about it, and what the program's exit code says.

use std::io;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Docker's code for what went wrong before a container's own program had its say.
pub const NOT_RUN: u8 = 125;
const CANNOT_EXECUTE: u8 = 126;
const NO_PROGRAM: u8 = 127;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach the daemon at {endpoint}")]
    Unreachable {
        endpoint: String,
        #[source]
        source: io::Error,
    },
    /// The daemon's own words.
    #[error("{message}")]
    Refused { status: u16, message: String },
    /// The same, told in a stream that began well.
    #[error("{0}")]
    Failed(String),
    #[error("the connection to the daemon broke off")]
    Broken(#[source] hyper::Error),
    #[error("the connection to the daemon broke off")]
    Stream(#[source] io::Error),
    #[error("the daemon's answer cannot be understood")]
    Answer(#[source] serde_json::Error),
    #[error("the daemon does not hand over the connection: it answered {0}")]
    NotUpgraded(u16),
    #[error("the request cannot be written")]
    Request(#[from] http::Error),
    /// What was typed cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// The context of the template, and what is wrong with it.
    #[error("template {text:?}: {reason}")]
    Template { text: String, reason: String },
    #[error("{action} {path:?}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} is not the JSON that it should be")]
    BadFile {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{0}")]
    Terminal(&'static str, #[source] io::Error),
    #[error("{what} cannot be used for TLS: {reason}")]
    Tls { what: String, reason: String },
    #[error("the credential helper {program}: {reason}")]
    Helper { program: String, reason: String },
    #[error("no context is called {0:?}")]
    NoContext(String),
    #[error(transparent)]
    Compose(#[from] berth_compose::Error),
    #[error("watching {path:?}")]
    Watch {
        path: PathBuf,
        #[source]
        source: notify::Error,
    },
    #[error("writing the output")]
    Output(#[source] io::Error),
}

impl Error {
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    pub fn is_missing_image(&self) -> bool {
        matches!(self, Self::Refused { status: 404, message } if message.contains("No such image"))
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// The daemon is not there, or went away meanwhile: it may come back.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Broken(_))
    }

    /// Whoever read the output has gone: nothing that people need to be told.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The message with those of its causes, as people read it.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(source) = cause {
            text = format!("{text}: {source}");
            cause = source.source();
        }
        text
    }

    /// What to do next, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { endpoint, source } => Some(reach(endpoint, source)),
            Self::Refused { status, message } => said(*status, message),
            Self::Failed(message) => said(0, message),
            Self::Broken(_) | Self::Stream(_) => Some(
                "Containers go on without the daemon; `berth attach` or `berth logs` takes up \
                 again once it is back."
                    .to_owned(),
            ),
            Self::Watch { source, .. }
                if matches!(source.kind, notify::ErrorKind::MaxFilesWatch) =>
            {
                Some(
                    "There are more directories than fs.inotify.max_user_watches: leave some out \
                     by ignore or .dockerignore, or raise it with `sysctl`."
                        .to_owned(),
                )
            }
            Self::NoContext(_) => Some("`berth context ls` lists them.".to_owned()),
            Self::Template { .. } => Some("`--format json` shows every field there is.".to_owned()),
            _ => None,
        }
    }

    /// By Docker's rules for `run`, when a container was to be started.
    pub fn code_of_start(&self) -> u8 {
        let (Self::Refused { message, .. } | Self::Failed(message)) = self else {
            return NOT_RUN;
        };
        let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
        if says(&["executable file not found", "no such file or directory"]) {
            NO_PROGRAM
        } else if says(&["permission denied", "not a directory", "is a directory"]) {
            CANNOT_EXECUTE
        } else {
            NOT_RUN
        }
    }
}

fn reach(endpoint: &str, source: &io::Error) -> String {
    let is_local = endpoint.starts_with("unix://");
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "You may not write to that socket: use sudo, or join the group that owns it.".to_owned()
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused if is_local => {
            "Does it run? `systemctl start berthd` starts it. Another place is named by --host, \
             BERTH_HOST or `berth context use`."
                .to_owned()
        }
        _ if endpoint.starts_with("ssh://") => format!(
            "Try `ssh {} berth version`: it has to work without a password.",
            endpoint.trim_start_matches("ssh://")
        ),
        _ => "Is the address right, does the daemon listen there, and does a firewall let it \
              through?"
            .to_owned(),
    }
}

/// By what the daemon said.
fn said(status: u16, message: &str) -> Option<String> {
    let has = |part: &str| message.contains(part);
    let hint = if has("is already in use by container") {
        "Choose another --name, rename that container with `berth rename`, or remove it with \
         `berth rm` (--force while it runs)."
    } else if has("No such image") {
        "`berth images` lists what is here, `berth pull` fetches more."
    } else if has("No such container") {
        "`berth ps --all` lists those that there are."
    } else if has("No such exec instance") {
        return None;
    } else if has("no such volume") {
        "`berth volume ls` lists those that there are."
    } else if has("network ") && has(" not found") {
        "`berth network ls` lists those that there are, `berth network create` makes one."
    } else if has("port is already allocated") || has("address already in use") {
        "Publish another port with --publish, or stop what has it: `berth ps`, `ss -lntp`."
    } else if has("nauthorized")
        || has("authentication required")
        || has("access denied")
        || has("denied:")
    {
        "`berth login REGISTRY` gives the daemon your user name and password."
    } else if has("manifest unknown") {
        "Is the tag right? It was not found in that repository."
    } else if has("executable file not found") {
        "Is the program in the image? What follows the image's name is the command."
    } else if has("cannot remove a running container") || has("is running") && status == 409 {
        "Stop it first with `berth stop`, or use --force."
    } else if has("is not running") {
        "`berth start` starts it."
    } else if has("is paused") {
        "`berth unpause` lets it go on."
    } else if has("bind source path does not exist") {
        "Make that directory first: it is not made for you."
    } else {
        return None;
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> Error {
        Error::Refused {
            status: 400,
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_start_that_fails_has_dockers_exit_codes() {
        for (message, code) in [
            ("exec: \"x\": executable file not found in $PATH", 127),
            ("exec /x: no such file or directory", 127),
            ("exec: \"/etc/passwd\": permission denied", 126),
            ("no space left", 125),
        ] {
            assert_eq!(refused(message).code_of_start(), code, "{message}");
        }
    }

    #[test]
    fn errors_say_what_to_do_next() {
        let gone = Error::Unreachable {
            endpoint: "unix:///run/x.sock".to_owned(),
            source: io::ErrorKind::NotFound.into(),
        };
        assert!(gone.report().contains("unix:///run/x.sock"));
        assert!(gone.hint().unwrap().contains("systemctl start berthd"));
        for (message, part) in [
            ("No such image: x", "berth pull"),
            ("No such container: x", "berth ps"),
            ("get x: no such volume", "berth volume ls"),
            ("network x not found", "berth network create"),
            ("pull access denied for x", "berth login"),
            (
                "The name \"/a\" is already in use by container \"b\"",
                "berth rename",
            ),
        ] {
            assert!(refused(message).hint().unwrap().contains(part), "{message}");
        }
        assert_eq!(refused("something else").hint(), None);
    }
}
