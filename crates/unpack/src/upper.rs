//! What an overlay's upper directory changes in the directories below it.
//!
//! OverlayFS copies a directory up as soon as anything in it changes, so that most directories of
//! an upper one say nothing by themselves. One is met only if it is new, looks other than below,
//! hides what is below, or has something in it that is met.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat};

use crate::error::Result;
use crate::pack::archive::{failed, look};
use crate::pack::listing::{Bounds, Names, enter};
use crate::tree::{file_type, is_whiteout, open_directory, stat};

/// An upper directory, and what it is to be compared with.
#[derive(Debug, Clone, Copy)]
pub struct Upper<'a> {
    /// Open for reading. Others may write to it meanwhile.
    pub dir: BorrowedFd<'a>,
    /// The directories below as one, open for reading; without them everything is new.
    pub lower: Option<BorrowedFd<'a>>,
    /// Paths, without a slash before them, that exist for something to be mounted on: no changes
    /// as long as they are empty.
    pub mount_points: &'a [Vec<u8>],
}

/// What is done with what the walk meets. Parents come before what is in them, names of a
/// directory in the order of their bytes.
pub(crate) trait Visitor {
    /// `dir` is open for reading. `below` is what the path leads to in the lower directories, and
    /// `opaque` says that nothing in it is seen any more.
    fn directory(
        &mut self,
        path: &[u8],
        dir: &OwnedFd,
        stat: &Stat,
        below: Option<&Stat>,
        opaque: bool,
    ) -> Result<()>;

    /// Anything else, by a descriptor opened with `O_PATH`.
    fn object(
        &mut self,
        path: &[u8],
        handle: &OwnedFd,
        stat: &Stat,
        below: Option<&Stat>,
    ) -> Result<()>;

    /// A whiteout.
    fn gone(&mut self, path: &[u8]) -> Result<()>;

    /// It was in a directory that is opaque now, and was not made again.
    fn covered(&mut self, path: &[u8]) -> Result<()>;
}

struct Level {
    dir: OwnedFd,
    stat: Stat,
    below: Option<Stat>,
    lower: Option<OwnedFd>,
    names: Names,
    path: usize,
    /// Hides what is below it.
    hides: bool,
    /// The same, itself or by one above it.
    covers: bool,
    is_met: bool,
}

pub(crate) fn walk(upper: &Upper<'_>, visitor: &mut dyn Visitor) -> Result<()> {
    let fail = |errno| failed(b"/", errno);
    let duplicate = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(fail);
    let dir = duplicate(upper.dir)?;
    let mut bounds = Bounds::default();
    let root = Level {
        stat: rustix::fs::fstat(&dir).map_err(fail)?,
        below: None,
        lower: upper.lower.map(duplicate).transpose()?,
        names: bounds.list(&dir, b"/", 0)?,
        dir,
        path: 0,
        hides: false,
        covers: false,
        // The root is nobody's entry.
        is_met: true,
    };
    let mut walk = Walk {
        mount_points: upper.mount_points,
        visitor,
        bounds,
        levels: vec![root],
        path: Vec::new(),
    };
    while !walk.levels.is_empty() {
        walk.step()?;
    }
    Ok(())
}

struct Walk<'a> {
    mount_points: &'a [Vec<u8>],
    visitor: &'a mut dyn Visitor,
    bounds: Bounds,
    levels: Vec<Level>,
    path: Vec<u8>,
}

