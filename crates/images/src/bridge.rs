//! From async bytes to blocking readers, with an end that cannot be mistaken for a break.
//!
//! A channel that closes without [`Piece::End`] means that the sender gave up: the reader fails
//! instead of taking what arrived for the whole.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Buf, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many pieces wait between two stages.
pub(crate) const DEPTH: usize = 16;
/// Bytes of a layer that are between the network and its last reader. A piece is as large as the
/// network gives it, up to hundreds of KiB, so their number alone bounds nothing.
const IN_FLIGHT: u32 = 1 << 20;

pub(crate) enum Piece {
    Data(Part),
    End,
}

/// What came at once, and its share of what may be in flight until nobody holds it any more.
pub(crate) struct Part {
    pub bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// What may be in flight of one layer.
pub(crate) struct InFlight(Arc<Semaphore>);

impl InFlight {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(IN_FLIGHT as usize)))
    }

    /// Waits until there is room for `bytes`. Larger ones than all the room have it for themselves.
    pub(crate) async fn admit(&self, bytes: Bytes) -> Part {
        let share = u32::try_from(bytes.len()).map_or(IN_FLIGHT, |length| length.min(IN_FLIGHT));
        // Nobody closes the semaphore.
        let share = Arc::clone(&self.0).acquire_many_owned(share).await.ok();
        Part {
            bytes,
            _share: share,
        }
    }
}

/// The blocking side's writing end.
pub(crate) struct PieceSender(SyncSender<Piece>);

/// Reads what the other side sends.
pub(crate) struct PieceReader {
    pieces: Receiver<Piece>,
    current: Option<Part>,
    ended: bool,
}

pub(crate) fn pieces() -> (PieceSender, PieceReader) {
    let (sender, pieces) = sync_channel(DEPTH);
    (
        PieceSender(sender),
        PieceReader {
            pieces,
            current: None,
            ended: false,
        },
    )
}

impl PieceSender {
    /// Blocks while the reader is behind; `false` if it has gone.
    pub(crate) fn send(&self, piece: Piece) -> bool {
        self.0.send(piece).is_ok()
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended {
            if let Some(part) = self.current.as_mut().filter(|part| !part.bytes.is_empty()) {
                let count = part.bytes.len().min(buffer.len());
                part.bytes.copy_to_slice(&mut buffer[..count]);
                return Ok(count);
            }
            // Its share is free before the next one is waited for.
            self.current = None;
            match self.pieces.recv() {
                Ok(Piece::Data(part)) => self.current = Some(part),
                Ok(Piece::End) => self.ended = true,
                Err(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the transfer was given up",
                    ));
                }
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_break_is_not_an_end() {
        for (end, expected) in [(true, Some(5)), (false, None)] {
            let (sender, mut reader) = pieces();
            let in_flight = InFlight::new();
            for text in ["ab", "", "cde"] {
                let part = in_flight.admit(Bytes::from_static(text.as_bytes())).await;
                assert!(sender.send(Piece::Data(part)));
            }
            if end {
                sender.send(Piece::End);
            }
            drop(sender);
            let mut all = Vec::new();
            assert_eq!(reader.read_to_end(&mut all).ok(), expected);
        }
    }

    #[tokio::test]
    async fn what_is_read_makes_room_for_what_comes_next() {
        let in_flight = InFlight::new();
        let (sender, mut reader) = pieces();
        let half = Bytes::from(vec![7; IN_FLIGHT as usize / 2]);
        for _ in 0..2 {
            let part = in_flight.admit(half.clone()).await;
            assert!(sender.send(Piece::Data(part)));
        }
        let mut third = std::pin::pin!(in_flight.admit(half.clone()));
        assert!(futures::poll!(&mut third).is_pending());
        // The first part goes when the second is asked for.
        let mut read = vec![0; half.len()];
        for _ in 0..2 {
            reader.read_exact(&mut read).expect("reading");
        }
        assert!(futures::poll!(&mut third).is_ready());
    }

    #[tokio::test]
    async fn a_piece_larger_than_all_the_room_waits_until_it_is_alone() {
        let in_flight = InFlight::new();
        let first = in_flight.admit(Bytes::from_static(b"a")).await;
        let large = Bytes::from(vec![7; IN_FLIGHT as usize * 2]);
        let mut second = std::pin::pin!(in_flight.admit(large));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(futures::poll!(&mut second).is_ready());
    }
}
