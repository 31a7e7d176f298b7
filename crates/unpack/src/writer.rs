//! Entries to files.
//!
//! The order of a file's attributes is the kernel's doing: writing drops capabilities, and so does
//! a change of owner, which drops setuid too. So: data, owner, mode, extended attributes, times.
//! The times of directories are set when nothing more is made in them.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, makedev,
};
use rustix::io::Errno;

use crate::entry::{Content, Entry, Kind, shown};
use crate::error::{Error, Refusal, Result};
use crate::opaque::Marker;
use crate::options::Limits;
use crate::path::{self, PathFault, Target};
use crate::pax::Timestamp;
use crate::stream::{Source, Stream};
use crate::tree::{Place, Tree, failed, file_type, is_whiteout, open_directory, refused, stat};

pub(crate) struct Writer<'l> {
    limits: &'l Limits,
    tree: Tree<'l>,
    directories: HashMap<Vec<u8>, Finish>,
    directory_name_bytes: usize,
    pub bytes: u64,
    pub entries: u64,
    pub xattrs_skipped: u64,
}

/// What a directory gets at the end.
struct Finish {
    mtime: Timestamp,
    /// Would otherwise be handed down to what is made in the directory.
    default_acl: Option<Vec<u8>>,
}

const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

impl<'l> Writer<'l> {
    pub fn new(root: BorrowedFd<'_>, limits: &'l Limits, marker: &'l dyn Marker) -> Result<Self> {
        Ok(Self {
            limits,
            // The root is no entry.
            tree: Tree::new(root, limits.entries.saturating_add(1), marker)
                .map_err(|source| failed("opening the target", b".", source))?,
            directories: HashMap::new(),
            directory_name_bytes: 0,
            bytes: 0,
            entries: 0,
            xattrs_skipped: 0,
        })
    }

    /// Inodes of the layer so far, its root included.
    pub fn inodes(&self) -> u64 {
        self.tree.inodes
    }

    /// Applies an entry and consumes its data.
    pub fn apply<S: Source>(&mut self, entry: &Entry, stream: &mut Stream<S>) -> Result<()> {
        self.entries += 1;
        self.check_sizes(entry)?;
        let path = self.normalise(&entry.path, &entry.path)?;
        match path::classify(path).map_err(|reason| refused(&entry.path, reason))? {
            Target::Path(path) => self.make(&path, entry, stream)?,
            Target::Whiteout(path) => {
                stream.skip(entry.stored())?;
                self.whiteout(&path)?;
            }
            Target::Opaque(path) => {
                stream.skip(entry.stored())?;
                let dir = self.tree.directory(&path)?;
                let made = self.tree.set_opaque(&dir);
                made.map_err(|e| failed("making opaque", &path, e))?;
            }
            Target::Ignored => stream.skip(entry.stored())?,
        }
        stream.skip_padding(entry.stored())
    }

    fn check_sizes(&self, entry: &Entry) -> Result<()> {
        let limit = |what, max| {
            Err(Error::Limit {
                entry: shown(&entry.path),
                what,
                max,
            })
        };
        if let Kind::File(content) = &entry.kind
            && content.apparent_size() > self.limits.file_bytes
        {
            return limit("bytes of one file", self.limits.file_bytes);
        }
        if entry.xattrs.len() > self.limits.xattrs {
            return limit("extended attributes", self.limits.xattrs as u64);
        }
        if entry
            .xattrs
            .iter()
            .any(|(_, value)| value.len() > self.limits.xattr_bytes)
        {
            return limit(
                "bytes of one extended attribute",
                self.limits.xattr_bytes as u64,
            );
        }
        Ok(())
    }

    fn normalise(&self, raw: &[u8], entry: &[u8]) -> Result<Vec<u8>> {
        let (max_bytes, max_depth) = (self.limits.path_bytes, self.limits.depth);
        path::normalise(raw, max_bytes, max_depth).map_err(|fault| match fault {
            PathFault::Refused(reason) => refused(entry, reason),
            PathFault::TooLong => {
                let (entry, max) = (shown(entry), max_bytes as u64);
                Error::Limit {
                    entry,
                    what: "bytes of path",
                    max,
                }
            }
            PathFault::TooDeep => {
                let (entry, max) = (shown(entry), max_depth as u64);
                Error::Limit {
                    entry,
                    what: "path components",
                    max,
                }
            }
        })
    }

