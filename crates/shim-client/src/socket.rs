//! Unix sockets at paths of any length, and a stream that says when it ends.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;

/// Longest path that fits a socket address, without its final NUL.
const SUN_PATH: usize = 107;

/// A path that names the same socket and is short enough for an address: one
/// through a descriptor of its directory, which must stay open while it is used.
struct ShortPath {
    path: PathBuf,
    _directory: Option<OwnedFd>,
}

fn shorten(path: &Path) -> std::io::Result<ShortPath> {
    if path.as_os_str().len() <= SUN_PATH {
        return Ok(ShortPath {
            path: path.to_owned(),
            _directory: None,
        });
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok(ShortPath {
        path,
        _directory: Some(directory),
    })
}

/// Binds a socket that only its owner may connect to. A socket that a dead shim
/// left there is replaced.
pub fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let short = shorten(path)?;
    match std::fs::remove_file(&short.path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&short.path)?;
    std::fs::set_permissions(&short.path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub async fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let short = shorten(path)?;
    UnixStream::connect(&short.path).await
}

/// A stream that turns `gone` to true once its peer has closed it.
#[derive(Debug)]
pub struct Watched {
    stream: UnixStream,
    gone: watch::Sender<bool>,
}

impl Watched {
    pub fn new(stream: UnixStream) -> (Self, watch::Receiver<bool>) {
        let (gone, receiver) = watch::channel(false);
        (Self { stream, gone }, receiver)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let room = buffer.remaining();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let ended = match &polled {
            Poll::Ready(Ok(())) => room > 0 && buffer.filled().len() == before,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            self.gone.send_replace(true);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
