//! Descriptors for others: a terminal's master, a pidfd.

use crate::error::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection to a socket that waits for one descriptor. Connected before
/// anything is made, so that a wrong path costs nothing.
#[derive(Debug)]
pub struct Receiver {
    stream: UnixStream,
    path: String,
}

impl Receiver {
    pub fn connect(path: &str) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(Error::io("connect to", Path::new(path)))?;
        Ok(Self {
            stream,
            path: path.to_owned(),
        })
    }

    pub fn connect_if(path: Option<&str>) -> Result<Option<Self>> {
        path.map(Self::connect).transpose()
    }

    /// Sends the descriptor; `name` travels with it, because a message needs
    /// at least one byte and runc names what it sends.
    pub fn send(&self, descriptor: BorrowedFd<'_>, name: &str) -> Result<()> {
        berth_kernel::send_with_fds(self.stream.as_fd(), name.as_bytes(), &[descriptor])
            .map(drop)
            .map_err(Error::io("send to", Path::new(&self.path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_descriptor_arrives_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let receiver = Receiver::connect(path.to_str().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        receiver.send(file.as_fd(), "/dev/ptmx").unwrap();
        let mut name = [0; 64];
        let received = berth_kernel::receive_with_fds(&accepted, &mut name).unwrap();
        assert_eq!(&name[..received.length], b"/dev/ptmx");
        assert_eq!(received.fds.len(), 1);
    }
}
