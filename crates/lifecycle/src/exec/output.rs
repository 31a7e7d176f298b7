//! Keeping the beginning of what a command prints.
//!
//! The contract wants the answer capped at 16 MB and the rest dropped while the command goes on
//! (CVE-2022-1708, CVE-2022-31030). Clients take messages of 16 MiB, so the cap is for both streams
//! together, with the note at the end of a stream that was cut.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Of both streams together, notes included.
const MAX_ANSWER: usize = (16 << 20) - (4 << 10);
/// Each stream has this for itself: a flood on one must not hide an error on the other.
const OWN: usize = 1 << 20;
const SHARED: usize = MAX_ANSWER - 2 * (OWN + MAX_NOTE);
const MAX_NOTE: usize = 128;
/// By how much the kept output grows: doubling could take twice of what is needed.
const STEP: usize = 1 << 20;
const CHUNK: usize = 32 << 10;

/// What the streams of a command may still take from each other.
#[derive(Debug)]
pub struct Shared(AtomicUsize);

impl Default for Shared {
    fn default() -> Self {
        Self(AtomicUsize::new(SHARED))
    }
}

impl Shared {
    /// Up to `wanted` bytes.
    fn take(&self, wanted: usize) -> usize {
        let mut got = 0;
        // Always some: the closure never refuses.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                got = wanted.min(left);
                Some(left - got)
            });
        got
    }
}

/// The beginning of a stream.
#[derive(Debug)]
pub struct Kept<'a> {
    bytes: Vec<u8>,
    room: usize,
    shared: &'a Shared,
    dropped: u64,
}

impl<'a> Kept<'a> {
    pub fn new(shared: &'a Shared) -> Self {
        Self {
            bytes: Vec::new(),
            room: OWN,
            shared,
            dropped: 0,
        }
    }

    pub fn push(&mut self, chunk: &[u8]) {
        if chunk.len() > self.room {
            self.room += self.shared.take(chunk.len() - self.room);
        }
        let kept = chunk.len().min(self.room);
        self.room -= kept;
        if self.bytes.capacity() - self.bytes.len() < kept {
            self.bytes
                .reserve_exact(kept.max(STEP.min(self.bytes.len())));
        }
        self.bytes.extend_from_slice(&chunk[..kept]);
        self.dropped += (chunk.len() - kept) as u64;
    }

    /// What was kept, and at its end how much was not.
    pub fn finish(mut self) -> Vec<u8> {
        if self.dropped > 0 {
            let note = format!(
                "\n[output truncated: {} more bytes were dropped]\n",
                self.dropped
            );
            self.bytes.reserve_exact(note.len());
            self.bytes.extend_from_slice(note.as_bytes());
        }
        self.bytes
    }
}

/// Reads the next chunk into `kept`; false at the end.
pub async fn step<R: AsyncRead + Unpin>(
    pipe: &mut R,
    buffer: &mut [u8],
    kept: &mut Kept<'_>,
) -> bool {
    match pipe.read(buffer).await {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            kept.push(&buffer[..count]);
            true
        }
    }
}

pub fn buffer() -> Vec<u8> {
    vec![0; CHUNK]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flood(kept: &mut Kept<'_>, bytes: usize) {
        let chunk = vec![b'x'; CHUNK];
        for _ in 0..bytes / CHUNK {
            kept.push(&chunk);
        }
    }

    #[test]
    fn both_streams_together_fit_a_message_and_say_what_is_missing() {
        let shared = Shared::default();
        let (mut out, mut err) = (Kept::new(&shared), Kept::new(&shared));
        flood(&mut out, 64 << 20);
        flood(&mut err, 64 << 20);
        let (out, err) = (out.finish(), err.finish());
        assert!(out.len() + err.len() <= MAX_ANSWER);
        assert!(out.capacity() + err.capacity() <= MAX_ANSWER + 2 * STEP);
        for (stream, least) in [(&out, 12 << 20), (&err, 1 << 20)] {
            assert!(stream.len() > least, "{}", stream.len());
            let end = String::from_utf8_lossy(&stream[stream.len() - 100..]).into_owned();
            assert!(end.contains("more bytes were dropped]"), "{end}");
        }
        let kept = out.iter().filter(|byte| **byte == b'x').count();
        let note = format!("{} more bytes", (64 << 20) - kept);
        assert!(String::from_utf8_lossy(&out[kept..]).contains(&note));
    }

    #[test]
    fn an_error_is_kept_although_the_output_floods() {
        let shared = Shared::default();
        let (mut out, mut err) = (Kept::new(&shared), Kept::new(&shared));
        flood(&mut out, 64 << 20);
        err.push(b"what went wrong");
        assert_eq!(err.finish(), b"what went wrong");
    }

    #[test]
    fn what_fits_is_kept_as_it_is() {
        let shared = Shared::default();
        let mut out = Kept::new(&shared);
        flood(&mut out, 4 << 20);
        assert_eq!(out.finish(), vec![b'x'; 4 << 20]);
    }
}
