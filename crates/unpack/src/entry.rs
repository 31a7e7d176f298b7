//! Entries: headers with their extensions applied.
//!
//! Where tools disagree on what an archive means, it is refused: a layer must not hold one tree
//! for a scanner and another one for us.

use crate::error::{Error, HeaderFault, Result};
use crate::header::{Header, OldSparse};
use crate::options::Limits;
use crate::pax::{Pax, PaxSparse, Timestamp, decimal};
use crate::stream::{BLOCK, Source, Stream};

/// Sizes from here on do not fit the eleven octal digits of a header.
const OCTAL_SIZE_END: u64 = 1 << 33;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File(Content),
    Directory,
    Symlink,
    HardLink,
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// What follows the header of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    /// Bytes in the archive, without padding.
    pub stored: u64,
    /// Offsets and lengths of the pieces, and the size of the whole.
    pub sparse: Option<(Vec<(u64, u64)>, u64)>,
}

impl Content {
    /// Size of the file, holes included.
    pub fn apparent_size(&self) -> u64 {
        self.sparse.as_ref().map_or(self.stored, |(_, size)| *size)
    }
}

/// An entry. Its data, if any, is next in the stream and has to be read or skipped, with its
/// padding, before the next entry is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As in the archive: nothing is validated.
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    /// Permission bits, setuid, setgid and sticky bit included.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Bytes in the archive, without padding.
    pub fn stored(&self) -> u64 {
        match &self.kind {
            Kind::File(content) => content.stored,
            _ => 0,
        }
    }
}

/// Extended headers that wait for their entry.
#[derive(Default)]
struct Pending {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

/// Reads entries one by one.
pub(crate) struct Entries<'l> {
    limits: &'l Limits,
    global: Pax,
    /// Headers so far, extended ones included.
    headers: u64,
    last_path: Vec<u8>,
}

impl<'l> Entries<'l> {
    pub fn new(limits: &'l Limits) -> Self {
        Self {
            limits,
            global: Pax::default(),
            headers: 0,
            last_path: Vec::new(),
        }
    }

