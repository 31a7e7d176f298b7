//! Copying a directory tree: data, owners, modes, times, extended attributes and hard links.
//!
//! The source does not change meanwhile, but it may hold anything: it is an image's. Nothing in it is
//! reached by more than one name at a time, and links are copied, never followed.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

/// Directories inside each other; every one costs two descriptors while it is copied.
pub const MAX_DEPTH: usize = 100;
/// Marks of OverlayFS in a layer, and the label of a file elsewhere: neither belongs to the copy.
const NOT_COPIED: [&[u8]; 2] = [b"trusted.overlay.", b"security.selinux"];

/// Copies what is in the directory `from` into `to`, which takes its looks (owner, mode, times and
/// attributes) too. Both are open for reading. What was copied before a failure stays.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut copy = Copy {
        root: to,
        links: HashMap::new(),
    };
    copy.directory(from, to, Path::new(""), 0)
}

/// What could not be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Relative to the tree; empty for its root.
    pub path: PathBuf,
    pub errno: Errno,
}

struct Copy<'a> {
    root: BorrowedFd<'a>,
    /// Where files with several names were copied to first.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copy<'_> {
    /// Copies the content, then the looks: what is written changes times, and a mode may forbid it.
    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        at: &Path,
        depth: usize,
    ) -> Result<(), Failure> {
        let failed = |errno| Failure {
            path: at.to_owned(),
            errno,
        };
        if depth > MAX_DEPTH {
            return Err(failed(Errno::NAMETOOLONG));
        }
        for name in names(from).map_err(failed)? {
            let path = at.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.entry(from, to, &name, &path, depth)?;
        }
        rustix::fs::fstat(from)
            .and_then(|stat| dress(from, to, &stat))
            .map_err(failed)
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
        depth: usize,
    ) -> Result<(), Failure> {
        let failed = |errno| Failure {
            path: path.to_owned(),
            errno,
        };
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            // A whiteout: this layer is the only one, so that there is nothing that it hides.
            return Ok(());
        }
        if kind == FileType::Directory {
            let mode = Mode::RWXU;
            rustix::fs::mkdirat(to, name, mode).map_err(failed)?;
            let (inner, made) = (open(from, name).map_err(failed)?, open(to, name));
            let made = made.map_err(failed)?;
            return self.directory(inner.as_fd(), made.as_fd(), path, depth + 1);
        }
        if stat.st_nlink > 1 {
            let first = self.links.entry((stat.st_dev, stat.st_ino));
            if let std::collections::hash_map::Entry::Occupied(first) = &first {
                return rustix::fs::linkat(self.root, first.get(), to, name, AtFlags::empty())
                    .map_err(failed);
            }
            first.or_insert_with(|| path.to_owned());
        }
        match kind {
            FileType::RegularFile => file(from, to, name, &stat),
            FileType::Symlink => symlink(from, to, name, &stat),
            _ => special(to, name, kind, &stat),
        }
        .map_err(failed)
    }
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn open(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = File::from(rustix::fs::openat(
        to,
        name,
        flags,
        Mode::RUSR | Mode::WUSR,
    )?);
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    data(&from, &to, size).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    dress(from.as_fd(), to.as_fd(), stat)
}

/// Shares the blocks where the filesystem can; else copies them, and leaves holes as holes.
fn data(from: &File, mut to: &File, size: u64) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data from here on.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        rustix::fs::seek(from, SeekFrom::Start(start))?;
        rustix::fs::seek(to, SeekFrom::Start(start))?;
        let copied = io::copy(&mut from.take(end - start), &mut to)?;
        if copied == 0 {
            break;
        }
        at = start + copied;
    }
    to.set_len(size)
}