    fn make<S: Source>(
        &mut self,
        path: &[u8],
        entry: &Entry,
        stream: &mut Stream<S>,
    ) -> Result<()> {
        match &entry.kind {
            Kind::Directory => self.directory(path, entry),
            _ if path.is_empty() => Err(refused(&entry.path, Refusal::RootNotDirectory)),
            Kind::File(content) => self.file(path, entry, content, stream),
            Kind::Symlink => self.symlink(path, entry),
            Kind::HardLink => self.hard_link(path, entry),
            Kind::CharacterDevice(major, minor) => self.node(
                path,
                entry,
                FileType::CharacterDevice,
                makedev(*major, *minor),
            ),
            Kind::BlockDevice(major, minor) => {
                self.node(path, entry, FileType::BlockDevice, makedev(*major, *minor))
            }
            Kind::Fifo => self.node(path, entry, FileType::Fifo, 0),
        }
    }

    fn directory(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let dir = if path.is_empty() {
            self.tree
                .resolve(path)
                .map_err(|e| failed("opening the root", path, e))?
        } else {
            self.make_directory(path)?
        };
        own(&dir, entry).map_err(|e| failed("setting the owner", path, e))?;
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::fchmod(&dir, mode).map_err(|e| failed("setting the mode", path, e))?;
        let default_acl = self.set_xattrs(&dir, path, entry)?;
        self.finish_later(
            path,
            Finish {
                mtime: entry.mtime,
                default_acl,
            },
        )
    }

    fn make_directory(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let fail = |errno| failed("creating the directory", path, errno);
        let Place { parent, name } = self.tree.place(path)?;
        let mut covers = false;
        match rustix::fs::mkdirat(&*parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => match stat(&*parent, name).map_err(fail)? {
                Some(found) if file_type(&found) == FileType::Directory => {}
                found => {
                    covers = found.is_some_and(|found| is_whiteout(&found));
                    self.tree.clear(parent.as_fd(), name, path)?;
                    rustix::fs::mkdirat(&*parent, name, Mode::RWXU).map_err(fail)?;
                    self.tree.made(path)?;
                }
            },
            made => {
                made.map_err(fail)?;
                self.tree.made(path)?;
            }
        }
        let dir = open_directory(parent.as_fd(), name).map_err(fail)?;
        if covers {
            let made = self.tree.set_opaque(&dir);
            made.map_err(|e| failed("making opaque", path, e))?;
        }
        Ok(dir)
    }

    fn finish_later(&mut self, path: &[u8], finish: Finish) -> Result<()> {
        if let Some(known) = self.directories.get_mut(path) {
            *known = finish;
            return Ok(());
        }
        self.directory_name_bytes += path.len();
        let max = self.limits.directory_name_bytes;
        if self.directory_name_bytes > max {
            let (entry, max) = (shown(path), max as u64);
            return Err(Error::Limit {
                entry,
                what: "bytes of directory names",
                max,
            });
        }
        self.directories.insert(path.to_vec(), finish);
        Ok(())
    }

    /// Sets what had to wait until all entries were made.
    pub fn finish(&mut self) -> Result<()> {
        for (path, finish) in std::mem::take(&mut self.directories) {
            let dir = match self.tree.resolve_nofollow(&path) {
                Ok(dir) => dir,
                // A later entry of the layer took its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(failed("opening the directory", &path, errno)),
            };
            if let Some(acl) = &finish.default_acl {
                self.set_xattr(&dir, &path, DEFAULT_ACL, acl)?;
            }
            rustix::fs::futimens(&dir, &times(finish.mtime))
                .map_err(|e| failed("setting the times", &path, e))?;
        }
        Ok(())
    }

    fn file<S: Source>(
        &mut self,
        path: &[u8],
        entry: &Entry,
        content: &Content,
        stream: &mut Stream<S>,
    ) -> Result<()> {
        let place = self.tree.place(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = self.create(path, &place, "creating the file", || {
            rustix::fs::openat(&*place.parent, place.name, flags, Mode::RUSR | Mode::WUSR)
        })?;
        fill(&file, content, path, stream)?;
        self.bytes += content.stored;
        own(&file, entry).map_err(|e| failed("setting the owner", path, e))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
            .map_err(|e| failed("setting the mode", path, e))?;
        if self.set_xattrs(&file, path, entry)?.is_some() {
            self.xattrs_skipped += 1;
        }
        rustix::fs::futimens(&file, &times(entry.mtime))
            .map_err(|e| failed("setting the times", path, e))
    }

    /// Runs `make`; if something is in the way, removes it and runs it again.
    fn create<T>(
        &mut self,
        path: &[u8],
        place: &Place<'_>,
        operation: &'static str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        let made = match make() {
            Err(Errno::EXIST) => {
                self.tree.clear(place.parent.as_fd(), place.name, path)?;
                make()
            }
            made => made,
        };
        let made = made.map_err(|e| failed(operation, path, e))?;
        self.tree.made(path)?;
        Ok(made)
    }

