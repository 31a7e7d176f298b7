//! Frames from bytes and back.
//!
//! ```text
//!  control: 1|version:15 type:16 flags:8 length:24 payload
//!  data:    0|stream:31          flags:8 length:24 payload
//! ```

use bytes::{Buf, Bytes, BytesMut};

const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const FLAG_FIN: u8 = 1;
const HEAD: usize = 8;
/// Largest control frame that is taken. Clients' header blocks are below a hundred bytes.
const MAX_CONTROL: usize = 32 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

const REFUSED_STREAM: u32 = 3;

/// What a peer sent. Control frames that need no answer are `Ignored`.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Open {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    /// Header blocks that are not wanted still move the decompressor's state.
    Block(Bytes),
    Reset(u32),
    Ping(u32),
    GoAway,
    Ignored,
    /// Bytes of a data frame, as they come; `fin` with the last of them.
    Data {
        id: u32,
        fin: bool,
        bytes: Bytes,
    },
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("version {0} of SPDY is not spoken")]
    Version(u16),
    #[error("a control frame of {0} bytes is too large")]
    TooLarge(usize),
    #[error("a frame of type {0} is too short")]
    TooShort(u16),
}

/// Cuts bytes into frames. Data is passed on in pieces, so that no frame is ever held whole.
#[derive(Debug, Default)]
pub struct Decoder {
    data: Option<Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    id: u32,
    fin: bool,
    left: usize,
}

impl Decoder {
    /// The next frame in `buffer`; `None` when more bytes are needed.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some(data) = &mut self.data {
            let count = data.left.min(buffer.len());
            if count == 0 {
                return Ok(None);
            }
            data.left -= count;
            let done = data.left == 0;
            let (id, fin) = (data.id, data.fin && done);
            if done {
                self.data = None;
            }
            let bytes = buffer.split_to(count).freeze();
            return Ok(Some(Frame::Data { id, fin, bytes }));
        }
        let Some(head) = buffer.get(..HEAD) else {
            return Ok(None);
        };
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if word & CONTROL != 0 {
            return control(word, flags, length, buffer);
        }
        buffer.advance(HEAD);
        let (id, fin) = (word, flags & FLAG_FIN != 0);
        if length == 0 {
            let bytes = Bytes::new();
            return Ok(Some(Frame::Data { id, fin, bytes }));
        }
        self.data = Some(Unfinished {
            id,
            fin,
            left: length,
        });
        self.next(buffer)
    }
}

fn control(
    word: u32,
    flags: u8,
    length: usize,
    buffer: &mut BytesMut,
) -> Result<Option<Frame>, FrameError> {
    let version = (word >> 16) as u16 & 0x7fff;
    let kind = word as u16;
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    if length > MAX_CONTROL {
        return Err(FrameError::TooLarge(length));
    }
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    let payload = buffer.split_to(length).freeze();
    let number = || {
        let bytes = payload.get(..4).ok_or(FrameError::TooShort(kind))?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let block = |from: usize| {
        if payload.len() < from {
            return Err(FrameError::TooShort(kind));
        }
        Ok(payload.slice(from..))
    };
    Ok(Some(match kind {
        SYN_STREAM => Frame::Open {
            id: number()? & !CONTROL,
            fin: flags & FLAG_FIN != 0,
            // Past the associated stream, the priority and the slot.
            block: block(10)?,
        },
        SYN_REPLY | HEADERS => Frame::Block(block(4)?),
        RST_STREAM => Frame::Reset(number()? & !CONTROL),
        PING => Frame::Ping(number()?),
        GOAWAY => Frame::GoAway,
        _ => Frame::Ignored,
    }))
}

pub fn data(id: u32, fin: bool, length: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&(id & !CONTROL).to_be_bytes());
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    head[4..].copy_from_slice(&length.to_be_bytes());
    head[4] = if fin { FLAG_FIN } else { 0 };
    head
}

