//! The root of a container that runs.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{Root, failed};
use crate::container::state_name;
use crate::error::{Error, Result};
use crate::record::{ContainerRecord, ContainerState};

/// A line of it is a path in a hierarchy.
const MOST_CGROUP: u64 = 64 << 10;

/// Blocking.
pub fn open(view: &ContainerRecord) -> Result<Root> {
    let gone = |state| Error::ContainerState {
        id: view.id.clone(),
        state,
        expected: "running",
        action: "copy its files",
    };
    let (ContainerState::Running, Some(pid)) = (view.state, view.pid) else {
        return Err(gone(state_name(view.state)));
    };
    let path = PathBuf::from(format!("/proc/{pid}"));
    let fail = |errno| failed("open", &path, errno);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // From here on it is this process or none.
    let process = match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Err(gone("exited")),
        opened => opened.map_err(fail)?,
    };
    let read = OFlags::RDONLY | OFlags::CLOEXEC;
    let open = |name, flags| match rustix::fs::openat(&process, name, flags, Mode::empty()) {
        // It has just ended.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => Err(gone("exited")),
        opened => opened.map_err(fail),
    };
    let namespace = open("ns/mnt", read)?;
    let dir = open("root", flags)?;
    // The number may have become another's, between the end of the process and the news of it.
    let cgroup = open("cgroup", read)?;
    if !mentions(cgroup, view.id.as_str()) || is_ours(&namespace).map_err(fail)? {
        return Err(gone("exited"));
    }
    Ok(Root {
        dir,
        _namespace: namespace,
    })
}

fn mentions(cgroup: OwnedFd, id: &str) -> bool {
    let mut text = String::new();
    let read = File::from(cgroup)
        .take(MOST_CGROUP)
        .read_to_string(&mut text);
    read.is_ok() && text.contains(id)
}

/// Whether a mount namespace is the daemon's own.
fn is_ours(namespace: &OwnedFd) -> rustix::io::Result<bool> {
    let own = rustix::fs::statat(
        rustix::fs::CWD,
        Path::new("/proc/thread-self/ns/mnt"),
        AtFlags::empty(),
    )?;
    let found = rustix::fs::fstat(namespace)?;
    Ok((own.st_dev, own.st_ino) == (found.st_dev, found.st_ino))
}
