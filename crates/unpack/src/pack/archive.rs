//! Files to entries.
//!
//! Whoever owns the tree may change it meanwhile. A name is opened once, without following a link
//! and without opening what it stands for (`O_PATH`); what it turns out to be is decided by that
//! descriptor, and only regular files and directories are ever opened: never a device or a fifo.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, OFlags, Stat, major, minor};
use rustix::io::Errno;

use super::block::{self, Head};
use crate::entry::shown;
use crate::error::{Error, Result};
use crate::writer::is_ours_to_set;

/// Bytes of the names of files with several of them that are remembered. Files beyond that are
/// written once for each name.
const LINK_BYTES: usize = 64 << 20;
const BUFFER: usize = 128 << 10;
/// The kernel's limit for the list of names and for one value (xattr(7)).
const XATTR: usize = 64 << 10;

/// What was packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// Whiteouts included.
    pub entries: u64,
    /// Of the archive.
    pub bytes: u64,
}

pub(crate) struct Archive<W> {
    out: W,
    head: Vec<u8>,
    buffer: Vec<u8>,
    /// Names of attributes.
    list: Vec<u8>,
    links: HashMap<(u64, u64), Vec<u8>>,
    link_bytes: usize,
    /// No entry is younger, in seconds since 1970.
    latest: i64,
    packed: Packed,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            head: Vec::new(),
            buffer: vec![0; BUFFER],
            list: vec![0; XATTR],
            links: HashMap::new(),
            link_bytes: 0,
            latest: i64::MAX,
            packed: Packed::default(),
        }
    }

    pub fn no_younger_than(self, latest: i64) -> Self {
        Self { latest, ..self }
    }

    /// The end marker: two zero blocks.
    pub fn finish(mut self) -> Result<Packed> {
        self.send(&[0; 1024])?;
        self.out.flush().map_err(Error::Sink)?;
        Ok(self.packed)
    }

    /// Writes a directory that is open for reading, without what is in it.
    pub fn directory(&mut self, dir: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<()> {
        let xattrs = xattrs(dir, path, &mut self.list)?;
        let mut path = path.to_vec();
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        self.entry(&Head {
            path: &path,
            kind: block::DIRECTORY,
            xattrs: &xattrs,
            ..looks(stat)
        })
    }

    /// Writes what a descriptor opened with `O_PATH` stands for, unless that is a directory. A
    /// socket is left out: it lives with its process.
    pub fn object(&mut self, handle: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket || kind == FileType::Directory {
            return Ok(());
        }
        if stat.st_nlink > 1 && self.linked(stat, path)? {
            return Ok(());
        }
        let device = (major(stat.st_rdev), minor(stat.st_rdev));
        match kind {
            FileType::RegularFile => self.file(handle, stat, path),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(handle, c"", Vec::new())
                    .map_err(|errno| failed(path, errno))?;
                self.entry(&Head {
                    path,
                    kind: block::SYMLINK,
                    link: target.as_bytes(),
                    ..looks(stat)
                })
            }
            other => self.entry(&Head {
                path,
                kind: match other {
                    FileType::CharacterDevice => block::CHARACTER_DEVICE,
                    FileType::BlockDevice => block::BLOCK_DEVICE,
                    _ => block::FIFO,
                },
                device: if other == FileType::Fifo {
                    (0, 0)
                } else {
                    device
                },
                ..looks(stat)
            }),
        }
    }

    /// An empty file whose name alone says something, with the looks of `stat` if there is one.
    pub fn marker(&mut self, path: &[u8], stat: Option<&Stat>) -> Result<()> {
        let looks = stat.map(looks).unwrap_or_default();
        self.entry(&Head {
            path,
            kind: block::FILE,
            mode: looks.mode & 0o777,
            ..looks
        })
    }

    /// Writes a further name of a file that was written. False for one that was not.
    fn linked(&mut self, stat: &Stat, path: &[u8]) -> Result<bool> {
        let identity = (stat.st_dev, stat.st_ino);
        let Some(first) = self.links.get(&identity).cloned() else {
            if self.link_bytes + path.len() <= LINK_BYTES {
                self.link_bytes += path.len();
                self.links.insert(identity, path.to_vec());
            }
            return Ok(false);
        };
        self.entry(&Head {
            path,
            kind: block::HARD_LINK,
            link: &first,
            ..looks(stat)
        })?;
        Ok(true)
    }

    /// A file that shrinks meanwhile is filled up with zeros, one that grows is cut.
    fn file(&mut self, handle: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = berth_kernel::reopen(handle, flags).map_err(|errno| failed(path, errno))?;
        let xattrs = xattrs(&file, path, &mut self.list)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.entry(&Head {
            path,
            kind: block::FILE,
            size,
            xattrs: &xattrs,
            ..looks(stat)
        })?;
        let mut content = std::fs::File::from(file);
        let mut buffer = std::mem::take(&mut self.buffer);
        let (mut left, mut ended) = (size, false);
        while left > 0 {
            let wanted = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let mut count = 0;
            if !ended {
                count = match content.read(&mut buffer[..wanted]) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    read => read.map_err(|source| Error::Source {
                        entry: shown(path),
                        source,
                    })?,
                };
            }
            if count == 0 {
                ended = true;
                count = wanted;
                buffer[..wanted].fill(0);
            }
            self.send(&buffer[..count])?;
            left -= count as u64;
        }
        self.buffer = buffer;
        let padding = [0; crate::stream::BLOCK];
        let short = usize::try_from(size.wrapping_neg() % 512).unwrap_or(0);
        self.send(&padding[..short])
    }

    fn entry(&mut self, head: &Head<'_>) -> Result<()> {
        let mut bytes = std::mem::take(&mut self.head);
        bytes.clear();
        let mtime = head.mtime.min(self.latest);
        block::put(&mut bytes, &Head { mtime, ..*head });
        let sent = self.send(&bytes);
        self.head = bytes;
        self.packed.entries += 1;
        sent
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.packed.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(Error::Sink)
    }
}

