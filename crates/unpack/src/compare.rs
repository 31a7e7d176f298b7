//! Whether a directory still holds what an archive says.
//!
//! A layer has no digest of its own on disk. The archive that it was made from has: what differs
//! from a verified archive was changed since. Nothing is written.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_names::Digest;
use rustix::fs::{FileType, Mode, OFlags, Stat, makedev};
use rustix::io::Errno;

use crate::decoder::Decoder;
use crate::entry::{Content, Entries, Entry, Kind, shown};
use crate::error::{Error, Result};
use crate::opaque::Directly;
use crate::options::{Limits, Options};
use crate::path::{self, Target, split};
use crate::stream::{Hashing, Source, Stream};
use crate::tree::{Tree, file_type, is_whiteout, refused, stat};

/// How many differences are told by name.
const TOLD: usize = 32;

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// sha256 of the uncompressed archive.
    pub diff_id: Digest,
    /// Entries whose file is missing or another one.
    pub differences: usize,
    /// The first of them in the order of their names, each with what is wrong.
    pub told: Vec<(String, &'static str)>,
}

/// Compares a layer archive, compressed or not, with the directory that it was unpacked to: names,
/// kinds, owners, modes, links and every byte. Times and extended attributes are not looked at.
///
/// `read` is told how many bytes were read of the directory's files, and may wait. A file that
/// cannot be read differs.
///
/// # Errors
/// If the archive cannot be read or has never been fit to be unpacked.
pub fn compare(
    reader: impl Read,
    target: BorrowedFd<'_>,
    options: &Options,
    mut read: impl FnMut(u64),
) -> Result<Compared> {
    let limits = &options.limits;
    let decoder =
        Decoder::new(reader, options.ratio).map_err(|source| Error::Read { offset: 0, source })?;
    let mut stream = Stream::new(Hashing::new(decoder), limits.stream_bytes);
    let mut entries = Entries::new(limits);
    let tree =
        Tree::new(target, 0, &Directly).map_err(|source| Error::Read { offset: 0, source })?;
    let mut comparison = Comparison {
        limits,
        tree,
        differing: HashMap::new(),
        buffer: vec![0; 128 << 10],
        read: &mut read,
    };
    while let Some(entry) = entries.next(&mut stream)? {
        comparison.entry(&entry, &mut stream)?;
        stream.skip_padding(entry.stored())?;
    }
    stream.drain()?;
    let differing = comparison.differing;
    let mut told: Vec<_> = differing
        .iter()
        .map(|(path, what)| (shown(path), *what))
        .collect();
    told.sort();
    told.truncate(TOLD);
    Ok(Compared {
        diff_id: Digest::from_sha256(stream.into_source().finish()),
        differences: differing.len(),
        told,
    })
}

struct Comparison<'a> {
    limits: &'a Limits,
    tree: Tree<'static>,
    /// A later entry of the same name decides anew.
    differing: HashMap<Vec<u8>, &'static str>,
    buffer: Vec<u8>,
    read: &'a mut dyn FnMut(u64),
}

/// `Err` says what differs.
type Verdict = std::result::Result<(), &'static str>;

