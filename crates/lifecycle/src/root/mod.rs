//! The root directory of a container, for those who copy files in and out of it.
//!
//! ```text
//!   it runs      /proc/<pid>/root: what its first process sees, mounts of any kind included
//!   it does not  its layer, with its volumes on it, in a mount namespace of nobody
//! ```
//!
//! The container owns every path in there, and may change any of them between two looks. Whatever is
//! opened is opened by `openat2` with the root as `/` (CVE-2018-15664), and no program or library of
//! the container is ever loaded (CVE-2019-14271): users are looked up in its files by our own hands.

mod at_rest;
mod of_run;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use berth_names::ContainerId;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::image_root;
use crate::request::RunAs;
use crate::runtime::Runtime;
use crate::undo::blocking;
use crate::user::Database;

pub use at_rest::VolumeMount;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// A container's root directory, open. Reading and writing it blocks.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    /// Keeps the mounts together.
    _namespace: OwnedFd,
}

/// What is done where a path leads to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Fails,
    /// The rest is taken as it is written.
    IsKept,
}

impl Root {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// A descriptor, opened with `O_PATH`, of what `path` leads to. A link at its end is followed if
    /// `follow` says so.
    pub fn find(&self, path: &Path, follow: bool) -> Result<OwnedFd, Errno> {
        let flags = match follow {
            true => OFlags::PATH,
            false => OFlags::PATH | OFlags::NOFOLLOW,
        };
        berth_kernel::open_in_root(&self.dir, path, flags, Mode::empty())
    }

    /// The path without links, `.` and `..`. What it says may be out of date at once: it is for
    /// people, and to begin from with the root as `/`.
    pub fn resolve(&self, path: &Path, missing: Missing) -> Result<PathBuf, Errno> {
        let mut left: VecDeque<OsString> = parts(path).collect();
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            let found = match self.find(&next, false) {
                Err(Errno::NOENT | Errno::NOTDIR) if missing == Missing::IsKept => {
                    done = next;
                    continue;
                }
                found => found?,
            };
            if kind(&found)? != FileType::Symlink {
                done = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&found, c"", Vec::new())?;
            let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                left.push_front(part);
            }
        }
        Ok(done)
    }

    /// Uid and gid of `user`, as an image names it, by the container's own files.
    pub fn owner(&self, user: &str) -> Result<(u32, u32)> {
        let resolved = Database::read(self.fd())?.resolve(&RunAs::default(), user)?;
        Ok((resolved.identity.uid, resolved.identity.gid))
    }
}

/// The type of an open file.
fn kind(file: &OwnedFd) -> Result<FileType, Errno> {
    rustix::fs::fstat(file).map(|found| FileType::from_raw_mode(found.st_mode))
}

/// Names and `..`, in order.
fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// A writable layer apart from what it stands on. Reading it blocks.
#[derive(Debug)]
pub struct WritableLayer {
    pub upper: OwnedFd,
    /// `None` where the image has no layers.
    pub lower: Option<OwnedFd>,
}

impl Runtime {
    /// The root of a container that runs.
    pub async fn root_of_run(&self, container: &Container) -> Result<Root> {
        let view = container.view();
        blocking("open the root of", move || of_run::open(&view)).await
    }

    /// The root of a container that does not run: its layer with `volumes` on it, for reading only
    /// or for writing too. One who writes sees to it that it does not run before this is dropped:
    /// two who write to a layer at a time would not see each other.
    pub async fn root_at_rest(
        &self,
        layer: &ContainerId,
        volumes: Vec<VolumeMount>,
        writable: bool,
    ) -> Result<Root> {
        let mounts = self.layer_mounts(layer).await?;
        let place = self.core.config.state_dir.clone();
        blocking("mount the layer of", move || {
            at_rest::open(&place, &mounts, &volumes, writable)
        })
        .await
    }

    /// What a container has written, and what it has written that to.
    pub async fn writable_layer(&self, id: &ContainerId) -> Result<WritableLayer> {
        let mounts = self.layer_mounts(id).await?;
        blocking("open the layer of", move || {
            let upper = at_rest::upper(&mounts)?;
            Ok(WritableLayer {
                upper: at_rest::directory(&upper)?,
                lower: image_root::open(&mounts)?,
            })
        })
        .await
    }
}

fn failed(action: &'static str, path: &Path, errno: Errno) -> Error {
    Error::State {
        action,
        path: path.to_owned(),
        source: errno.into(),
    }
}