    fn symlink(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let target = entry.link.as_slice();
        if target.is_empty() {
            return Err(refused(path, Refusal::EmptyLinkTarget));
        }
        if target.len() > self.limits.path_bytes {
            let (entry, max) = (shown(path), self.limits.path_bytes as u64);
            return Err(Error::Limit {
                entry,
                what: "bytes of link target",
                max,
            });
        }
        let place = self.tree.place(path)?;
        self.create(path, &place, "creating the link", || {
            rustix::fs::symlinkat(target, &*place.parent, place.name)
        })?;
        self.xattrs_skipped += entry.xattrs.len() as u64;
        self.refuse_overlay_xattrs(path, entry)?;
        own_name(&place, entry).map_err(|e| failed("setting the owner", path, e))?;
        touch_name(&place, entry).map_err(|e| failed("setting the times", path, e))
    }

    /// Devices and fifos. Their extended attributes mean nothing to the kernel. In a user namespace
    /// nobody may make a device, and images do without them.
    fn node(&mut self, path: &[u8], entry: &Entry, kind: FileType, device: u64) -> Result<()> {
        if kind != FileType::Fifo && berth_kernel::in_user_namespace() {
            return self.refuse_overlay_xattrs(path, entry);
        }
        let place = self.tree.place(path)?;
        self.create(path, &place, "creating the node", || {
            rustix::fs::mknodat(
                &*place.parent,
                place.name,
                kind,
                Mode::RUSR | Mode::WUSR,
                device,
            )
        })?;
        self.xattrs_skipped += entry.xattrs.len() as u64;
        self.refuse_overlay_xattrs(path, entry)?;
        own_name(&place, entry).map_err(|e| failed("setting the owner", path, e))?;
        // No link: it was made a moment ago, in a directory that only we write to.
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::chmodat(&*place.parent, place.name, mode, AtFlags::empty())
            .map_err(|e| failed("setting the mode", path, e))?;
        touch_name(&place, entry).map_err(|e| failed("setting the times", path, e))
    }

