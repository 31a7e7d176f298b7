//! The shim that copies itself for each container: the daemon's end. The protocol stands with the
//! other end, in the shim's `zygote`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use berth_kernel::ClonedWord;
use berth_kernel::rustix::io::ioctl_fionbio;
use berth_kernel::rustix::process::Pid;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::Mutex;

/// What the zygote's words have room for, to show an id instead (`ps`).
const ROOM_FOR_ID: &str = "----------------------------------------------------------------";

/// One that works, as long as there is one: started when it is needed.
#[derive(Debug, Default)]
pub(crate) struct Zygote {
    /// Nobody who is dropped between an order and its answer puts it back: the next one would be
    /// taken for the answer of another order.
    link: Mutex<Option<Link>>,
}

/// The socket on which orders go out. The zygote ends with it.
#[derive(Debug)]
struct Link(UnixStream);

impl Zygote {
    /// Has a shim made that serves on `listener` and logs to `log`; answers with its pid. The zygote
    /// reaps it. `command` runs the shim's program.
    pub(crate) async fn copy(
        &self,
        command: impl Fn() -> Command,
        id: &str,
        listener: OwnedFd,
        log: OwnedFd,
    ) -> io::Result<Pid> {
        let mut slot = self.link.lock().await;
        if let Some(link) = slot.take() {
            match link.order(id, &listener, &log).await {
                Err(error) if has_ended(&error) => tracing::warn!(%error, "the zygote is gone"),
                answered => {
                    *slot = Some(link);
                    return answered;
                }
            }
        }
        let link = Link::start(command())?;
        let answered = link.order(id, &listener, &log).await;
        *slot = Some(link);
        answered
    }

    /// Has one ready before the first order.
    pub(crate) async fn start(&self, command: impl Fn() -> Command) -> io::Result<()> {
        let mut slot = self.link.lock().await;
        if slot.is_none() {
            *slot = Some(Link::start(command())?);
        }
        Ok(())
    }
}

/// Whether an order failed because there was nobody to take it.
fn has_ended(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

impl Link {
    fn start(mut command: Command) -> io::Result<Self> {
        let (near, far) = berth_kernel::socket_pair()?;
        ioctl_fionbio(&near, true)?;
        let mut child = command
            .args(["-id", ROOM_FOR_ID, "zygote"])
            .stdin(far)
            .stdout(std::process::Stdio::null())
            .spawn()?;
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) if status.success() => {}
                status => tracing::warn!(?status, "the zygote ended"),
            }
        });
        Ok(Self(UnixStream::from_std(near.into())?))
    }

    async fn order(&self, id: &str, listener: &OwnedFd, log: &OwnedFd) -> io::Result<Pid> {
        let fds = [listener.as_fd(), log.as_fd()];
        berth_kernel::send_with_fds(&self.0, id.as_bytes(), &fds)?;
        let mut message = [0; ClonedWord::LENGTH];
        let receive = || {
            let received = berth_kernel::receive_with_fds(&self.0, &mut message)?;
            Ok(received.length)
        };
        let length = self.0.async_io(Interest::READABLE, receive).await?;
        let word = message.get(..length).and_then(ClonedWord::from_bytes);
        let (pid, _) = word.ok_or(io::ErrorKind::UnexpectedEof)?.outcome()?;
        Ok(pid)
    }
}