fn encode(kind: u16, payload: &[&[u8]]) -> Vec<u8> {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(HEAD + length);
    frame.extend_from_slice(&(CONTROL | u32::from(VERSION) << 16 | u32::from(kind)).to_be_bytes());
    // No flags, and no frame of ours comes near 24 bits of length.
    frame.extend_from_slice(&u32::try_from(length).unwrap_or_default().to_be_bytes());
    payload
        .iter()
        .for_each(|part| frame.extend_from_slice(part));
    frame
}

pub fn reply(id: u32, block: &[u8]) -> Vec<u8> {
    encode(SYN_REPLY, &[&id.to_be_bytes(), block])
}

pub fn refusal(id: u32) -> Vec<u8> {
    encode(
        RST_STREAM,
        &[&id.to_be_bytes(), &REFUSED_STREAM.to_be_bytes()],
    )
}

pub fn pong(id: u32) -> Vec<u8> {
    encode(PING, &[&id.to_be_bytes()])
}

/// We close in order; `last` is the highest stream that was taken.
pub fn go_away(last: u32) -> Vec<u8> {
    encode(GOAWAY, &[&last.to_be_bytes(), &0u32.to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
        let mut frames = Vec::new();
        for piece in bytes.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.next(&mut buffer)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    fn open(id: u32, flags: u8, block: &[u8]) -> Vec<u8> {
        let mut frame = encode(SYN_STREAM, &[&id.to_be_bytes(), &[0; 4], &[0, 0], block]);
        frame[4] = flags;
        frame
    }

    #[test]
    fn frames_are_the_same_however_they_arrive() {
        let bytes = [
            open(5, FLAG_FIN, b"abc"),
            pong(7),
            refusal(9),
            reply(5, b"x"),
            go_away(5),
            encode(9, &[&[0; 8]]),
            [&data(5, true, 0)[..]].concat(),
        ]
        .concat();
        for step in [1, 3, 8, 1000] {
            let frames = all(&bytes, step).unwrap();
            assert_eq!(
                frames,
                [
                    Frame::Open {
                        id: 5,
                        fin: true,
                        block: Bytes::from_static(b"abc"),
                    },
                    Frame::Ping(7),
                    Frame::Reset(9),
                    Frame::Block(Bytes::from_static(b"x")),
                    Frame::GoAway,
                    Frame::Ignored,
                    Frame::Data {
                        id: 5,
                        fin: true,
                        bytes: Bytes::new(),
                    },
                ],
                "in steps of {step}"
            );
        }
    }

    #[test]
    fn a_huge_data_frame_is_passed_on_in_pieces() {
        let mut bytes = data(3, true, (1 << 24) - 1).to_vec();
        bytes.extend(vec![b'x'; 5000]);
        let frames = all(&bytes, 1000).unwrap();
        let sizes: usize = frames
            .iter()
            .map(|frame| match frame {
                Frame::Data { id: 3, fin, bytes } => {
                    assert!(!fin, "the end is far away");
                    assert!(bytes.len() <= 1000);
                    bytes.len()
                }
                other => panic!("{other:?}"),
            })
            .sum();
        assert_eq!(sizes, 5000);
    }

    #[test]
    fn hostile_frames_are_refused() {
        let mut wrong_version = pong(1);
        wrong_version[1] = 9;
        let mut too_large = pong(1);
        too_large[5] = 0xff;
        for (bytes, expected) in [
            (wrong_version, FrameError::Version(9)),
            (too_large, FrameError::TooLarge(0xff_0004)),
            (encode(SYN_STREAM, &[&[0; 9]]), FrameError::TooShort(1)),
            (encode(SYN_STREAM, &[&[0; 3]]), FrameError::TooShort(1)),
            (encode(RST_STREAM, &[]), FrameError::TooShort(3)),
            (encode(PING, &[&[1, 2]]), FrameError::TooShort(6)),
            (encode(HEADERS, &[&[1]]), FrameError::TooShort(8)),
        ] {
            assert_eq!(all(&bytes, 1000), Err(expected), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..4000),
                                  step in 1usize..200) {
            let whole = all(&bytes, bytes.len().max(1)).is_ok();
            prop_assert_eq!(all(&bytes, step).is_ok(), whole);
        }
    }
}
