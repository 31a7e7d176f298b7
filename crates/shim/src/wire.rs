//! ttrpc framing, free of I/O.
//!
//! A frame is a ten-byte header (payload length and stream id as big-endian
//! `u32`, type, flags) and a payload of at most 4 MiB. This side serves unary
//! methods only: it takes requests and sends responses, and calls containerd for events. What a peer may do
//! wrong falls into two classes: a refused frame is answered on its stream and
//! the connection goes on, a broken one ends the connection, because nothing
//! after it can be trusted to be a header.

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::{Code, Request, Response};

use crate::status::Failure;

/// Bytes before each payload.
pub const HEADER_LEN: usize = 10;
/// Largest payload, in bytes, that either side may send.
pub const MAX_PAYLOAD: usize = 4 << 20;

const TYPE_REQUEST: u8 = 1;
const TYPE_RESPONSE: u8 = 2;
const TYPE_DATA: u8 = 3;

/// What the decoder found.
#[derive(Debug)]
pub enum Incoming {
    /// A request to be answered on `stream`.
    Call { stream: u32, request: Request },
    /// A frame that is answered with an error on `stream`.
    Refused { stream: u32, failure: Failure },
}

/// The peer does not speak ttrpc; the connection must be closed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Broken {
    #[error("frame type {0} is not one that a client sends")]
    FrameType(u8),
}

/// Splits a byte stream into frames. Holds at most one frame.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    skip: usize,
}

