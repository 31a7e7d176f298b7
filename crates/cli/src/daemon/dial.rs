//! Connections to an endpoint.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{ChildStdin, ChildStdout, Command};

use super::endpoint::Endpoint;
use super::tls;

/// For a machine that does not answer at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both directions; each can be shut down on its own.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

pub async fn dial(endpoint: &Endpoint) -> io::Result<Box<dyn Connection>> {
    match endpoint {
        Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Endpoint::Tcp { host, port, tls } => {
            let connecting = TcpStream::connect((host.as_str(), *port));
            let stream = tokio::time::timeout(PATIENCE, connecting).await??;
            stream.set_nodelay(true)?;
            match tls {
                None => Ok(Box::new(stream)),
                Some(files) => Ok(Box::new(tls::wrap(stream, host, files).await?)),
            }
        }
        Endpoint::Ssh { target, port } => Ok(Box::new(ssh(target, *port)?)),
    }
}

/// In a process group of its own, so that an interrupt at the terminal reaches the container
/// instead of cutting the connection; it could not ask for a password there.
fn ssh(target: &str, port: Option<u16>) -> io::Result<Piped> {
    let mut command = Command::new("ssh");
    command.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-T"]);
    if let Some(port) = port {
        command.args(["-p", &port.to_string()]);
    }
    let mut child = command
        .args(["--", target, "berth", "dial-stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let piped = Piped {
        input: child.stdin.take(),
        output: child.stdout.take(),
    };
    // It ends with its pipes.
    tokio::spawn(async move { child.wait().await });
    Ok(piped)
}

/// A program whose standard streams are the connection.
struct Piped {
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
}

impl AsyncRead for Piped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.output {
            Some(output) => Pin::new(output).poll_read(context, buffer),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Piped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Only a pipe that is closed tells the other side of the end.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input = None;
        Poll::Ready(Ok(()))
    }
}
