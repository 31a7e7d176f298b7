//! An archive into a tree that others live in: what clients copy into containers.
//!
//! Unlike a layer's, the target is full, and whoever owns it may exchange a directory for a link at
//! any moment. Every parent is resolved by the kernel with `RESOLVE_IN_ROOT` beneath the owner's
//! root directory, so that a link leads to wherever the owner sees it lead, and never out. What is
//! made is made by its bare name in an open directory, and dressed by descriptor.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, makedev};
use rustix::io::Errno;

use crate::Decoder;
use crate::entry::{Content, Entries, Entry, Kind};
use crate::error::{Error, Refusal, Result};
use crate::options::{Limits, RatioLimit};
use crate::path::{PathFault, normalise, split};
use crate::pax::Timestamp;
use crate::removal::remove;
use crate::stream::{Hashing, Source, Stream};
use crate::tree::{failed, file_type, is_mounted_on, open_directory, refused, stat};
use crate::writer::{fill, is_ours_to_set, times};

/// At one entry, against others who are at the same place.
const ATTEMPTS: usize = 64;

/// How an archive is taken in.
#[derive(Debug, Clone, Default)]
pub struct ExtractOptions {
    pub limits: Limits,
    pub ratio: RatioLimit,
    /// Refuses to put a file where a directory is, or a directory where a file is.
    pub keep_kinds: bool,
    /// Uid and gid of everything, instead of those in the archive.
    pub owner: Option<(u32, u32)>,
}

/// Puts what an archive holds, compressed or not, into the directory `base` of the tree at `root`.
/// What is in the way of an entry is removed, with all that is in it; directories are merged.
/// Parents that are missing are made (0755, root). On an error what was made before stays.
///
/// Returns the number of entries.
pub fn extract(
    reader: impl Read,
    root: BorrowedFd<'_>,
    base: &Path,
    options: &ExtractOptions,
) -> Result<u64> {
    let limits = &options.limits;
    let decoder =
        Decoder::new(reader, options.ratio).map_err(|source| Error::Read { offset: 0, source })?;
    let mut stream = Stream::new(Hashing::new(decoder), limits.stream_bytes);
    let mut entries = Entries::new(limits);
    let base = normalise(base.as_os_str().as_bytes(), limits.path_bytes, limits.depth);
    let mut extractor = Extractor {
        root,
        base: base.map_err(|_| refused(b"", Refusal::ParentComponent))?,
        options,
        held: None,
        times: HashMap::new(),
        time_bytes: 0,
    };
    let mut count = 0;
    while let Some(entry) = entries.next(&mut stream)? {
        extractor.entry(&entry, &mut stream)?;
        stream.skip_padding(entry.stored())?;
        count += 1;
    }
    stream.drain()?;
    extractor.finish()?;
    Ok(count)
}

/// What an entry has become so far.
enum Made {
    Name,
    /// Empty yet.
    File(OwnedFd),
    /// One that is mounted there, empty. Owner and mode remain its own.
    Mounted(OwnedFd),
}

struct Extractor<'a> {
    root: BorrowedFd<'a>,
    /// From the root, without a slash before it.
    base: Vec<u8>,
    options: &'a ExtractOptions,
    /// The parent of the last entry: archives come in order.
    held: Option<(Vec<u8>, OwnedFd)>,
    /// Directories whose times are set when nothing more is made in them.
    times: HashMap<Vec<u8>, Timestamp>,
    time_bytes: usize,
}