/// Owner, mode and time, to the second as other tools write it.
fn looks(stat: &Stat) -> Head<'static> {
    Head {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
        ..Head::default()
    }
}

/// Those that unpacking sets too, sorted.
fn xattrs(file: &OwnedFd, path: &[u8], list: &mut [u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let length = match rustix::fs::flistxattr(file, &mut list[..]) {
        Ok(0) | Err(Errno::NOTSUP | Errno::NODATA) => return Ok(Vec::new()),
        Ok(length) => length,
        Err(errno) => return Err(failed(path, errno)),
    };
    let mut found = Vec::new();
    let mut value = vec![0; XATTR];
    let names = list[..length].split(|&byte| byte == 0);
    for name in names.filter(|name| is_packed(name)) {
        match rustix::fs::fgetxattr(file, name, &mut value[..]) {
            Ok(length) => found.push((name.to_vec(), value[..length].to_vec())),
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(failed(path, errno)),
        }
    }
    found.sort();
    Ok(found)
}

/// Overlays of ordinary users keep their own attributes among the users'. A PAX key ends at its
/// first equals sign.
fn is_packed(name: &[u8]) -> bool {
    is_ours_to_set(name) && !name.starts_with(b"user.overlay.") && !name.contains(&b'=')
}

pub(crate) fn failed(path: &[u8], errno: Errno) -> Error {
    Error::Source {
        entry: shown(path),
        source: errno.into(),
    }
}

/// Opens a name without following a link and without opening what it stands for. `None` if it is
/// gone.
pub(crate) fn look(dir: impl AsFd, name: &[u8], path: &[u8]) -> Result<Option<(OwnedFd, Stat)>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = match rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty()) {
        Ok(handle) => handle,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => return Ok(None),
        Err(errno) => return Err(failed(path, errno)),
    };
    let stat = rustix::fs::fstat(&handle).map_err(|errno| failed(path, errno))?;
    Ok(Some((handle, stat)))
}
