//! The write-ahead journal: what makes a commit durable.
//!
//! A group is written here and synced before the engine sees it. The engine's own file is synced
//! only now and then; what it lost in a crash is applied again from here when the store opens.
//!
//! ```text
//! <meta>/journal/<first sequence, 16 hex digits>
//!
//! segment: "BERTHJ1\n"  schema u32  first sequence u64  crc32c u32   records…  zeros
//! record:  payload length u32  crc32c u32  sequence u64  payload
//! payload: (table u8  kind u8  key length u32  key  [value length u32  value])…
//! ```
//!
//! Numbers are little endian; kind is 0 for a removal and 1 for a value. A checksum covers what
//! follows it, a segment's what precedes it. Segments are filled with zeros when they are made: an
//! append then changes neither the file's length nor its extents, and its sync writes data alone.
//! A record is whole or its checksum is wrong; the first that is wrong ends its segment. Every
//! opening of the store begins a segment, so that nothing is ever written behind a torn record.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::disk::Disk;
use crate::engine::{Writes, io};
use crate::schema::TABLES;

const MAGIC: &[u8; 8] = b"BERTHJ1\n";
const SEGMENT_HEADER: usize = 8 + 4 + 8 + 4;
const RECORD_HEADER: usize = 4 + 4 + 8;
pub(crate) const SEGMENT_SIZE: u64 = 1 << 20;
/// No group comes near this: a longer segment is not ours.
const SEGMENT_LIMIT: u64 = 256 << 20;

pub(crate) struct Journal {
    dir: PathBuf,
    schema: u32,
    disk: Disk,
    /// Absent until the first append.
    current: Option<Segment>,
    /// Bytes appended since the store was opened.
    appended: u64,
}

struct Segment {
    file: File,
    path: PathBuf,
    used: u64,
    size: u64,
}

/// What a replay found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Groups that were handed on.
    pub groups: u64,
    /// Sequence of the last one that is there, 0 if there is none.
    pub last: u64,
    /// Sequences that should be there and are not: the first and the last of each gap.
    pub missing: Vec<(u64, u64)>,
}

impl Journal {
    /// Creates the directory; reads nothing.
    pub(crate) fn open(dir: PathBuf, schema: u32, disk: Disk) -> Result<Self, Error> {
        if !dir.exists() {
            fs::create_dir_all(&dir).map_err(io("create directory", &dir))?;
            let parent = dir.parent().unwrap_or(&dir);
            disk.sync_dir(parent)
                .map_err(io("sync directory", parent))?;
        }
        Ok(Self {
            dir,
            schema,
            disk,
            current: None,
            appended: 0,
        })
    }

    pub(crate) fn appended(&self) -> u64 {
        self.appended
    }

    /// How many segments there are.
    pub(crate) fn count(&self) -> Result<u64, Error> {
        Ok(self.segments()?.len() as u64)
    }

    /// Hands on every readable group above `after` that was written under `schema`, in order.
    pub(crate) fn replay(
        &self,
        schema: u32,
        after: u64,
        mut apply: impl FnMut(u64, Writes) -> Result<(), Error>,
    ) -> Result<Replayed, Error> {
        let mut replayed = Replayed::default();
        let mut expected = after + 1;
        for (first, path) in self.segments()? {
            let bytes = read_bounded(&path)?;
            let Some(mut rest) = body(&bytes, schema, first) else {
                tracing::debug!(path = %path.display(), schema, "not a segment of this schema");
                continue;
            };
            while let Some((sequence, writes, behind)) = record(rest) {
                rest = behind;
                replayed.last = replayed.last.max(sequence);
                if sequence < expected {
                    continue;
                }
                if sequence > expected {
                    replayed.missing.push((expected, sequence - 1));
                }
                apply(sequence, writes)?;
                replayed.groups += 1;
                expected = sequence + 1;
            }
        }
        Ok(replayed)
    }

    /// Writes a group behind the last. It is durable after [`Journal::sync`]. A failure leaves the
    /// journal as it was.
    pub(crate) fn append(&mut self, sequence: u64, writes: &Writes) -> Result<(), Error> {
        let bytes = encode(sequence, writes);
        let fits = |segment: &Segment| segment.used + bytes.len() as u64 <= segment.size;
        if !self.current.as_ref().is_some_and(fits) {
            // What is not synced of the old one must not be forgotten with it.
            self.sync()?;
            self.current = Some(self.begin(sequence, bytes.len() as u64)?);
        }
        let Some(segment) = &mut self.current else {
            return Err(Error::Closed);
        };
        self.disk
            .write_at(&segment.file, &bytes, segment.used)
            .map_err(io("write", &segment.path))?;
        segment.used += bytes.len() as u64;
        self.appended += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        match &self.current {
            None => Ok(()),
            Some(segment) => self
                .disk
                .sync(&segment.file)
                .map_err(io(crate::error::SYNC, &segment.path)),
        }
    }