impl Extractor<'_> {
    /// Takes one entry and consumes its data.
    fn entry<S: Source>(&mut self, entry: &Entry, stream: &mut Stream<S>) -> Result<()> {
        let path = self.normalise(&entry.path, entry)?;
        if path.is_empty() {
            return match entry.kind {
                Kind::Directory => Ok(()),
                _ => Err(refused(&entry.path, Refusal::RootNotDirectory)),
            };
        }
        let (parent, made) = self.make(&path, entry)?;
        let (above, _) = split(&path);
        self.held = Some((above.to_vec(), parent));
        match (&entry.kind, made) {
            (Kind::Directory, _) => self.note_times(&path, entry),
            (Kind::File(content), Made::Mounted(file)) => fill(&file, content, &entry.path, stream),
            (Kind::File(content), Made::File(file)) => self.fill(&file, content, entry, stream),
            _ => Ok(()),
        }
    }

    /// Makes the entry, a file still empty. What fails because others remove, make and rename
    /// things at the same place meanwhile is tried again.
    fn make(&mut self, path: &[u8], entry: &Entry) -> Result<(OwnedFd, Made)> {
        for _ in 1..ATTEMPTS {
            match self.make_once(path, entry) {
                Err(error) if is_race(&error) => std::thread::yield_now(),
                made => return made,
            }
        }
        self.make_once(path, entry)
    }

    fn make_once(&mut self, path: &[u8], entry: &Entry) -> Result<(OwnedFd, Made)> {
        let (above, name) = split(path);
        let parent = self.parent(above, &entry.path)?;
        let in_place = self.make_way(&parent, name, entry)?;
        let mut made = Made::Name;
        match &entry.kind {
            Kind::File(_) if in_place => made = Made::Mounted(emptied(&parent, name, entry)?),
            Kind::Directory => self.directory(&parent, name, path, entry)?,
            Kind::File(content) => made = Made::File(self.file(&parent, name, content, entry)?),
            Kind::HardLink => self.hard_link(&parent, name, entry)?,
            Kind::Symlink => {
                rustix::fs::symlinkat(&entry.link[..], &parent, name)
                    .map_err(|errno| failed("creating", path, errno))?;
                self.dress_name(&parent, name, entry)?;
            }
            Kind::Fifo => self.node(&parent, name, FileType::Fifo, 0, entry)?,
            Kind::CharacterDevice(major, minor) => {
                let device = makedev(*major, *minor);
                self.node(&parent, name, FileType::CharacterDevice, device, entry)?;
            }
            Kind::BlockDevice(major, minor) => {
                let device = makedev(*major, *minor);
                self.node(&parent, name, FileType::BlockDevice, device, entry)?;
            }
        }
        Ok((parent, made))
    }

    fn normalise(&self, raw: &[u8], entry: &Entry) -> Result<Vec<u8>> {
        let limits = &self.options.limits;
        let limit = |what, max: usize| Error::Limit {
            entry: crate::entry::shown(&entry.path),
            what,
            max: max as u64,
        };
        normalise(raw, limits.path_bytes, limits.depth).map_err(|fault| match fault {
            PathFault::Refused(reason) => refused(&entry.path, reason),
            PathFault::TooLong => limit("bytes of path", limits.path_bytes),
            PathFault::TooDeep => limit("path components", limits.depth),
        })
    }

    /// Opens a directory below the base, and makes what is missing of it.
    fn parent(&mut self, path: &[u8], entry: &[u8]) -> Result<OwnedFd> {
        match self.held.take() {
            Some((held, dir)) if held == path => return Ok(dir),
            _ => {}
        }
        let fail = |errno| failed("opening a parent", entry, errno);
        match self.open(path) {
            Err(Errno::NOENT) => {}
            opened => return opened.map_err(fail),
        }
        let mut above = self.open(b"").map_err(fail)?;
        let mut end = 0;
        for name in path.split(|&byte| byte == b'/') {
            end += name.len();
            above = match self.open(&path[..end]) {
                Err(Errno::NOENT) => {
                    make_parent(&above, name).map_err(fail)?;
                    self.open(&path[..end]).map_err(fail)?
                }
                opened => opened.map_err(fail)?,
            };
            end += 1;
        }
        Ok(above)
    }

    /// A directory below the base; links lead to wherever they lead from the root.
    fn open(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let whole = match (self.base.is_empty(), path.is_empty()) {
            (true, true) => b".".to_vec(),
            (true, false) => path.to_vec(),
            (false, true) => self.base.clone(),
            (false, false) => [&self.base[..], b"/", path].concat(),
        };
        let whole = Path::new(std::ffi::OsStr::from_bytes(&whole));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        berth_kernel::open_in_root(self.root, whole, flags, Mode::empty())
    }

    /// Removes what is in the way of an entry. True for a file that is mounted there, which a file
    /// is written into: what else is mounted is not removed (`EBUSY`).
    fn make_way(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<bool> {
        let fail = |errno| failed("replacing what was there", &entry.path, errno);
        let Some(found) = stat(parent, name).map_err(fail)? else {
            return Ok(false);
        };
        if matches!(entry.kind, Kind::File(_))
            && file_type(&found) == FileType::RegularFile
            && is_mounted_on(parent, name)
        {
            return Ok(true);
        }
        let is_directory = file_type(&found) == FileType::Directory;
        match (is_directory, entry.kind == Kind::Directory) {
            (true, true) => return Ok(false),
            (true, false) if self.options.keep_kinds => {
                return Err(refused(&entry.path, Refusal::OverwritesDirectory));
            }
            (false, true) if self.options.keep_kinds => {
                return Err(refused(&entry.path, Refusal::OverwritesFile));
            }
            _ => {}
        }
        remove(parent.as_fd(), name).map_err(fail)?;
        Ok(false)
    }

    fn directory(&self, parent: &OwnedFd, name: &[u8], path: &[u8], entry: &Entry) -> Result<()> {
        let fail = |errno| failed("creating the directory", path, errno);
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            made => made.map_err(fail)?,
        }
        let dir = open_directory(parent.as_fd(), name).map_err(fail)?;
        self.dress(&dir, entry)
    }

    fn note_times(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        self.time_bytes += path.len();
        let max = self.options.limits.directory_name_bytes;
        if self.time_bytes > max {
            return Err(Error::Limit {
                entry: crate::entry::shown(path),
                what: "bytes of directory names",
                max: max as u64,
            });
        }
        self.times.insert(path.to_vec(), entry.mtime);
        Ok(())
    }

    fn file(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        content: &Content,
        entry: &Entry,
    ) -> Result<OwnedFd> {
        let path = &entry.path;
        if content.apparent_size() > self.options.limits.file_bytes {
            return Err(Error::Limit {
                entry: crate::entry::shown(path),
                what: "bytes of one file",
                max: self.options.limits.file_bytes,
            });
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("creating the file", path, errno))
    }

    fn fill<S: Source>(
        &self,
        file: &OwnedFd,
        content: &Content,
        entry: &Entry,
        stream: &mut Stream<S>,
    ) -> Result<()> {
        fill(file, content, &entry.path, stream)?;
        self.dress(file, entry)?;
        rustix::fs::futimens(file, &times(entry.mtime))
            .map_err(|errno| failed("setting the times", &entry.path, errno))
    }

    fn hard_link(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<()> {
        let fail = |errno| failed("linking", &entry.path, errno);
        let target = self.normalise(&entry.link, entry)?;
        let (above, target) = split(&target);
        if target.is_empty() {
            return Err(refused(&entry.path, Refusal::BadLinkTarget));
        }
        let from = self.open(above).map_err(fail)?;
        // A link at the end is linked to itself, not followed.
        match rustix::fs::linkat(&from, target, parent, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Err(refused(&entry.path, Refusal::LinkTargetMissing)),
            Err(Errno::PERM) => Err(refused(&entry.path, Refusal::BadLinkTarget)),
            linked => linked.map_err(fail),
        }
    }

    fn node(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        kind: FileType,
        device: u64,
        entry: &Entry,
    ) -> Result<()> {
        let fail = |errno| failed("creating the node", &entry.path, errno);
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(parent, name, kind, mode, device).map_err(fail)?;
        // By descriptor, which does not open the device: chmod follows links.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            // Its owner removed it meanwhile.
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.map_err(fail)?,
        };
        let found = rustix::fs::fstat(&node).map_err(fail)?;
        if file_type(&found) != kind || kind != FileType::Fifo && found.st_rdev != device {
            // Its owner was quicker.
            return Ok(());
        }
        let (uid, gid) = self.owner(entry);
        let itself = AtFlags::EMPTY_PATH;
        rustix::fs::chownat(&node, c"", Some(uid), Some(gid), itself).map_err(fail)?;
        let place = format!("/proc/self/fd/{}", node.as_raw_fd());
        rustix::fs::chmod(place, Mode::from_raw_mode(entry.mode)).map_err(fail)?;
        self.touch(parent, name, entry)
    }

    fn dress_name(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<()> {
        let (uid, gid) = self.owner(entry);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags) {
            // Its owner removed it meanwhile.
            Err(Errno::NOENT) => Ok(()),
            set => {
                set.map_err(|errno| failed("setting the owner", &entry.path, errno))?;
                self.touch(parent, name, entry)
            }
        }
    }

    fn touch(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::utimensat(parent, name, &times(entry.mtime), flags) {
            // Its owner removed it meanwhile.
            Err(Errno::NOENT) => Ok(()),
            set => set.map_err(|errno| failed("setting the times", &entry.path, errno)),
        }
    }

    /// Owner first: a change of it clears set-id bits and file capabilities.
    fn dress(&self, file: &OwnedFd, entry: &Entry) -> Result<()> {
        let path = &entry.path;
        let (uid, gid) = self.owner(entry);
        rustix::fs::fchown(file, Some(uid), Some(gid))
            .map_err(|errno| failed("setting the owner", path, errno))?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))
            .map_err(|errno| failed("setting the mode", path, errno))?;
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_ours_to_set(name)) {
            match rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
                Err(Errno::NOTSUP) => {}
                Err(Errno::INVAL | Errno::RANGE) => {
                    return Err(refused(path, Refusal::BadAttribute));
                }
                set => set.map_err(|errno| failed("setting an attribute", path, errno))?,
            }
        }
        Ok(())
    }

    fn owner(&self, entry: &Entry) -> (Uid, Gid) {
        let (uid, gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        (Uid::from_raw(uid), Gid::from_raw(gid))
    }

    /// Sets the times of directories, of those that are still there.
    fn finish(self) -> Result<()> {
        for (path, mtime) in &self.times {
            let (parent, name) = split(path);
            let Ok(parent) = self.open(parent) else {
                continue;
            };
            let Ok(dir) = open_directory(parent.as_fd(), name) else {
                continue;
            };
            rustix::fs::futimens(&dir, &times(*mtime))
                .map_err(|errno| failed("setting the times", path, errno))?;
        }
        Ok(())
    }
}

/// A file that is mounted where the entry is to be.
fn emptied(parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::openat(parent, name, flags, Mode::empty())
        .map_err(|errno| failed("writing the file that is mounted", &entry.path, errno))
}

/// Whether something was there, or was not, that was otherwise a moment ago.
fn is_race(error: &Error) -> bool {
    const RACES: [Errno; 7] = [
        Errno::EXIST,
        Errno::ISDIR,
        Errno::LOOP,
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::NOTEMPTY,
        Errno::STALE,
    ];
    let Error::Write { source, .. } = error else {
        return false;
    };
    let code = source.raw_os_error();
    RACES.iter().any(|errno| code == Some(errno.raw_os_error()))
}

fn make_parent(above: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::mkdirat(above, name, Mode::RWXU) {
        // Its owner was quicker.
        Err(Errno::EXIST) => return Ok(()),
        made => made?,
    }
    let dir = open_directory(above.as_fd(), name)?;
    rustix::fs::fchown(&dir, Some(Uid::ROOT), Some(Gid::ROOT))?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))
}
