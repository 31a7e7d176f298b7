//! Standard streams of a process: ours, or a terminal.

use crate::error::{Error, Result};
use berth_executor::ProcessStdio;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Where the terminal of a process goes, if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terminal {
    None,
    /// To whoever listens on this socket.
    Socket(String),
    /// To the terminal that we run in.
    Foreground,
}

impl Terminal {
    /// The rules of runc: who detaches needs a socket, who does not has no
    /// use for one.
    pub fn choose(wanted: bool, detach: bool, socket: Option<&str>) -> Result<Self> {
        match (wanted, detach, socket) {
            (true, true, Some(socket)) => Ok(Self::Socket(socket.to_owned())),
            (true, true, None) => Err(Error::TerminalWithoutSocket),
            (true, false, None) => Ok(Self::Foreground),
            (false, _, None) => Ok(Self::None),
            (_, _, Some(_)) => Err(Error::SocketWithoutTerminal),
        }
    }

    pub fn streams(&self) -> ProcessStdio {
        if *self != Self::None {
            return ProcessStdio::Terminal;
        }
        let copy = |stream: &dyn AsFd| -> Option<OwnedFd> {
            // A stream that is closed becomes the container's null device.
            stream.as_fd().try_clone_to_owned().ok()
        };
        ProcessStdio::Files {
            stdin: copy(&io::stdin()),
            stdout: copy(&io::stdout()),
            stderr: copy(&io::stderr()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_terminals_that_are_left() {
        let choose = |wanted, detach, socket| Terminal::choose(wanted, detach, socket);
        assert_eq!(choose(false, true, None).unwrap(), Terminal::None);
        assert_eq!(choose(true, false, None).unwrap(), Terminal::Foreground);
        assert!(matches!(
            choose(true, true, Some("/s")).unwrap(),
            Terminal::Socket(_)
        ));
        assert!(choose(true, true, None).is_err());
        assert!(choose(true, false, Some("/s")).is_err());
        assert!(choose(false, true, Some("/s")).is_err());
    }
}
