//! Directories of the layer, opened beneath its root and kept open.
//!
//! Every path is resolved by the kernel with `RESOLVE_IN_ROOT`: links that the layer made, to
//! absolute paths or with `..`, lead to places in the layer and never out of it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, StatxAttributes, StatxFlags, Uid,
};
use rustix::io::Errno;

use crate::error::{Error, Refusal, Result};
use crate::opaque::Marker;
use crate::path::split;

/// Directories held open. Archives come in order, so few are needed.
const HELD: usize = 128;
/// Longest path that the kernel takes, its terminator included.
const PATH_MAX: usize = 4096;
/// Links followed on the way to a directory that is to be made, as many as the kernel follows.
const MAX_LINKS: u8 = 40;

pub(crate) struct Tree<'m> {
    root: Rc<OwnedFd>,
    marker: &'m dyn Marker,
    held: HashMap<Vec<u8>, Rc<OwnedFd>>,
    /// Inodes made, and how many may be.
    pub inodes: u64,
    max_inodes: u64,
}

/// Where an entry goes: its parent directory and its name there.
pub(crate) struct Place<'p> {
    pub parent: Rc<OwnedFd>,
    pub name: &'p [u8],
}

/// Where a walk has led.
enum Walk {
    Arrived(OwnedFd),
    /// Begin again with this path.
    Detour(Vec<u8>),
}

/// What a component of a path turned out to be.
enum Step {
    Into(OwnedFd),
    /// A link to something that does not exist yet.
    Link(Vec<u8>),
}

impl<'m> Tree<'m> {
    pub fn new(root: BorrowedFd<'_>, max_inodes: u64, marker: &'m dyn Marker) -> io::Result<Self> {
        let root = Rc::new(rustix::io::fcntl_dupfd_cloexec(root, 3)?);
        Ok(Self {
            root,
            marker,
            held: HashMap::new(),
            inodes: 1,
            max_inodes,
        })
    }