fn symlink(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
) -> Result<(), Errno> {
    let target = rustix::fs::readlinkat(from, name, Vec::new())?;
    rustix::fs::symlinkat(target.as_c_str(), to, name)?;
    own(to, name, stat)?;
    rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn special(to: BorrowedFd<'_>, name: &CStr, kind: FileType, stat: &Stat) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(stat.st_mode);
    rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
    own(to, name, stat)?;
    rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn own(to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner first: a change of it clears set-id bits and file capabilities.
fn dress(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    attributes(from, to)?;
    rustix::fs::futimens(to, &times(stat))
}

fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    // The kernel's limits for the list and for one value (xattr(7)).
    let mut list = vec![0u8; 64 << 10];
    let mut value = vec![0u8; 64 << 10];
    let length = match rustix::fs::flistxattr(from, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    for name in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        if NOT_COPIED
            .iter()
            .any(|not| name.to_bytes().starts_with(not))
        {
            continue;
        }
        let length = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            // Not every filesystem has attributes of every kind: tmpfs has those of users since
            // Linux 6.6.
            Err(Errno::OPNOTSUPP) => {}
            set => set?,
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    #[allow(clippy::useless_conversion)] // the fields' types differ between architectures
    let time = |seconds: i64, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn copied(source: &Path) -> Result<tempfile::TempDir, Failure> {
        let target = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty()).unwrap();
        copy(open(source).as_fd(), open(target.path()).as_fd()).map(|()| target)
    }

    fn is_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: needs root: owners and device nodes");
        }
        root
    }

    #[test]
    fn owners_modes_times_attributes_and_links_are_kept() {
        if !is_root() {
            return;
        }
        let image = tempfile::tempdir().unwrap();
        let data = image.path().join("data");
        fs::create_dir_all(data.join("deep")).unwrap();
        fs::write(data.join("deep/file"), "content").unwrap();
        fs::hard_link(data.join("deep/file"), data.join("twin")).unwrap();
        symlink("/etc/shadow", data.join("link")).unwrap();
        let fifo = data.join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            FileType::Fifo,
            Mode::from_raw_mode(0o640),
            0,
        )
        .unwrap();
        fs::set_permissions(&fifo, fs::Permissions::from_mode(0o640)).unwrap();
        let file = File::open(data.join("deep/file")).unwrap();
        rustix::fs::fchown(&file, Some(Uid::from_raw(999)), Some(Gid::from_raw(998))).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o4750))
            .unwrap();
        let attribute = rustix::fs::fsetxattr(&file, "user.kept", b"yes", XattrFlags::empty());
        std::os::unix::fs::lchown(data.join("link"), Some(7), Some(8)).unwrap();
        std::os::unix::fs::chown(&data, Some(999), Some(999)).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o1770)).unwrap();

        let volume = copied(&data).unwrap();
        let at = |name: &str| fs::symlink_metadata(volume.path().join(name)).unwrap();
        let root = at("");
        assert_eq!((root.uid(), root.mode() & 0o7777), (999, 0o1770));
        let (file, twin) = (at("deep/file"), at("twin"));
        let original = fs::metadata(data.join("twin")).unwrap();
        assert_eq!(
            (file.uid(), file.gid(), file.mode() & 0o7777),
            (999, 998, 0o4750)
        );
        assert_eq!((file.ino(), file.nlink()), (twin.ino(), 2));
        assert_eq!(
            (file.mtime(), file.mtime_nsec()),
            (original.mtime(), original.mtime_nsec())
        );
        assert_eq!(
            fs::read_to_string(volume.path().join("twin")).unwrap(),
            "content"
        );
        let link = fs::read_link(volume.path().join("link")).unwrap();
        assert_eq!(
            (link.as_path(), at("link").uid()),
            (Path::new("/etc/shadow"), 7)
        );
        assert_eq!(at("fifo").mode() & 0o777, 0o640);
        if attribute.is_ok() {
            let mut value = [0; 8];
            let copy = File::open(volume.path().join("deep/file")).unwrap();
            let length = rustix::fs::fgetxattr(&copy, "user.kept", &mut value[..]).unwrap();
            assert_eq!(&value[..length], b"yes");
        }
    }

    #[test]
    fn a_tree_without_end_is_refused_and_holes_stay_holes() {
        if !is_root() {
            return;
        }
        let image = tempfile::tempdir().unwrap();
        let sparse = File::create(image.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let volume = copied(image.path()).unwrap();
        let copy = fs::metadata(volume.path().join("sparse")).unwrap();
        assert_eq!(copy.len(), 1 << 30);
        assert!(copy.blocks() < 2048, "{} blocks", copy.blocks());
        let deep = vec!["d"; MAX_DEPTH + 2].join("/");
        fs::create_dir_all(image.path().join(deep)).unwrap();
        let error = copied(image.path()).unwrap_err();
        assert_eq!(error.errno, Errno::NAMETOOLONG);
    }
}
