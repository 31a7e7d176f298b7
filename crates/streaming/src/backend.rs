//! What the streams are connected to.

use std::error::Error as StdError;

use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::request::{Attach, Exec};

/// Why something could not be begun; its text, with its sources, goes to the client.
pub type Failure = Box<dyn StdError + Send + Sync>;
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// Runs commands, finds containers and reaches into pods.
pub trait Backend: Send + Sync + 'static {
    fn exec(&self, request: Exec) -> BoxFuture<'_, Result<Attached, Failure>>;
    fn attach(&self, request: Attach) -> BoxFuture<'_, Result<Attached, Failure>>;
    /// Connects to a TCP port on the loopback interface of the pod.
    fn dial<'a>(&'a self, pod: &'a str, port: u16) -> BoxFuture<'a, Result<TcpStream, Failure>>;
}

/// A process whose streams are ours. Dropping it hangs up: a command is ended, a container is let
/// go of.
pub struct Attached {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    pub control: Box<dyn Control>,
    /// The end of the outputs is the end, although the process may go on.
    pub ends_with_output: bool,
}

pub trait Control: Send + Sync {
    fn resize(&self, size: Size) -> BoxFuture<'_, ()>;
    /// The client's input has ended; our writer is dropped already.
    fn close_stdin(&self) -> BoxFuture<'_, ()>;
    /// The end of the process, with its exit code. What it wrote can be read by then.
    fn ended(&self) -> BoxFuture<'_, Result<u32, Failure>>;
}

/// Character cells of a terminal, named on the wire as Go's encoder names fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Size {
    #[serde(rename = "Width", alias = "width")]
    pub width: u16,
    #[serde(rename = "Height", alias = "height")]
    pub height: u16,
}