    fn hard_link(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        if entry.link.is_empty() {
            return Err(refused(path, Refusal::EmptyLinkTarget));
        }
        let target = self.normalise(&entry.link, path)?;
        let (target_parent, target_name) = path::split(&target);
        let from = match self.tree.resolve(target_parent) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Err(refused(path, Refusal::LinkTargetMissing));
            }
            Err(errno) => return Err(failed("opening the link's target", path, errno)),
        };
        if target_name.is_empty() {
            return Err(refused(path, Refusal::BadLinkTarget));
        }
        let examined = |e| failed("examining the link's target", path, e);
        let source = match stat(&from, target_name).map_err(examined)? {
            None => return Err(refused(path, Refusal::LinkTargetMissing)),
            Some(found) if is_whiteout(&found) => {
                return Err(refused(path, Refusal::LinkTargetMissing));
            }
            Some(found) if file_type(&found) == FileType::Directory => {
                return Err(refused(path, Refusal::BadLinkTarget));
            }
            Some(found) => found,
        };
        let place = self.tree.place(path)?;
        let present = stat(&*place.parent, place.name).map_err(examined)?;
        if let Some(present) = present {
            if (present.st_dev, present.st_ino) == (source.st_dev, source.st_ino) {
                return Ok(());
            }
            self.tree.clear(place.parent.as_fd(), place.name, path)?;
        }
        rustix::fs::linkat(
            &from,
            target_name,
            &*place.parent,
            place.name,
            AtFlags::empty(),
        )
        .map_err(|e| failed("linking", path, e))
    }

    /// Hides `path` in the layers beneath. What this layer has there stays, whichever came first.
    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let fail = |errno| failed("creating the whiteout", path, errno);
        let Place { parent, name } = self.tree.place(path)?;
        match rustix::fs::mknodat(
            &*parent,
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            makedev(0, 0),
        ) {
            Err(Errno::EXIST) => {}
            made => {
                made.map_err(fail)?;
                return self.tree.made(path);
            }
        }
        let found = stat(&*parent, name).map_err(fail)?;
        if found.is_some_and(|found| file_type(&found) == FileType::Directory) {
            let dir = open_directory(parent.as_fd(), name).map_err(fail)?;
            let made = self.tree.set_opaque(&dir);
            made.map_err(|e| failed("making opaque", path, e))?;
        }
        Ok(())
    }

    /// Sets the attributes that a layer decides. Returns the default ACL, which has to wait.
    fn set_xattrs(
        &mut self,
        file: &OwnedFd,
        path: &[u8],
        entry: &Entry,
    ) -> Result<Option<Vec<u8>>> {
        self.refuse_overlay_xattrs(path, entry)?;
        let mut default_acl = None;
        for (name, value) in &entry.xattrs {
            if name == DEFAULT_ACL {
                default_acl = Some(value.clone());
            } else if is_ours_to_set(name) {
                self.set_xattr(file, path, name, value)?;
            } else {
                self.xattrs_skipped += 1;
            }
        }
        Ok(default_acl)
    }

    fn set_xattr(&mut self, file: &OwnedFd, path: &[u8], name: &[u8], value: &[u8]) -> Result<()> {
        match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
            Err(Errno::NOTSUP) => self.xattrs_skipped += 1,
            Err(Errno::INVAL | Errno::RANGE) => return Err(refused(path, Refusal::BadAttribute)),
            set => set.map_err(|e| failed("setting an extended attribute", path, e))?,
        }
        Ok(())
    }

    fn refuse_overlay_xattrs(&self, path: &[u8], entry: &Entry) -> Result<()> {
        let own = berth_kernel::overlay_marks().prefix.as_bytes();
        let reserved = |name: &[u8]| name.starts_with(b"trusted.overlay.") || name.starts_with(own);
        if entry.xattrs.iter().any(|(name, _)| reserved(name)) {
            return Err(refused(path, Refusal::OverlayAttribute));
        }
        Ok(())
    }
}

/// Labels of the host that built the image (`security.selinux`, `security.ima`, …) and private
/// attributes of its kernel (`trusted.*`) are not for a layer to set.
pub(crate) fn is_ours_to_set(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || matches!(
            name,
            b"security.capability" | b"system.posix_acl_access" | DEFAULT_ACL
        )
}

/// Gives a new file its content, with the holes of one that is sparse.
pub(crate) fn fill<S: Source>(
    file: &OwnedFd,
    content: &Content,
    path: &[u8],
    stream: &mut Stream<S>,
) -> Result<()> {
    let Some((segments, size)) = &content.sparse else {
        return write(file, None, content.stored, path, stream);
    };
    for &(offset, length) in segments {
        write(file, Some(offset), length, path, stream)?;
    }
    rustix::fs::ftruncate(file, *size).map_err(|e| failed("setting the size", path, e))
}

/// Copies data from the stream to the file, at an offset or one after the other.
fn write<S: Source>(
    file: &OwnedFd,
    mut offset: Option<u64>,
    length: u64,
    path: &[u8],
    stream: &mut Stream<S>,
) -> Result<()> {
    stream.data(length, |mut piece| {
        while !piece.is_empty() {
            let written = match offset {
                None => rustix::io::write(file, piece),
                Some(at) => rustix::io::pwrite(file, piece, at),
            };
            let count = match written {
                Err(Errno::INTR) => continue,
                written => written.map_err(|e| failed("writing", path, e))?,
            };
            offset = offset.map(|at| at + count as u64);
            piece = &piece[count..];
        }
        Ok(())
    })
}

fn own(file: &OwnedFd, entry: &Entry) -> rustix::io::Result<()> {
    rustix::fs::fchown(
        file,
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
    )
}

fn own_name(place: &Place<'_>, entry: &Entry) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(&*place.parent, place.name, Some(uid), Some(gid), flags)
}

fn touch_name(place: &Place<'_>, entry: &Entry) -> rustix::io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(&*place.parent, place.name, &times(entry.mtime), flags)
}

/// Access time is set to the same: what the archive says of it is rarely kept anywhere.
pub(crate) fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: i64::from(mtime.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
