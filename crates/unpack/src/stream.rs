//! The archive's bytes, in chunks, hashed on the way.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// A multiple of the block size, so that blocks rarely straddle two chunks.
pub(crate) const CHUNK: usize = 256 << 10;
pub(crate) const BLOCK: usize = 512;

/// Where chunks come from.
pub(crate) trait Source {
    /// The next chunk, or an empty one at the end. `used` is the previous chunk, for reuse.
    fn next(&mut self, used: Vec<u8>) -> io::Result<Vec<u8>>;
}

/// Reads and hashes on the caller's thread, or on the producer's.
pub(crate) struct Hashing<R> {
    reader: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            hash: Sha256::new(),
        }
    }

    /// sha256 of everything read.
    pub fn finish(self) -> [u8; 32] {
        self.hash.finalize().into()
    }
}

impl<R: Read> Source for Hashing<R> {
    fn next(&mut self, mut chunk: Vec<u8>) -> io::Result<Vec<u8>> {
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        while filled < chunk.len() {
            match self.reader.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        chunk.truncate(filled);
        self.hash.update(&chunk);
        Ok(chunk)
    }
}

/// Receives chunks from a thread that runs [`produce`].
pub(crate) struct Piped {
    pub chunks: Receiver<io::Result<Vec<u8>>>,
    pub used: SyncSender<Vec<u8>>,
}

impl Source for Piped {
    fn next(&mut self, used: Vec<u8>) -> io::Result<Vec<u8>> {
        if used.capacity() > 0 {
            // A full or closed return channel costs an allocation, nothing else.
            let _ = self.used.try_send(used);
        }
        // The producer closes the channel after it has sent the empty chunk.
        self.chunks.recv().unwrap_or_else(|_| Ok(Vec::new()))
    }
}

/// Sends chunks until the reader ends or fails, or nobody receives any more.
pub(crate) fn produce<R: Read>(
    mut source: Hashing<R>,
    chunks: &SyncSender<io::Result<Vec<u8>>>,
    used: &Receiver<Vec<u8>>,
) -> [u8; 32] {
    loop {
        let chunk = source.next(used.try_recv().unwrap_or_default());
        let last = chunk.as_ref().map_or(true, Vec::is_empty);
        if chunks.send(chunk).is_err() || last {
            return source.finish();
        }
    }
}

/// The archive as a sequence of blocks and data.
pub(crate) struct Stream<S> {
    source: S,
    chunk: Vec<u8>,
    position: usize,
    /// Bytes handed out so far.
    offset: u64,
    /// Bytes received so far, and how many there may be.
    received: u64,
    max: u64,
    ended: bool,
}

impl<S: Source> Stream<S> {
    pub fn new(source: S, max: u64) -> Self {
        let chunk = Vec::new();
        Self {
            source,
            chunk,
            position: 0,
            offset: 0,
            received: 0,
            max,
            ended: false,
        }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn into_source(self) -> S {
        self.source
    }

    /// What is at hand of the archive; empty at its end.
    fn available(&mut self) -> Result<&[u8]> {
        if self.position == self.chunk.len() && !self.ended {
            let used = std::mem::take(&mut self.chunk);
            self.chunk = self.source.next(used).map_err(|source| Error::Read {
                offset: self.received,
                source,
            })?;
            self.position = 0;
            self.ended = self.chunk.is_empty();
            self.received += self.chunk.len() as u64;
            if self.received > self.max {
                return Err(Error::TooLarge { max: self.max });
            }
        }
        Ok(&self.chunk[self.position..])
    }

    fn advance(&mut self, count: usize) {
        self.position += count;
        self.offset += count as u64;
    }

    /// The next block, or `None` at the end of the stream.
    pub fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.available()?;
            if available.is_empty() {
                let offset = self.offset;
                return if filled == 0 {
                    Ok(None)
                } else {
                    Err(Error::Truncated { offset })
                };
            }
            let count = available.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&available[..count]);
            filled += count;
            self.advance(count);
        }
        Ok(Some(block))
    }

    /// A block that must be there.
    pub fn expect_block(&mut self) -> Result<[u8; BLOCK]> {
        let offset = self.offset;
        self.block()?.ok_or(Error::Truncated { offset })
    }

    /// Hands exactly `length` bytes to `take`, in pieces.
    pub fn data(&mut self, length: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let available = self.available()?;
            if available.is_empty() {
                return Err(Error::Truncated {
                    offset: self.offset,
                });
            }
            let count = available
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            take(&available[..count])?;
            self.advance(count);
            left -= count as u64;
        }
        Ok(())
    }

    pub fn skip(&mut self, length: u64) -> Result<()> {
        self.data(length, |_| Ok(()))
    }

    /// Skips what fills up the last block of `length` bytes of data.
    pub fn skip_padding(&mut self, length: u64) -> Result<()> {
        self.skip(length.wrapping_neg() % BLOCK as u64)
    }

    /// Reads to the end of the stream.
    pub fn drain(&mut self) -> Result<()> {
        loop {
            let count = self.available()?.len();
            if count == 0 {
                return Ok(());
            }
            self.advance(count);
        }
    }
}
