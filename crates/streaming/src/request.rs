//! What a stream is wanted for, and what of that cannot be meant.

use crate::error::{Error, Result};

/// Which standard streams a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    pub container: String,
    pub command: Vec<String>,
    pub streams: Streams,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    pub container: String,
    pub streams: Streams,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    pub pod: String,
    /// Only the channel protocol of WebSockets needs them beforehand; SPDY names a port with each
    /// stream.
    pub ports: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Exec(Exec),
    Attach(Attach),
    PortForward(PortForward),
}

impl Request {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }

    /// The rules of the contract: at least one stream, and one terminal carries both outputs.
    pub fn check(&self) -> Result<()> {
        let streams = match self {
            Self::Exec(exec) => exec.streams,
            Self::Attach(attach) => attach.streams,
            Self::PortForward(forward) if forward.ports.contains(&0) => {
                return Err(Error::Invalid {
                    field: "port",
                    problem: "0 is not a port",
                });
            }
            Self::PortForward(_) => return Ok(()),
        };
        if streams.tty && streams.stderr {
            return Err(Error::Invalid {
                field: "stderr",
                problem: "a terminal carries both outputs: tty and stderr cannot both be asked for",
            });
        }
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return Err(Error::Invalid {
                field: "stdin, stdout, stderr",
                problem: "none is asked for: set at least one",
            });
        }
        Ok(())
    }
}
