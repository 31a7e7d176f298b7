//! From async bytes to blocking readers, with an end that cannot be mistaken for a break.
//!
//! A channel that closes without [`Piece::End`] means that the sender gave up: the reader fails
//! instead of taking what arrived for the whole.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Buf, Bytes};

/// How many pieces wait between two stages. Pieces are as large as the network gives them, tens
/// of KiB, so that a layer in flight takes a few MiB at most.
pub(crate) const DEPTH: usize = 16;

pub(crate) enum Piece {
    Data(Bytes),
    End,
}

/// The blocking side's writing end.
pub(crate) struct PieceSender(SyncSender<Piece>);

/// Reads what the other side sends.
pub(crate) struct PieceReader {
    pieces: Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

pub(crate) fn pieces() -> (PieceSender, PieceReader) {
    let (sender, pieces) = sync_channel(DEPTH);
    (
        PieceSender(sender),
        PieceReader {
            pieces,
            current: Bytes::new(),
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
        while self.current.is_empty() && !self.ended {
            match self.pieces.recv() {
                Ok(Piece::Data(bytes)) => self.current = bytes,
                Ok(Piece::End) => self.ended = true,
                Err(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the transfer was given up",
                    ));
                }
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current[..count]);
        self.current.advance(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_break_is_not_an_end() {
        for (end, expected) in [(true, Some(5)), (false, None)] {
            let (sender, mut reader) = pieces();
            for text in ["ab", "", "cde"] {
                assert!(sender.send(Piece::Data(Bytes::from_static(text.as_bytes()))));
            }
            if end {
                sender.send(Piece::End);
            }
            drop(sender);
            let mut all = Vec::new();
            assert_eq!(reader.read_to_end(&mut all).ok(), expected);
        }
    }
}
