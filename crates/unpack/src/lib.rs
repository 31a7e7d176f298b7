//! Layer stream to directory tree, and back.
//!
//! ```text
//! reader -> Decoder -> chunks, hashed -> entries -> files
//!           gzip, zstd  sha256 of all     header,    openat2 beneath
//!                       bytes = diff id   PAX, GNU   the target
//! ```
//!
//! The result is a layer for OverlayFS: whiteouts become character devices 0:0, opaque
//! directories carry `trusted.overlay.opaque`. The target is a directory of its own for each
//! layer; parents that the archive does not name are made as 0755 root.
//!
//! Layers come from strangers. Parsing is pure and apart from writing; what tools disagree on is
//! refused; every name is resolved beneath the target; [`Limits`] bound time, memory and space.

mod changes;
mod compare;
mod decoder;
mod entry;
mod error;
mod extract;
mod header;
mod opaque;
mod options;
mod pack;
mod path;
mod pax;
mod removal;
mod stream;
mod tree;
mod upper;
mod writer;

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
use std::thread;

use berth_names::Digest;

pub use changes::{Change, changes};
pub use compare::{Compared, compare};
pub use decoder::{Compression, Decoder};
pub use error::{Error, Fault, HeaderFault, Refusal, Result};
pub use extract::{ExtractOptions, extract};
pub use opaque::{Directly, Marker};
pub use options::{Applied, Limits, Options, RatioLimit};
pub use pack::{Packed, TreeOptions, is_window, pack_layer, pack_tree};
pub use upper::Upper;

use entry::Entries;
use stream::{Hashing, Piped, Source, Stream, produce};
use writer::Writer;

/// Chunks on their way between the two threads: 1 MiB.
const CHUNKS_AHEAD: usize = 4;

/// Applies an uncompressed layer archive to the directory `target`, which should be empty and
/// written to by nobody else.
///
/// Reads `reader` to its end, past the archive's end marker: the digest covers every byte.
/// On an error the directory holds part of the layer and is to be discarded.
pub fn apply(reader: impl Read, target: BorrowedFd<'_>, options: &Options) -> Result<Applied> {
    let (tally, source) = apply_chunks(Hashing::new(reader), target, options, &Directly)?;
    Ok(tally.with_digest(source.finish()))
}

/// Applies a layer in whatever compression its first bytes show (gzip, zstd or none).
/// A thread of its own reads, decompresses and hashes, while the caller's thread writes.
///
/// Otherwise like [`apply`]. On an error the call returns as soon as the reader's current
/// `read` does.
pub fn apply_compressed(
    reader: impl Read + Send,
    target: BorrowedFd<'_>,
    options: &Options,
) -> Result<Applied> {
    apply_compressed_by(reader, target, options, &Directly)
}

/// The same, with directories made opaque by `marker`, on the caller's thread.
pub fn apply_compressed_by(
    reader: impl Read + Send,
    target: BorrowedFd<'_>,
    options: &Options,
    marker: &dyn Marker,
) -> Result<Applied> {
    thread::scope(|scope| {
        let (chunks_in, chunks) = sync_channel(CHUNKS_AHEAD);
        let (used, used_out) = sync_channel(CHUNKS_AHEAD + 1);
        let producer = scope.spawn(move || match Decoder::new(reader, options.ratio) {
            Ok(decoder) => Some(produce(Hashing::new(decoder), &chunks_in, &used_out)),
            Err(error) => {
                // Nobody receives only if the other side has failed, and that is reported.
                let _ = chunks_in.send(Err(error));
                None
            }
        });
        let piped = Piped { chunks, used };
        let applied = apply_chunks(piped, target, options, marker).map(|(tally, _)| tally);
        // The channels are closed by now: the producer is at its end, or finds out when it sends.
        let digest = producer.join().unwrap_or_else(|panic| resume_unwind(panic));
        match (applied?, digest) {
            (tally, Some(digest)) => Ok(tally.with_digest(digest)),
            // Without a digest an error was sent, which `applied` has reported.
            (_, None) => Err(Error::Truncated { offset: 0 }),
        }
    })
}

/// What was counted, before the digest is known.
struct Tally {
    bytes: u64,
    entries: u64,
    inodes: u64,
    stream_bytes: u64,
    xattrs_skipped: u64,
}

impl Tally {
    fn with_digest(self, sha256: [u8; 32]) -> Applied {
        let Self {
            bytes,
            entries,
            inodes,
            stream_bytes,
            xattrs_skipped,
        } = self;
        let diff_id = Digest::from_sha256(sha256);
        Applied {
            diff_id,
            bytes,
            entries,
            inodes,
            stream_bytes,
            xattrs_skipped,
        }
    }
}

fn apply_chunks<S: Source>(
    source: S,
    target: BorrowedFd<'_>,
    options: &Options,
    marker: &dyn Marker,
) -> Result<(Tally, S)> {
    let limits = &options.limits;
    let mut stream = Stream::new(source, limits.stream_bytes);
    let mut entries = Entries::new(limits);
    let mut writer = Writer::new(target, limits, marker)?;
    while let Some(entry) = entries.next(&mut stream)? {
        writer.apply(&entry, &mut stream)?;
    }
    stream.drain()?;
    writer.finish()?;
    let tally = Tally {
        bytes: writer.bytes,
        entries: writer.entries,
        inodes: writer.inodes(),
        stream_bytes: stream.offset(),
        xattrs_skipped: writer.xattrs_skipped,
    };
    Ok((tally, stream.into_source()))
}
