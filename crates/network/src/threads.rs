//! Threads that change namespaces. Such a thread belongs to its task alone and ends with it: a
//! thread of a pool that failed to come back would serve the next task in a pod's network.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::error::{Error, Result};

const STACK: usize = 256 * 1024;

/// Runs `task` on a fresh thread and blocks until it is done.
pub(crate) fn run<T: Send + 'static>(
    name: &'static str,
    task: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (tell, told) = mpsc::sync_channel(1);
    spawn(name, move || {
        // Nobody listening means that nobody wants the answer.
        let _ = tell.send(task());
    })?;
    // The channel closes unanswered only when the task panicked.
    told.recv().map_err(|_| Error::TaskLost { task: name })?
}

/// Runs `task` on a fresh thread; the caller's runtime keeps turning.
pub(crate) async fn run_async<T: Send + 'static>(
    name: &'static str,
    task: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (tell, told) = oneshot::channel();
    spawn(name, move || {
        let _ = tell.send(task());
    })?;
    told.await.map_err(|_| Error::TaskLost { task: name })?
}

fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(body)
        .map(drop)
        .map_err(|source| Error::Thread { task: name, source })
}

/// Opens a pinned network namespace (or a `/proc/<pid>/ns/net`).
pub(crate) fn open_netns(path: &Path) -> Result<OwnedFd> {
    File::open(path)
        .map(OwnedFd::from)
        .map_err(|source| Error::Io {
            operation: "open the network namespace",
            path: path.to_owned(),
            source,
        })
}

/// Moves the calling thread; only for threads of this module.
pub(crate) fn enter_netns(netns: &OwnedFd, path: &Path) -> Result<()> {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| {
        Error::Io {
            operation: "enter the network namespace",
            path: path.to_owned(),
            source: errno.into(),
        }
    })
}