impl Walk<'_> {
    fn step(&mut self) -> Result<()> {
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };
        self.path.truncate(level.path);
        let Some(name) = level.names.next() else {
            self.bounds.leave(&level.names);
            self.levels.pop();
            return Ok(());
        };
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&name);
        let Some((handle, found)) = look(level.dir.as_fd(), &name, &self.path)? else {
            return Ok(());
        };
        let below = match &level.lower {
            Some(lower) => stat(lower, &name).map_err(|errno| failed(&self.path, errno))?,
            None => None,
        };
        let below = below.filter(|below| !is_whiteout(below));
        if file_type(&found) == FileType::Directory {
            return self.directory(&handle, found, below, &name);
        }
        if is_whiteout(&found) {
            if below.is_none() && level.lower.is_some() {
                return Ok(());
            }
            self.meet_parents()?;
            return self.visitor.gone(&self.path);
        }
        let is_empty = file_type(&found) == FileType::RegularFile && found.st_size == 0;
        if is_empty && self.is_mount_point() {
            return Ok(());
        }
        self.meet_parents()?;
        let path = &self.path;
        self.visitor.object(path, &handle, &found, below.as_ref())
    }

    fn directory(
        &mut self,
        handle: &OwnedFd,
        found: Stat,
        below: Option<Stat>,
        name: &[u8],
    ) -> Result<()> {
        let dir = enter(handle, &self.path)?;
        let names = self.bounds.list(&dir, &self.path, self.levels.len())?;
        if names.is_empty() && self.is_mount_point() {
            self.bounds.leave(&names);
            return Ok(());
        }
        let Some(above) = self.levels.last() else {
            return Ok(());
        };
        let is_below = |below: &Stat| file_type(below) == FileType::Directory;
        let lower = match (&above.lower, &below) {
            (Some(lower), Some(below)) if is_below(below) => {
                let opened = open_directory(lower.as_fd(), name);
                Some(opened.map_err(|errno| failed(&self.path, errno))?)
            }
            _ => None,
        };
        let opaque = is_opaque(&dir);
        // Without anything to compare with, a mark has to be taken at its word.
        let hides = opaque && (lower.is_some() || above.lower.is_none());
        let covers = above.covers || hides;
        let same = below
            .as_ref()
            .is_some_and(|below| looks_same(below, &found));
        self.levels.push(Level {
            dir,
            stat: found,
            below,
            lower,
            names,
            path: self.path.len(),
            hides,
            covers,
            is_met: false,
        });
        // One that was made for a mount point below it waits for something else.
        let waits = same || self.leads_to_mount_point() && !covers && below.is_none();
        if covers || !waits {
            self.meet_parents()?;
        }
        match hides {
            true => self.tell_covered(),
            false => Ok(()),
        }
    }

    /// Makes known every directory on the way that was not yet.
    fn meet_parents(&mut self) -> Result<()> {
        for level in self.levels.iter_mut().filter(|level| !level.is_met) {
            level.is_met = true;
            let path = &self.path[..level.path];
            let below = level.below.as_ref();
            self.visitor
                .directory(path, &level.dir, &level.stat, below, level.hides)?;
        }
        Ok(())
    }

    /// What the lower directory has and an opaque one above it has not.
    fn tell_covered(&mut self) -> Result<()> {
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        let Some(lower) = &level.lower else {
            return Ok(());
        };
        let mut hidden = self.bounds.list(lower, &self.path, 0)?;
        let mut path = self.path.clone();
        while let Some(name) = hidden.next() {
            let found = stat(lower, &name).map_err(|errno| failed(&self.path, errno))?;
            if level.names.contains(&name) || found.is_none_or(|found| is_whiteout(&found)) {
                continue;
            }
            path.truncate(self.path.len());
            path.push(b'/');
            path.extend_from_slice(&name);
            self.visitor.covered(&path)?;
        }
        self.bounds.leave(&hidden);
        Ok(())
    }

    fn is_mount_point(&self) -> bool {
        self.mount_points.contains(&self.path)
    }

    fn leads_to_mount_point(&self) -> bool {
        let path = &self.path;
        self.mount_points.iter().any(|point| {
            point
                .strip_prefix(&path[..])
                .is_some_and(|rest| rest.starts_with(b"/"))
        })
    }
}

/// The time of a directory moves with whatever is done in it, and is not looked at.
fn looks_same(below: &Stat, found: &Stat) -> bool {
    let looks = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    looks(below) == looks(found)
}

fn is_opaque(dir: &OwnedFd) -> bool {
    // Overlays of ordinary users have their own name for it.
    let names = ["trusted.overlay.opaque", "user.overlay.opaque"];
    names.iter().any(|name| {
        let mut value = [0u8; 1];
        let read = rustix::fs::fgetxattr(dir, *name, &mut value);
        read.is_ok_and(|length| length == 1) && value == *b"y"
    })
}