    /// Opens an existing directory; links in the path are followed within the root.
    pub fn resolve(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)
    }

    /// The same, but not through a link in the last component.
    pub fn resolve_nofollow(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.open(path, flags)
    }

    fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), within) {
                // Something on this host was renamed while a ".." was resolved.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    /// The place of an entry; parents that the layer does not have are made.
    pub fn place<'p>(&mut self, path: &'p [u8]) -> Result<Place<'p>> {
        let (parent, name) = split(path);
        Ok(Place {
            parent: self.directory(parent)?,
            name,
        })
    }

    /// Opens a directory, and makes it (0755, root) where the layer has nothing.
    pub fn directory(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        match self.held.get(path) {
            Some(dir) => Ok(dir.clone()),
            None => self.reach(path),
        }
    }

    /// Walks to a directory that may be missing. A link that leads nowhere yet is replaced by its
    /// target and the walk begins again. Neither recursion nor more than one system call a
    /// component: both the path and the links come from the layer.
    fn reach(&mut self, wanted: &[u8]) -> Result<Rc<OwnedFd>> {
        let mut path = wanted.to_vec();
        for _ in 0..=MAX_LINKS {
            match self.resolve(&path) {
                Ok(dir) => return Ok(self.hold(wanted, dir)),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(Errno::LOOP) => return Err(refused(wanted, Refusal::LinkLoop)),
                Err(errno) => return Err(failed("opening a parent", wanted, errno)),
            }
            match self.walk(&path, wanted)? {
                Walk::Arrived(dir) => return Ok(self.hold(wanted, dir)),
                Walk::Detour(next) if next.len() < PATH_MAX => path = next,
                Walk::Detour(_) => break,
            }
        }
        Err(refused(wanted, Refusal::LinkLoop))
    }

    fn walk(&mut self, path: &[u8], wanted: &[u8]) -> Result<Walk> {
        let fail = |errno| failed("opening a parent", wanted, errno);
        let mut above = self.resolve(b"").map_err(fail)?;
        let mut start = 0;
        for name in path.split(|&b| b == b'/') {
            let end = start + name.len();
            let step = match name {
                // Only in the targets of links. Resolved from the root, so that it stays within.
                b".." => Step::Into(self.resolve(&path[..end]).map_err(fail)?),
                _ => self.step(&above, name, &path[..end], wanted)?,
            };
            above = match step {
                Step::Into(dir) => dir,
                Step::Link(target) => {
                    let parent = &path[..start.saturating_sub(1)];
                    return Ok(Walk::Detour(detour(parent, &target, &path[end..])));
                }
            };
            start = end + 1;
        }
        Ok(Walk::Arrived(above))
    }

    /// Enters `name` in `above`, which are the end of `path`, and makes it if need be.
    fn step(&mut self, above: &OwnedFd, name: &[u8], path: &[u8], wanted: &[u8]) -> Result<Step> {
        let fail = |errno| failed("opening a parent", wanted, errno);
        match open_directory(above.as_fd(), name) {
            Ok(dir) => return Ok(Step::Into(dir)),
            Err(Errno::NOENT) => return self.make_directory(above, name, wanted).map(Step::Into),
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let found = stat(above, name).map_err(fail)?;
        if found.as_ref().is_some_and(is_whiteout) {
            return self.uncover(above, name, wanted).map(Step::Into);
        }
        if !found.is_some_and(|found| file_type(&found) == FileType::Symlink) {
            return Err(refused(wanted, Refusal::ParentNotDirectory));
        }
        match self.resolve(path) {
            Ok(dir) => Ok(Step::Into(dir)),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let target = rustix::fs::readlinkat(above, name, Vec::new()).map_err(fail)?;
                Ok(Step::Link(target.into_bytes()))
            }
            Err(Errno::LOOP) => Err(refused(wanted, Refusal::LinkLoop)),
            Err(errno) => Err(fail(errno)),
        }
    }

    /// Makes a parent that no entry has named.
    fn make_directory(&mut self, above: &OwnedFd, name: &[u8], wanted: &[u8]) -> Result<OwnedFd> {
        let fail = |errno| failed("creating a parent", wanted, errno);
        rustix::fs::mkdirat(above, name, Mode::RWXU).map_err(fail)?;
        self.made(wanted)?;
        let dir = open_directory(above.as_fd(), name).map_err(fail)?;
        // A parent with setgid would hand down its group.
        rustix::fs::fchown(&dir, Some(Uid::ROOT), Some(Gid::ROOT)).map_err(fail)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755)).map_err(fail)?;
        Ok(dir)
    }

    /// Makes a parent where the layer has said that there is nothing beneath.
    fn uncover(&mut self, above: &OwnedFd, name: &[u8], wanted: &[u8]) -> Result<OwnedFd> {
        self.clear(above.as_fd(), name, wanted)?;
        let dir = self.make_directory(above, name, wanted)?;
        self.set_opaque(&dir)
            .map_err(|e| failed("making opaque", wanted, e))?;
        Ok(dir)
    }

    /// Hides what the layers beneath have in this directory.
    pub fn set_opaque(&self, dir: &OwnedFd) -> io::Result<()> {
        self.marker.opaque(dir.as_fd())
    }

    fn hold(&mut self, path: &[u8], dir: OwnedFd) -> Rc<OwnedFd> {
        if self.held.len() >= HELD {
            self.held.clear();
        }
        let dir = Rc::new(dir);
        self.held.insert(path.to_vec(), dir.clone());
        dir
    }

    /// Counts an inode that was made.
    pub fn made(&mut self, wanted: &[u8]) -> Result<()> {
        self.inodes += 1;
        if self.inodes > self.max_inodes {
            let entry = crate::entry::shown(wanted);
            return Err(Error::Limit {
                entry,
                what: "inodes",
                max: self.max_inodes,
            });
        }
        Ok(())
    }

    /// Removes what is in the way of an entry. A directory goes only if it is empty.
    pub fn clear(&mut self, parent: BorrowedFd<'_>, name: &[u8], wanted: &[u8]) -> Result<()> {
        let fail = |errno| failed("replacing what was there", wanted, errno);
        let Some(found) = stat(parent, name).map_err(fail)? else {
            return Ok(());
        };
        let kind = file_type(&found);
        let flags = match kind {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            // Held paths may have led through it.
            self.held.clear();
        }
        match rustix::fs::unlinkat(parent, name, flags) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                return Err(refused(wanted, Refusal::ReplacesDirectory));
            }
            removed => removed.map_err(fail)?,
        }
        if kind == FileType::Directory || found.st_nlink == 1 {
            self.inodes = self.inodes.saturating_sub(1);
        }
        Ok(())
    }
}

/// The path that results when a link in `parent` is replaced by its target. `rest` is what
/// follows the link, with its slash.
fn detour(parent: &[u8], target: &[u8], rest: &[u8]) -> Vec<u8> {
    let joined = match target.first() {
        Some(b'/') => [target, rest].concat(),
        _ => [parent, b"/", target, rest].concat(),
    };
    let kept: Vec<&[u8]> = joined
        .split(|&b| b == b'/')
        .filter(|c| !matches!(*c, b"" | b"."))
        .collect();
    kept.join(&b'/')
}

pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Attributes of a name, never through a link; `None` if there is nothing.
pub(crate) fn stat(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        found => found.map(Some),
    }
}

/// Whether something is mounted at a name. A removal of it by one who is in another mount namespace
/// would succeed, and unmount it where it is.
pub(crate) fn is_mounted_on(parent: impl AsFd, name: &[u8]) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(parent, name, flags, StatxFlags::TYPE);
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// OverlayFS takes a character device 0:0 for the absence of a file.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn failed(operation: &'static str, entry: &[u8], source: impl Into<io::Error>) -> Error {
    Error::Write {
        operation,
        entry: crate::entry::shown(entry),
        source: source.into(),
    }
}

pub(crate) fn refused(entry: &[u8], reason: Refusal) -> Error {
    Error::Refused {
        entry: crate::entry::shown(entry),
        reason,
    }
}
