//! Exec, Attach and PortForward: what the streaming server is given to connect clients to.

use berth_api::cri::v1 as cri;
use berth_lifecycle::{
    AttachControl, CommandControl, Container, ExecRequest, Pipes, Runtime, StdStreams, chain,
};
use berth_streaming::{
    Attach, Attached, Backend, Control, Exec, Failure, Input, Output, PortForward, Request, Size,
    Streams, Urls,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tonic::Status;

use crate::status::{invalid, of, of_streaming};

/// The core, as the streaming server sees it.
pub struct Door {
    runtime: Runtime,
}

impl Door {
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime }
    }
}

impl Backend for Door {
    fn exec(&self, request: Exec) -> BoxFuture<'_, Result<Attached, Failure>> {
        async move {
            let container = self.runtime.container(&request.container)?;
            let streams = std_streams(request.streams);
            let (pipes, control) = container
                .exec(ExecRequest::of(&request.command), streams)
                .await?;
            Ok(attached(pipes, Box::new(OfCommand(control)), false))
        }
        .boxed()
    }

    fn attach(&self, request: Attach) -> BoxFuture<'_, Result<Attached, Failure>> {
        async move {
            let container = self.runtime.container(&request.container)?;
            let (pipes, control) = container.attach(std_streams(request.streams)).await?;
            Ok(attached(pipes, Box::new(OfContainer(control)), true))
        }
        .boxed()
    }

    fn dial<'a>(&'a self, pod: &'a str, port: u16) -> BoxFuture<'a, Result<TcpStream, Failure>> {
        async move { Ok(self.runtime.dial(pod, port).await?) }.boxed()
    }
}

fn std_streams(streams: Streams) -> StdStreams {
    let Streams {
        stdin,
        stdout,
        stderr,
        tty,
    } = streams;
    StdStreams {
        stdin,
        stdout,
        stderr,
        tty,
    }
}

fn attached(pipes: Pipes, control: Box<dyn Control>, ends_with_output: bool) -> Attached {
    Attached {
        stdin: pipes.stdin.map(|pipe| Box::new(pipe) as Input),
        stdout: pipes.stdout.map(|pipe| Box::new(pipe) as Output),
        stderr: pipes.stderr.map(|pipe| Box::new(pipe) as Output),
        control,
        ends_with_output,
    }
}

struct OfCommand(CommandControl);

struct OfContainer(AttachControl);

impl Control for OfCommand {
    fn resize(&self, size: Size) -> BoxFuture<'_, ()> {
        async move { tell(self.0.resize(size.width, size.height).await) }.boxed()
    }

    fn close_stdin(&self) -> BoxFuture<'_, ()> {
        async move { tell(self.0.close_stdin().await) }.boxed()
    }

    fn ended(&self) -> BoxFuture<'_, Result<u32, Failure>> {
        async move { Ok(self.0.ended().await?) }.boxed()
    }
}

impl Control for OfContainer {
    fn resize(&self, size: Size) -> BoxFuture<'_, ()> {
        async move { tell(self.0.resize(size.width, size.height).await) }.boxed()
    }

    fn close_stdin(&self) -> BoxFuture<'_, ()> {
        async move { tell(self.0.close_stdin().await) }.boxed()
    }

    /// Clients learn a container's exit code from its status.
    fn ended(&self) -> BoxFuture<'_, Result<u32, Failure>> {
        async move {
            self.0.ended().await;
            Ok(0)
        }
        .boxed()
    }
}

/// Such a failure has no way to the client, and mostly means that the process has just ended.
fn tell(outcome: berth_lifecycle::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(error = chain(&error), "a stream's control failed");
    }
}

/// The URL for a command, if the container runs.
pub fn exec(runtime: &Runtime, urls: &Urls, request: cri::ExecRequest) -> Result<String, Status> {
    if request.cmd.is_empty() {
        return Err(invalid("cmd is empty: name a program to run"));
    }
    let container = runtime.container(&request.container_id).map_err(of)?;
    let wanted = Request::Exec(Exec {
        container: container.id().to_string(),
        command: request.cmd,
        streams: Streams {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty: request.tty,
        },
    });
    url_if_running(urls, wanted, &container, "execute a command in it")
}

pub fn attach(
    runtime: &Runtime,
    urls: &Urls,
    request: cri::AttachRequest,
) -> Result<String, Status> {
    let container = runtime.container(&request.container_id).map_err(of)?;
    let wanted = Request::Attach(Attach {
        container: container.id().to_string(),
        streams: Streams {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty: request.tty,
        },
    });
    url_if_running(urls, wanted, &container, "attach to it")
}

fn url_if_running(
    urls: &Urls,
    wanted: Request,
    container: &Container,
    what: &'static str,
) -> Result<String, Status> {
    wanted.check().map_err(of_streaming)?;
    container.running(what).map_err(of)?;
    urls.issue(wanted).map_err(of_streaming)
}

pub fn port_forward(
    runtime: &Runtime,
    urls: &Urls,
    request: cri::PortForwardRequest,
) -> Result<String, Status> {
    let pod = runtime.pod(&request.pod_sandbox_id).map_err(of)?;
    let ports = request.port.iter().map(|port| {
        u16::try_from(*port).map_err(|_| invalid(format!("port {port} is not a TCP port")))
    });
    let wanted = Request::PortForward(PortForward {
        pod: pod.id().to_string(),
        ports: ports.collect::<Result<_, _>>()?,
    });
    wanted.check().map_err(of_streaming)?;
    pod.ready("forward a port").map_err(of)?;
    urls.issue(wanted).map_err(of_streaming)
}
