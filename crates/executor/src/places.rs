//! Places inside a root that an image or a volume controls.
//!
//! A place is an `O_PATH` descriptor. It is looked up once, with every link
//! kept inside the root, and all that follows works on the descriptor.

use berth_kernel::rustix::fs::{FileType, Mode, OFlags, PROC_SUPER_MAGIC};
use berth_kernel::{Errno, Result};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// As many links on one path as the kernel follows.
const MAX_LINKS: usize = 40;
const NEW_DIRECTORY: Mode = Mode::from_bits_retain(0o755);
const NEW_FILE: Mode = Mode::from_bits_retain(0o755);

/// What a missing place is made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlaceKind {
    Directory,
    File,
}

/// The place that `path` leads to, wherever links inside the root point.
pub(crate) fn find(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    berth_kernel::open_in_root(root, path, OFlags::PATH, Mode::empty())
}

/// The place at `path`, made with all directories on the way when missing.
pub(crate) fn find_or_make(root: BorrowedFd<'_>, path: &Path, kind: PlaceKind) -> Result<OwnedFd> {
    match find(root, path) {
        Err(Errno::NOENT) => make(root, path, kind),
        found => found,
    }
}

/// The directory at `path`, made when missing, with no link anywhere on the
/// way: `ELOOP` tells of one, `ENOTDIR` of something else that is there.
pub(crate) fn ordinary_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match berth_kernel::open_without_links(root, path, flags) {
        Err(Errno::NOENT) => {
            let mut walk = Walk::new(root, path)?;
            walk.links_left = 0;
            walk.finish(PlaceKind::Directory)
        }
        found => found,
    }
}

/// The directory that holds `path`, made when missing, and the last name.
pub(crate) fn parent<'p>(root: BorrowedFd<'_>, path: &'p Path) -> Result<(OwnedFd, &'p OsStr)> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let directory = find_or_make(root, directory, PlaceKind::Directory)?;
    Ok((directory, name))
}

/// Whether a place lies in a procfs.
pub(crate) fn is_procfs<Fd: AsFd>(place: Fd) -> Result<bool> {
    let found = berth_kernel::rustix::fs::fstatfs(place)?;
    Ok(found.f_type == PROC_SUPER_MAGIC)
}

pub(crate) fn is_directory<Fd: AsFd>(place: Fd) -> Result<bool> {
    let found = berth_kernel::rustix::fs::fstat(place)?;
    Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

fn make(root: BorrowedFd<'_>, path: &Path, kind: PlaceKind) -> Result<OwnedFd> {
    Walk::new(root, path)?.finish(kind)
}

/// A walk by handles that makes what is missing, also behind links that lead
/// to nothing yet. `..` goes back to a handle and is never left to the
/// kernel, so that a rename during the walk cannot lead out of the root.
struct Walk {
    /// The root and each directory below it on the way.
    handles: Vec<OwnedFd>,
    left: VecDeque<OsString>,
    links_left: usize,
}

impl Walk {
    fn new(root: BorrowedFd<'_>, path: &Path) -> Result<Self> {
        let mut walk = Self {
            handles: vec![root.try_clone_to_owned().map_err(|_| Errno::MFILE)?],
            left: VecDeque::new(),
            links_left: MAX_LINKS,
        };
        walk.push(path);
        Ok(walk)
    }

    fn push(&mut self, path: &Path) {
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => self.left.push_front(name.to_owned()),
                Component::ParentDir => self.left.push_front(OsString::from("..")),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
    }

    fn here(&self) -> Result<&OwnedFd> {
        self.handles.last().ok_or(Errno::NOENT)
    }

    fn finish(mut self, kind: PlaceKind) -> Result<OwnedFd> {
        while let Some(name) = self.left.pop_front() {
            if name == ".." {
                if self.handles.len() > 1 {
                    self.handles.pop();
                }
                continue;
            }
            let kind = if self.left.is_empty() {
                kind
            } else {
                PlaceKind::Directory
            };
            let next = self.step(&name, kind)?;
            let found = berth_kernel::rustix::fs::fstat(&next)?;
            if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
                self.follow(&next)?;
            } else {
                self.handles.push(next);
            }
        }
        self.handles.pop().ok_or(Errno::NOENT)
    }

    fn step(&self, name: &OsStr, kind: PlaceKind) -> Result<OwnedFd> {
        let here = self.here()?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || berth_kernel::rustix::fs::openat(here, name, flags, Mode::empty());
        match open() {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let made = match kind {
            PlaceKind::Directory => berth_kernel::rustix::fs::mkdirat(here, name, NEW_DIRECTORY),
            PlaceKind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                berth_kernel::rustix::fs::openat(here, name, flags, NEW_FILE).map(drop)
            }
        };
        match made {
            // Somebody else was faster; what is there now is looked at above.
            Ok(()) | Err(Errno::EXIST) => open(),
            Err(errno) => Err(errno),
        }
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<()> {
        self.links_left = self.links_left.checked_sub(1).ok_or(Errno::LOOP)?;
        let target = berth_kernel::rustix::fs::readlinkat(link, c"", Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.to_bytes()));
        if target.is_absolute() {
            self.handles.truncate(1);
        }
        self.push(target);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn root(dir: &Path) -> OwnedFd {
        berth_kernel::rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .unwrap()
    }

    #[test]
    fn missing_places_are_made_inside_the_root_whatever_links_say() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir_all(inside.join("var")).unwrap();
        symlink("/run", inside.join("var/run")).unwrap();
        symlink("../../../../outside", inside.join("climb")).unwrap();
        let fd = root(&inside);
        let cases = [
            ("/var/run/secrets/token", "run/secrets/token"),
            ("/climb/x", "outside/x"),
            ("/../../above", "above"),
            ("/deep/../deep/./er/f", "deep/er/f"),
        ];
        for (path, real) in cases {
            let place = find_or_make(fd.as_fd(), Path::new(path), PlaceKind::File).unwrap();
            let made = std::fs::metadata(inside.join(real)).unwrap();
            let found = berth_kernel::rustix::fs::fstat(&place).unwrap();
            assert_eq!(found.st_ino, made.ino(), "{path}");
            assert!(made.is_file(), "{path}");
        }
        assert!(!dir.path().join("outside").exists());
        assert!(!dir.path().join("above").exists());
    }

    #[test]
    fn a_link_is_no_ordinary_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("proc")).unwrap();
        symlink("nowhere", dir.path().join("sys")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let fd = root(dir.path());
        let cases = [
            ("/proc", Some(Errno::LOOP)),
            ("/sys", Some(Errno::LOOP)),
            ("/proc/sub", Some(Errno::LOOP)),
            ("/file", Some(Errno::NOTDIR)),
            ("/real", None),
            ("/new/dir", None),
        ];
        for (path, errno) in cases {
            let found = ordinary_directory(fd.as_fd(), Path::new(path));
            assert_eq!(found.err(), errno, "{path}");
        }
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn links_in_circles_end() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b/x", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let fd = root(dir.path());
        let found = find_or_make(fd.as_fd(), Path::new("/a/new"), PlaceKind::Directory);
        assert_eq!(found.err(), Some(Errno::LOOP));
    }
}