    /// The next entry, or `None` at the end of the archive.
    pub fn next<S: Source>(&mut self, stream: &mut Stream<S>) -> Result<Option<Entry>> {
        let mut pending = Pending::default();
        loop {
            let at = stream.offset();
            let fault = |reason| Error::Header { offset: at, reason };
            let Some(header) = next_header(stream)? else {
                let dangling = fault(HeaderFault::DanglingExtension);
                return if pending.is_empty() {
                    Ok(None)
                } else {
                    Err(dangling)
                };
            };
            self.count(&header)?;
            match header.typeflag {
                b'x' => {
                    let data = self.extension(stream, &header)?;
                    let pax = Pax::parse(&data).map_err(fault)?;
                    set_once(&mut pending.pax, pax).map_err(fault)?;
                }
                b'g' if pending.is_empty() => {
                    let data = self.extension(stream, &header)?;
                    self.global.merge_global(&data).map_err(fault)?;
                }
                b'g' => return Err(fault(HeaderFault::DanglingExtension)),
                b'L' => {
                    let name = long_name(self.extension(stream, &header)?).map_err(fault)?;
                    set_once(&mut pending.long_name, name).map_err(fault)?;
                }
                b'K' => {
                    let link = long_name(self.extension(stream, &header)?).map_err(fault)?;
                    set_once(&mut pending.long_link, link).map_err(fault)?;
                }
                _ => {
                    let entry = self.assemble(stream, header, pending, at)?;
                    self.last_path.clone_from(&entry.path);
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn count(&mut self, header: &Header) -> Result<()> {
        self.headers += 1;
        if self.headers > self.limits.entries {
            let entry = shown(&header.name);
            return Err(Error::Limit {
                entry,
                what: "entries",
                max: self.limits.entries,
            });
        }
        Ok(())
    }

    /// Reads the data of an extended header.
    fn extension<S: Source>(&self, stream: &mut Stream<S>, header: &Header) -> Result<Vec<u8>> {
        let max = self.limits.extension_bytes;
        if header.size > max {
            let entry = shown(&self.last_path);
            let what = "bytes of extended header (after this entry)";
            return Err(Error::Limit { entry, what, max });
        }
        let mut data = Vec::new();
        stream.data(header.size, |piece| {
            data.extend_from_slice(piece);
            Ok(())
        })?;
        stream.skip_padding(header.size)?;
        Ok(data)
    }

    fn assemble<S: Source>(
        &self,
        stream: &mut Stream<S>,
        header: Header,
        pending: Pending,
        at: u64,
    ) -> Result<Entry> {
        let fault = |reason| Error::Header { offset: at, reason };
        let Pending {
            pax,
            long_name,
            long_link,
        } = pending;
        let pax = pax.unwrap_or_default();
        let named = pax.path.is_some() || pax.sparse.name.is_some();
        let twice = (named && long_name.is_some()) || (pax.link.is_some() && long_link.is_some());
        if twice {
            return Err(fault(HeaderFault::DuplicateExtension));
        }
        let size = effective_size(&header, pax.size).map_err(fault)?;
        let path = pax
            .sparse
            .name
            .clone()
            .or(pax.path)
            .or(long_name)
            .unwrap_or(header.name);
        let seconds = header.mtime;
        let kind = match header.typeflag {
            // Before POSIX a directory was told by its name; GNU tar still goes by it.
            0 | b'0' | b'7' if path.ends_with(b"/") && !pax.sparse.is_used() => Kind::Directory,
            0 | b'0' | b'7' => {
                Kind::File(self.pax_content(stream, size, &pax.sparse, &path, at)?)
            }
            b'S' => Kind::File(self.old_sparse_content(stream, size, header.sparse, &path, at)?),
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharacterDevice(header.device.0, header.device.1),
            b'4' => Kind::BlockDevice(header.device.0, header.device.1),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(fault(HeaderFault::UnknownType(other))),
        };
        let file = matches!(kind, Kind::File(_));
        if !file && size != 0 {
            return Err(fault(HeaderFault::UnexpectedData));
        }
        if pax.sparse.is_used() && (!file || header.typeflag == b'S') {
            return Err(fault(HeaderFault::SparseMap));
        }
        Ok(Entry {
            path,
            link: pax.link.or(long_link).unwrap_or(header.link),
            kind,
            mode: header.mode,
            uid: pax.uid.or(self.global.uid).unwrap_or(header.uid),
            gid: pax.gid.or(self.global.gid).unwrap_or(header.gid),
            mtime: pax.mtime.or(self.global.mtime).unwrap_or(Timestamp {
                seconds,
                nanoseconds: 0,
            }),
            xattrs: pax.xattrs,
        })
    }

    /// Content of a plain file, or of one in a PAX sparse format.
    fn pax_content<S: Source>(
        &self,
        stream: &mut Stream<S>,
        size: u64,
        sparse: &PaxSparse,
        path: &[u8],
        at: u64,
    ) -> Result<Content> {
        if !sparse.is_used() {
            return Ok(Content {
                stored: size,
                sparse: None,
            });
        }
        let fault = Error::Header {
            offset: at,
            reason: HeaderFault::SparseMap,
        };
        let Some(real_size) = sparse.real_size else {
            return Err(fault);
        };
        let (numbers, stored) = match (sparse.major, sparse.minor) {
            (Some(1), Some(0)) if sparse.map.is_empty() => {
                self.map_in_data(stream, size, path, at)?
            }
            (None | Some(0), None | Some(0 | 1))
                if sparse
                    .blocks
                    .is_none_or(|n| n == sparse.map.len() as u64 / 2) =>
            {
                (sparse.map.clone(), size)
            }
            _ => return Err(fault),
        };
        if !numbers.len().is_multiple_of(2) {
            return Err(fault);
        }
        let segments = numbers
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect();
        self.sparse_content(stored, segments, real_size, path, at)
    }

    /// Reads the map of sparse format 1.0, which precedes the data: decimal lines, padded to a
    /// block. Returns its numbers and the bytes that remain.
    fn map_in_data<S: Source>(
        &self,
        stream: &mut Stream<S>,
        size: u64,
        path: &[u8],
        at: u64,
    ) -> Result<(Vec<u64>, u64)> {
        let fault = || Error::Header {
            offset: at,
            reason: HeaderFault::SparseMap,
        };
        let mut left = size;
        let mut line = Vec::new();
        let mut expected = None;
        let mut numbers = Vec::new();
        while expected.is_none_or(|count| numbers.len() < count) {
            left = left.checked_sub(BLOCK as u64).ok_or_else(fault)?;
            for byte in stream.expect_block()? {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(fault());
                    }
                    continue;
                }
                let number = decimal(&line).ok_or_else(fault)?;
                line.clear();
                match expected {
                    None => expected = Some(self.segment_count(number, path)? * 2),
                    Some(_) => numbers.push(number),
                }
                if expected.is_some_and(|count| numbers.len() == count) {
                    break;
                }
            }
        }
        Ok((numbers, left))
    }

    fn old_sparse_content<S: Source>(
        &self,
        stream: &mut Stream<S>,
        size: u64,
        sparse: Option<OldSparse>,
        path: &[u8],
        at: u64,
    ) -> Result<Content> {
        let fault = |reason| Error::Header { offset: at, reason };
        let mut sparse = sparse.ok_or_else(|| fault(HeaderFault::SparseMap))?;
        while sparse.extended {
            let block = stream.expect_block()?;
            sparse.extend(&block).map_err(fault)?;
            self.segment_count(sparse.segments.len() as u64, path)?;
        }
        self.sparse_content(size, sparse.segments, sparse.real_size, path, at)
    }

    fn segment_count(&self, count: u64, path: &[u8]) -> Result<usize> {
        let max = self.limits.sparse_segments;
        match usize::try_from(count) {
            Ok(count) if count <= max => Ok(count),
            _ => {
                let entry = shown(path);
                Err(Error::Limit {
                    entry,
                    what: "sparse segments",
                    max: max as u64,
                })
            }
        }
    }

    /// Segments have to be in order, apart from each other, and as long as the data.
    fn sparse_content(
        &self,
        stored: u64,
        segments: Vec<(u64, u64)>,
        real_size: u64,
        path: &[u8],
        at: u64,
    ) -> Result<Content> {
        self.segment_count(segments.len() as u64, path)?;
        let mut end = 0u64;
        let mut total = 0u64;
        for &(offset, length) in &segments {
            let next = offset
                .checked_add(length)
                .filter(|&next| offset >= end && next <= real_size);
            let Some(next) = next else {
                return Err(Error::Header {
                    offset: at,
                    reason: HeaderFault::SparseMap,
                });
            };
            end = next;
            total += length;
        }
        if total != stored {
            return Err(Error::Header {
                offset: at,
                reason: HeaderFault::SparseMap,
            });
        }
        Ok(Content {
            stored,
            sparse: Some((segments, real_size)),
        })
    }
}

/// The next header; `None` at the end marker (two zero blocks) or the end of the stream.
fn next_header<S: Source>(stream: &mut Stream<S>) -> Result<Option<Header>> {
    let offset = stream.offset();
    let Some(block) = stream.block()? else {
        return Ok(None);
    };
    if block == [0; BLOCK] {
        return match stream.block()? {
            Some(second) if second != [0; BLOCK] => Err(Error::Header {
                offset,
                reason: HeaderFault::LoneZeroBlock,
            }),
            _ => Ok(None),
        };
    }
    Header::parse(&block)
        .map(Some)
        .map_err(|reason| Error::Header { offset, reason })
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> std::result::Result<(), HeaderFault> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeaderFault::DuplicateExtension),
    }
}