    /// Removes the segments that hold nothing above `through`. The one in use stays.
    pub(crate) fn trim(&self, through: u64) -> Result<usize, Error> {
        let segments = self.segments()?;
        let mut removed = 0;
        for ((_, path), (next, _)) in segments.iter().zip(segments.iter().skip(1)) {
            let in_use = self.current.as_ref().is_some_and(|s| s.path == *path);
            if *next > through + 1 || in_use {
                break;
            }
            fs::remove_file(path).map_err(io("remove", path))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Segments by their first sequence, oldest first. What else lies there is left alone.
    fn segments(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io("list", &self.dir))? {
            let entry = entry.map_err(io("list", &self.dir))?;
            let name = entry.file_name();
            let first = name
                .to_str()
                .filter(|name| name.len() == 16)
                .and_then(|name| u64::from_str_radix(name, 16).ok());
            if let Some(first) = first {
                found.push((first, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }

    fn begin(&self, first: u64, at_least: u64) -> Result<Segment, Error> {
        let size = SEGMENT_SIZE.max(SEGMENT_HEADER as u64 + at_least);
        let name = format!("{first:016x}");
        let path = self.dir.join(&name);
        let temporary = self.dir.join(format!("{name}.new"));
        let made = self.make(&temporary, &path, first, size);
        let file = made.map_err(|source| {
            // Best effort: its name is none of a segment.
            let _ = fs::remove_file(&temporary);
            io("begin journal segment", &path)(source)
        })?;
        Ok(Segment {
            file,
            path,
            used: SEGMENT_HEADER as u64,
            size,
        })
    }

    fn make(&self, temporary: &Path, path: &Path, first: u64, size: u64) -> std::io::Result<File> {
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(temporary)?;
        let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        content[..SEGMENT_HEADER].copy_from_slice(&segment_header(self.schema, first));
        self.disk.write(&mut file, &content)?;
        file.sync_all()?;
        self.disk.rename(temporary, path)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(file)
    }
}

/// The records of a segment, if it is one and of this schema.
fn body(bytes: &[u8], schema: u32, first: u64) -> Option<&[u8]> {
    let (header, records) = bytes.split_at_checked(SEGMENT_HEADER)?;
    (header == segment_header(schema, first)).then_some(records)
}

fn segment_header(schema: u32, first: u64) -> [u8; SEGMENT_HEADER] {
    let mut header = [0; SEGMENT_HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&schema.to_le_bytes());
    header[12..20].copy_from_slice(&first.to_le_bytes());
    let sum = crc32c::crc32c(&header[..20]);
    header[20..].copy_from_slice(&sum.to_le_bytes());
    header
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SEGMENT_LIMIT).read_to_end(&mut bytes))
        .map_err(io("read", path))?;
    Ok(bytes)
}

fn encode(sequence: u64, writes: &Writes) -> Vec<u8> {
    let mut bytes = vec![0; RECORD_HEADER];
    for ((table, key), value) in writes {
        // There are nine tables.
        bytes.push(u8::try_from(*table).unwrap_or(u8::MAX));
        bytes.push(u8::from(value.is_some()));
        put_bytes(&mut bytes, key);
        if let Some(value) = value {
            put_bytes(&mut bytes, value);
        }
    }
    let length = u32::try_from(bytes.len() - RECORD_HEADER).unwrap_or(u32::MAX);
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[8..]);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn put_bytes(bytes: &mut Vec<u8>, part: &[u8]) {
    // Keys and inline values are bounded far below 4 GiB by the batch's encoding.
    let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(part);
}

/// The first record, and what is behind it; none at the end or where it is damaged.
fn record(bytes: &[u8]) -> Option<(u64, Writes, &[u8])> {
    let (length, rest) = take_number(bytes)?;
    let (sum, rest) = take_number(rest)?;
    let covered = 8usize.checked_add(usize::try_from(length).ok()?)?;
    let (covered, behind) = rest.split_at_checked(covered)?;
    if length == 0 || crc32c::crc32c(covered) != sum {
        return None;
    }
    let (sequence, mut payload) = covered.split_first_chunk::<8>()?;
    let mut writes = Writes::new();
    while let Some((&[table, kind], rest)) = payload.split_first_chunk::<2>() {
        let (key, rest) = take_bytes(rest)?;
        let table = usize::from(table);
        if table >= TABLES.len() {
            return None;
        }
        let (value, rest) = match kind {
            0 => (None, rest),
            _ => take_bytes(rest).map(|(value, rest)| (Some(value.to_vec()), rest))?,
        };
        writes.insert((table, key.to_vec()), value);
        payload = rest;
    }
    Some((u64::from_le_bytes(*sequence), writes, behind))
}

fn take_number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number), rest))
}

fn take_bytes(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = take_number(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
