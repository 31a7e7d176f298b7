//! Joining a cgroup from the child itself.
//!
//! On v1 a process is moved by writing `0` into the `tasks` file of each
//! hierarchy *from the process itself*: a thread that moves only itself needs
//! no global lock, while `cgroup.procs` waits for an RCU grace period. The
//! child must be single-threaded at that moment, which a freshly cloned one
//! is. On the unified tree the process is cloned into its cgroup
//! ([`Cgroup::unified_dir`]).

use crate::cgroup::Cgroup;
use crate::error::Result;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Opened join files. They are close-on-exec and stay valid as long as the
/// cgroup exists, so one set serves create and every exec after it.
#[derive(Debug)]
pub struct JoinHandles {
    tasks: Vec<(PathBuf, OwnedFd)>,
    unified: Option<(PathBuf, OwnedFd)>,
}

/// Which write failed, in a form that a child between clone and exec can pass
/// on: no heap is involved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinFailure {
    /// Which file, for [`JoinHandles::path`].
    pub index: usize,
    /// The kernel's errno.
    pub errno: i32,
}

impl Cgroup {
    /// Opens what a child needs to join this cgroup.
    pub fn prepare_join(&self) -> Result<JoinHandles> {
        let mut handles = JoinHandles {
            tasks: Vec::new(),
            unified: None,
        };
        for (hierarchy, directory) in self.members() {
            if hierarchy.is_unified() {
                if self.unified_dir().is_some() {
                    let fd = directory.open_for_write("cgroup.procs")?;
                    handles.unified = Some((directory.file("cgroup.procs"), fd));
                }
            } else if !hierarchy.controllers.is_empty() || directory.exists() {
                let fd = directory.open_for_write("tasks")?;
                handles.tasks.push((directory.file("tasks"), fd));
            }
        }
        Ok(handles)
    }
}

impl JoinHandles {
    /// Moves the calling thread into every v1 hierarchy of the cgroup. Only
    /// system calls: safe between clone and exec. Does nothing on a v2 host.
    pub fn join_self(&self) -> std::result::Result<(), JoinFailure> {
        for (index, (_, fd)) in self.tasks.iter().enumerate() {
            write_self(fd, index)?;
        }
        Ok(())
    }

    /// Moves the calling process within the unified tree, for a child that
    /// was not cloned into it. As safe as [`JoinHandles::join_self`], but the
    /// kernel may take ten milliseconds for it.
    pub fn join_unified(&self) -> std::result::Result<(), JoinFailure> {
        match &self.unified {
            Some((_, fd)) => write_self(fd, self.tasks.len()),
            None => Ok(()),
        }
    }

    /// The file that a failure concerns.
    #[must_use]
    pub fn path(&self, failure: JoinFailure) -> Option<&Path> {
        self.tasks
            .iter()
            .chain(&self.unified)
            .nth(failure.index)
            .map(|(path, _)| path.as_path())
    }
}

fn write_self(fd: &OwnedFd, index: usize) -> std::result::Result<(), JoinFailure> {
    loop {
        match rustix::io::write(fd, b"0") {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                return Err(JoinFailure {
                    index,
                    errno: errno.raw_os_error(),
                });
            }
        }
    }
}