/// The data of a GNU long name header ends in a NUL.
fn long_name(mut data: Vec<u8>) -> std::result::Result<Vec<u8>, HeaderFault> {
    match data.iter().position(|&b| b == 0) {
        Some(end) if end > 0 && data[end..].iter().all(|&b| b == 0) => {
            data.truncate(end);
            Ok(data)
        }
        _ => Err(HeaderFault::LongName),
    }
}

/// A PAX size beside a smaller one in the header lets one reader see entries inside what
/// another reader takes for data. They may differ only where the header cannot hold the size.
fn effective_size(header: &Header, pax: Option<u64>) -> std::result::Result<u64, HeaderFault> {
    match pax {
        None => Ok(header.size),
        Some(size) if size == header.size => Ok(size),
        Some(size) if size >= OCTAL_SIZE_END && matches!(header.size, 0 | 0o77777777777) => {
            Ok(size)
        }
        Some(_) => Err(HeaderFault::SizeDisagreement),
    }
}

/// A path for messages: printable and of bounded length.
pub(crate) fn shown(path: &[u8]) -> String {
    const SHOWN: usize = 200;
    let clipped = &path[..path.len().min(SHOWN)];
    let dots = if path.len() > SHOWN { "…" } else { "" };
    format!("{}{dots}", String::from_utf8_lossy(clipped))
}