impl Comparison<'_> {
    /// Looks at one entry and consumes its data.
    fn entry<S: Source>(&mut self, entry: &Entry, stream: &mut Stream<S>) -> Result<()> {
        let path = self.normalise(&entry.path)?;
        let target = path::classify(path).map_err(|reason| refused(&entry.path, reason))?;
        let (path, verdict) = match target {
            Target::Path(path) => {
                let verdict = self.thing(&path, entry, stream)?;
                (path, verdict)
            }
            Target::Whiteout(path) => {
                stream.skip(entry.stored())?;
                let verdict = self.present(&path);
                (path, verdict)
            }
            Target::Opaque(path) => {
                stream.skip(entry.stored())?;
                let verdict = self.opaque(&path);
                (path, verdict)
            }
            Target::Ignored => return stream.skip(entry.stored()),
        };
        match verdict {
            Ok(()) => drop(self.differing.remove(&path)),
            Err(what) => drop(self.differing.insert(path, what)),
        }
        Ok(())
    }

    fn normalise(&self, raw: &[u8]) -> Result<Vec<u8>> {
        path::normalise(raw, self.limits.path_bytes, self.limits.depth).map_err(|_| {
            let reason = crate::error::Refusal::EmptyPath;
            refused(raw, reason)
        })
    }

    fn thing<S: Source>(
        &mut self,
        path: &[u8],
        entry: &Entry,
        stream: &mut Stream<S>,
    ) -> Result<Verdict> {
        if let Kind::File(content) = &entry.kind {
            return match self.open_file(path, entry, content) {
                Ok(file) => self.content(&file, content, stream),
                Err(what) => stream.skip(content.stored).map(|()| Err(what)),
            };
        }
        Ok(self.other(path, entry))
    }

    /// Everything that has no data in the archive.
    fn other(&self, path: &[u8], entry: &Entry) -> Verdict {
        if path.is_empty() {
            let root = self.tree.resolve(b"").map_err(|_| "it cannot be opened")?;
            let found = rustix::fs::fstat(&root).map_err(|_| "it cannot be looked at")?;
            return same_owner_and_mode(&found, entry);
        }
        let (parent, found) = self.look(path)?;
        let (_, name) = split(path);
        let kind = file_type(&found);
        let same_node = |expected: FileType, major: u32, minor: u32| {
            kind == expected && found.st_rdev == makedev(major, minor)
        };
        let is_same = match &entry.kind {
            Kind::File(_) => false,
            Kind::Directory => kind == FileType::Directory,
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(&parent, name, Vec::new());
                kind == FileType::Symlink && target.is_ok_and(|t| t.as_bytes() == entry.link)
            }
            // Owner and mode are those of the file that it is a name of.
            Kind::HardLink => {
                let to = self
                    .normalise(&entry.link)
                    .map_err(|_| "it is another link")?;
                let (_, linked) = self.look(&to)?;
                let same = (linked.st_dev, linked.st_ino) == (found.st_dev, found.st_ino);
                return if same {
                    Ok(())
                } else {
                    Err("it is another file")
                };
            }
            Kind::CharacterDevice(major, minor) => {
                same_node(FileType::CharacterDevice, *major, *minor)
            }
            Kind::BlockDevice(major, minor) => same_node(FileType::BlockDevice, *major, *minor),
            Kind::Fifo => kind == FileType::Fifo,
        };
        match (is_same, &entry.kind) {
            (false, _) => Err("it is something else"),
            // The kernel gives links a mode of its own.
            (true, Kind::Symlink) => same_owner(&found, entry),
            (true, _) => same_owner_and_mode(&found, entry),
        }
    }

    /// The parent of what is at `path`, and what that is.
    fn look(&self, path: &[u8]) -> std::result::Result<(OwnedFd, Stat), &'static str> {
        let (parent, name) = split(path);
        let parent = self
            .tree
            .resolve(parent)
            .map_err(|_| "its directory is gone")?;
        match stat(&parent, name) {
            Ok(Some(found)) => Ok((parent, found)),
            Ok(None) => Err("it is gone"),
            Err(_) => Err("it cannot be looked at"),
        }
    }

    fn present(&self, path: &[u8]) -> Verdict {
        self.look(path).map(drop)
    }

    fn opaque(&self, path: &[u8]) -> Verdict {
        let dir = self.tree.resolve(path).map_err(|_| "it is gone")?;
        let mut value = [0u8; 1];
        match rustix::fs::fgetxattr(&dir, berth_kernel::overlay_marks().opaque, &mut value) {
            Ok(1) if value == *b"y" => Ok(()),
            _ => Err("it is not opaque"),
        }
    }

    fn open_file(
        &self,
        path: &[u8],
        entry: &Entry,
        content: &Content,
    ) -> std::result::Result<OwnedFd, &'static str> {
        let (parent, found) = self.look(path)?;
        if file_type(&found) != FileType::RegularFile || is_whiteout(&found) {
            return Err("it is something else");
        }
        same_owner_and_mode(&found, entry)?;
        if u64::try_from(found.st_size) != Ok(content.apparent_size()) {
            return Err("its size is another one");
        }
        let (_, name) = split(path);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty())
            .map_err(|_| "it cannot be opened")
    }

    /// Compares data and consumes it, also where it differs.
    fn content<S: Source>(
        &mut self,
        file: &OwnedFd,
        content: &Content,
        stream: &mut Stream<S>,
    ) -> Result<Verdict> {
        let whole = [(0, content.stored)];
        let segments = match &content.sparse {
            None => &whole[..],
            Some((segments, _)) => segments,
        };
        let mut verdict = Ok(());
        for &(offset, length) in segments {
            let mut at = offset;
            stream.data(length, |piece| {
                let mut piece = piece;
                while !piece.is_empty() && verdict.is_ok() {
                    let count = piece.len().min(self.buffer.len());
                    verdict = same_bytes(file, at, &piece[..count], &mut self.buffer[..count]);
                    (self.read)(count as u64);
                    at += count as u64;
                    piece = &piece[count..];
                }
                Ok(())
            })?;
        }
        Ok(verdict)
    }
}

fn same_bytes(file: &OwnedFd, at: u64, expected: &[u8], buffer: &mut [u8]) -> Verdict {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], at + filled as u64) {
            Ok(0) => return Err("it ends early"),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(_) => return Err("it cannot be read"),
        }
    }
    if buffer == expected {
        Ok(())
    } else {
        Err("its content is another one")
    }
}

fn same_owner(found: &Stat, entry: &Entry) -> Verdict {
    match (found.st_uid, found.st_gid) == (entry.uid, entry.gid) {
        true => Ok(()),
        false => Err("its owner is another one"),
    }
}

fn same_owner_and_mode(found: &Stat, entry: &Entry) -> Verdict {
    same_owner(found, entry)?;
    match found.st_mode & 0o7777 == entry.mode & 0o7777 {
        true => Ok(()),
        false => Err("its mode is another one"),
    }
}
