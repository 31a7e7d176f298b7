//! Output in frames: a byte of stream, three of nothing, four of length in network order, and the
//! payload.

use bytes::{Buf, Bytes, BytesMut};

const HEAD: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Stdout,
    Stderr,
}

/// Takes frames apart, however they are cut. Payload is handed on before its frame is whole.
#[derive(Debug, Default)]
pub struct Frames {
    held: BytesMut,
    /// What is still to come of the frame that began.
    open: Option<(Side, usize)>,
}

impl Frames {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// `None` until there is more.
    pub fn next(&mut self) -> Option<(Side, Bytes)> {
        loop {
            if let Some((side, left)) = self.open {
                let here = left.min(self.held.len());
                if left > 0 && here == 0 {
                    return None;
                }
                self.open = (left > here).then_some((side, left - here));
                if here > 0 {
                    return Some((side, self.held.split_to(here).freeze()));
                }
                continue;
            }
            if self.held.len() < HEAD {
                return None;
            }
            let mut head = self.held.split_to(HEAD);
            let side = match head.get_u8() {
                2 | 3 => Side::Stderr,
                _ => Side::Stdout,
            };
            head.advance(3);
            self.open = Some((side, head.get_u32() as usize));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_told_apart_however_the_bytes_are_cut() {
        let text = b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x04errs\x01\0";
        for cut in 0..text.len() {
            let mut frames = Frames::default();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for part in [&text[..cut], &text[cut..]] {
                frames.feed(part);
                while let Some((side, bytes)) = frames.next() {
                    match side {
                        Side::Stdout => out.extend_from_slice(&bytes),
                        Side::Stderr => err.extend_from_slice(&bytes),
                    }
                }
            }
            assert_eq!(
                (out.as_slice(), err.as_slice()),
                (&b"out"[..], &b"errs"[..])
            );
        }
    }

    #[test]
    fn a_long_frame_is_shown_before_it_is_whole() {
        let mut frames = Frames::default();
        frames.feed(b"\x01\0\0\0\0\x10\0\0begin");
        assert_eq!(
            frames.next(),
            Some((Side::Stdout, Bytes::from_static(b"begin")))
        );
        assert_eq!(frames.next(), None);
    }
}