impl Decoder {
    /// Adds bytes as they came from the socket. An oversized payload is dropped
    /// here, so that it is never held.
    pub fn push(&mut self, mut bytes: &[u8]) {
        let dropped = self.skip.min(bytes.len());
        self.skip -= dropped;
        bytes = &bytes[dropped..];
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame that needs an answer, or `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Incoming>, Broken> {
        loop {
            let Some(header) = Header::parse(&self.buffer) else {
                return Ok(None);
            };
            match header.kind {
                TYPE_REQUEST | TYPE_DATA => {}
                other => return Err(Broken::FrameType(other)),
            }
            if header.length > MAX_PAYLOAD {
                self.discard(header.length);
                if header.kind == TYPE_REQUEST {
                    return Ok(Some(oversized(&header)));
                }
                continue;
            }
            let end = HEADER_LEN + header.length;
            if self.buffer.len() < end {
                return Ok(None);
            }
            let incoming = match header.kind {
                TYPE_REQUEST => Some(decode(&header, &self.buffer[HEADER_LEN..end])),
                // Stream data for a method that does not stream: nobody reads it.
                _ => None,
            };
            self.consume(end);
            if incoming.is_some() {
                return Ok(incoming);
            }
        }
    }

    fn discard(&mut self, length: usize) {
        let here = (self.buffer.len() - HEADER_LEN).min(length);
        self.skip = length - here;
        self.consume(HEADER_LEN + here);
    }

    fn consume(&mut self, count: usize) {
        self.buffer.drain(..count);
        if self.buffer.is_empty() {
            // A Create with a large spec must not pin its buffer for the life
            // of the container.
            self.buffer = Vec::new();
        }
    }
}

struct Header {
    length: usize,
    stream: u32,
    kind: u8,
}

impl Header {
    fn parse(buffer: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_LEN] = buffer.first_chunk()?;
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *bytes;
        Some(Self {
            length: u32::from_be_bytes([l0, l1, l2, l3]) as usize,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            kind,
        })
    }
}

fn oversized(header: &Header) -> Incoming {
    let message = format!(
        "a message of {} bytes is over the limit of {MAX_PAYLOAD}",
        header.length
    );
    Incoming::Refused {
        stream: header.stream,
        failure: Failure::new(Code::RESOURCE_EXHAUSTED, message),
    }
}

fn decode(header: &Header, payload: &[u8]) -> Incoming {
    let stream = header.stream;
    let refuse = |message: String| Incoming::Refused {
        stream,
        failure: Failure::new(Code::INVALID_ARGUMENT, message),
    };
    if stream.is_multiple_of(2) {
        return refuse(format!("stream id {stream} of a client must be odd"));
    }
    match Request::parse_from_bytes(payload) {
        Ok(request) => Incoming::Call { stream, request },
        Err(error) => refuse(format!("the request cannot be decoded: {error}")),
    }
}

/// One request frame, ready for the socket. `stream` is odd and new on its connection.
pub fn encode_request(stream: u32, service: &str, method: &str, payload: Vec<u8>) -> Vec<u8> {
    let mut request = Request::new();
    service.clone_into(&mut request.service);
    method.clone_into(&mut request.method);
    request.payload = payload;
    frame(stream, TYPE_REQUEST, &request)
}

/// Takes the first response out of what a server has sent, with its stream and why it refused.
pub fn take_response(received: &mut Vec<u8>) -> Result<Option<Outcome>, Broken> {
    let Some(header) = Header::parse(received) else {
        return Ok(None);
    };
    let end = HEADER_LEN + header.length;
    if header.kind != TYPE_RESPONSE || header.length > MAX_PAYLOAD {
        return Err(Broken::FrameType(header.kind));
    }
    if received.len() < end {
        return Ok(None);
    }
    let response = Response::parse_from_bytes(&received[HEADER_LEN..end]);
    received.drain(..end);
    let answer = match response {
        Ok(response) if response.status.code.value() == 0 => Ok(()),
        Ok(response) => Err(response.status.message.clone()),
        Err(error) => Err(error.to_string()),
    };
    Ok(Some((header.stream, answer)))
}

/// A stream, and what came of the call on it.
pub type Outcome = (u32, Result<(), String>);

/// One response frame, ready for the socket.
pub fn encode_response(stream: u32, answer: Result<Vec<u8>, Failure>) -> Vec<u8> {
    let mut response = Response::new();
    match answer {
        Ok(payload) if payload.len() + 64 <= MAX_PAYLOAD => response.payload = payload,
        Ok(payload) => {
            let message = format!("a response of {} bytes is over the limit", payload.len());
            let failure = Failure::new(Code::RESOURCE_EXHAUSTED, message);
            response.status = Some(failure.into_status()).into();
        }
        Err(failure) => response.status = Some(failure.into_status()).into(),
    }
    frame(stream, TYPE_RESPONSE, &response)
}

fn frame(stream: u32, kind: u8, message: &impl Message) -> Vec<u8> {
    let mut frame = vec![0; HEADER_LEN];
    // Encoding into memory fails only for messages above 2 GiB, which nobody makes here.
    if message.write_to_vec(&mut frame).is_err() {
        frame.truncate(HEADER_LEN);
    }
    let length = (frame.len() - HEADER_LEN) as u32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame[4..8].copy_from_slice(&stream.to_be_bytes());
    frame[8] = kind;
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes().to_vec();
        bytes.extend(stream.to_be_bytes());
        bytes.extend([kind, 0]);
        bytes.extend(payload);
        bytes
    }

    fn call(method: &str) -> Vec<u8> {
        let mut request = Request::new();
        request.service = "s".into();
        request.method = method.into();
        request.write_to_bytes().unwrap()
    }

    #[test]
    fn a_request_arrives_whole_however_it_is_cut() {
        let bytes = [raw(1, 1, &call("One")), raw(1, 3, &call("Two"))].concat();
        for step in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut methods = Vec::new();
            for part in bytes.chunks(step) {
                decoder.push(part);
                while let Some(Incoming::Call { request, stream }) = decoder.next_frame().unwrap() {
                    methods.push((stream, request.method));
                }
            }
            assert_eq!(methods, [(1, "One".to_owned()), (3, "Two".to_owned())]);
        }
    }

    #[test]
    fn bad_frames_are_refused_on_their_stream_and_the_next_one_is_served() {
        let oversize = {
            let mut bytes = raw(1, 5, &[]);
            bytes[..4].copy_from_slice(&((MAX_PAYLOAD as u32) + 1).to_be_bytes());
            bytes.extend(vec![0x55; MAX_PAYLOAD + 1]);
            bytes
        };
        let cases = [
            (
                "garbage payload",
                raw(1, 5, &[0xff; 40]),
                Code::INVALID_ARGUMENT,
            ),
            (
                "cut payload",
                raw(1, 5, &[0x0a, 0x7f, 1]),
                Code::INVALID_ARGUMENT,
            ),
            ("even stream", raw(1, 4, &call("X")), Code::INVALID_ARGUMENT),
            ("oversize", oversize, Code::RESOURCE_EXHAUSTED),
        ];
        for (name, bytes, code) in cases {
            let mut decoder = Decoder::default();
            let mut refused = None;
            for part in bytes.chunks(65536) {
                decoder.push(part);
                if let Some(Incoming::Refused { failure, .. }) = decoder.next_frame().unwrap() {
                    refused = Some(failure.code);
                }
                assert!(decoder.buffer.len() <= 65536, "{name} is held");
            }
            assert_eq!(refused, Some(code), "{name}");
            decoder.push(&raw(1, 7, &call("Next")));
            let next = decoder.next_frame().unwrap();
            assert!(
                matches!(next, Some(Incoming::Call { stream: 7, .. })),
                "{name}: {next:?}"
            );
        }
    }

    #[test]
    fn a_peer_that_does_not_speak_ttrpc_is_cut_off() {
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            raw(2, 1, b"response"),
            raw(0, 1, b""),
            vec![0xff; 64],
        ] {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            assert!(decoder.next_frame().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn stray_stream_data_is_ignored() {
        let mut decoder = Decoder::default();
        decoder.push(&raw(3, 1, b"data"));
        decoder.push(&raw(1, 3, &call("After")));
        assert!(matches!(
            decoder.next_frame().unwrap(),
            Some(Incoming::Call { stream: 3, .. })
        ));
    }

    #[test]
    fn a_response_that_is_too_large_becomes_an_error() {
        let frame = encode_response(9, Ok(vec![0; MAX_PAYLOAD]));
        let response = Response::parse_from_bytes(&frame[HEADER_LEN..]).unwrap();
        assert_eq!(
            response.status.code.enum_value(),
            Ok(Code::RESOURCE_EXHAUSTED)
        );
        assert_eq!(frame[4..8], 9u32.to_be_bytes());
    }

    #[test]
    fn what_is_asked_is_understood_and_so_is_the_answer_however_it_is_cut() {
        let asked = encode_request(1, "s", "M", vec![7]);
        let mut decoder = Decoder::default();
        decoder.push(&asked);
        let Some(Incoming::Call { stream: 1, request }) = decoder.next_frame().unwrap() else {
            panic!("no call");
        };
        assert_eq!((&*request.method, &*request.payload), ("M", &[7][..]));

        let refused = Failure::new(Code::NOT_FOUND, "gone");
        let frames = [
            encode_response(1, Ok(vec![1])),
            encode_response(3, Err(refused)),
        ]
        .concat();
        for step in 1..frames.len() {
            let (mut received, mut found) = (Vec::new(), Vec::new());
            for part in frames.chunks(step) {
                received.extend_from_slice(part);
                while let Some(outcome) = take_response(&mut received).unwrap() {
                    found.push(outcome);
                }
            }
            assert_eq!(found, [(1, Ok(())), (3, Err("gone".to_owned()))]);
        }
        assert!(
            take_response(&mut asked.clone()).is_err(),
            "a server does not ask"
        );
    }
}
