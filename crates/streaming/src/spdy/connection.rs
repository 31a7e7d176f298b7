//! The two halves of a connection: one reads and hands out, one writes what is queued.

use std::collections::HashMap;
use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::mpsc;

use super::frame::{self, Decoder, Frame, FrameError};
use super::headers::{EmptyBlocks, HeaderError, Headers, Inflate};
use crate::link::Activity;
use crate::mux::{Chunk, Inbound, Outbound, Outgoing, Queue, inbound};

/// Streams of one connection that may be open; more are refused. A port-forward has two for each
/// connection that goes through it.
const MAX_STREAMS: usize = 1024;
const READ_LEN: usize = 32 << 10;

/// A stream that the client opened. It is to be accepted or refused.
#[derive(Debug)]
pub struct Stream {
    pub id: u32,
    pub headers: Headers,
    pub inbound: Inbound,
    pub outbound: Outbound,
}

#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    #[error("cannot read")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Headers(#[from] HeaderError),
    #[error("stream {0} is opened a second time or out of order")]
    Order(u32),
}

/// Reads until the peer closes. New streams go to `opened`; when nobody takes them any more they
/// are refused, and the rest of the connection is still read.
pub async fn read<R: AsyncRead + Unpin>(
    mut source: R,
    queue: Queue,
    opened: mpsc::Sender<Stream>,
    activity: &Activity,
) -> Result<(), SpdyError> {
    let mut reader = Reader {
        queue,
        opened,
        streams: HashMap::new(),
        inflate: Inflate::new(),
        last: 0,
    };
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
    loop {
        while let Some(frame) = decoder.next(&mut buffer)? {
            if matches!(frame, Frame::Data { .. } | Frame::Open { .. }) {
                activity.happened();
            }
            if matches!(frame, Frame::GoAway) {
                return Ok(());
            }
            reader.take(frame).await?;
        }
        buffer.reserve(READ_LEN);
        if source.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

struct Reader {
    queue: Queue,
    opened: mpsc::Sender<Stream>,
    /// Those whose client side has not ended.
    streams: HashMap<u32, mpsc::Sender<Chunk>>,
    inflate: Inflate,
    last: u32,
}

impl Reader {
    async fn take(&mut self, frame: Frame) -> Result<(), SpdyError> {
        match frame {
            Frame::Open { id, fin, block } => {
                let headers = self.inflate.block(&block)?;
                return self.open(id, fin, headers).await;
            }
            Frame::Block(block) => {
                self.inflate.block(&block)?;
            }
            Frame::Data { id, fin, bytes } => {
                let taker = self.streams.get(&id);
                if let Some(taker) = taker.filter(|_| !bytes.is_empty()) {
                    // Nobody takes it any more: the rest is read and dropped.
                    let _ = taker.send(Chunk::Data(bytes)).await;
                }
                if fin {
                    self.streams.remove(&id);
                }
            }
            Frame::Reset(id) => {
                if let Some(taker) = self.streams.remove(&id) {
                    let _ = taker.send(Chunk::Reset).await;
                }
            }
            // Even numbers are echoes of a server's own pings, of which we send none.
            Frame::Ping(id) if id % 2 == 1 => {
                let _ = self.queue.send(Outgoing::Pong(id)).await;
            }
            Frame::Ping(_) | Frame::GoAway | Frame::Ignored => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), SpdyError> {
        // Clients count upwards in odd numbers.
        if id.is_multiple_of(2) || id <= self.last {
            return Err(SpdyError::Order(id));
        }
        self.last = id;
        self.streams.retain(|_, taker| !taker.is_closed());
        let (taker, inbound) = inbound();
        let outbound = Outbound::new(id, self.queue.clone());
        let stream = Stream {
            id,
            headers,
            inbound,
            outbound,
        };
        if self.streams.len() >= MAX_STREAMS {
            stream.outbound.refuse().await;
            return Ok(());
        }
        if !fin {
            self.streams.insert(id, taker);
        }
        if let Err(unwanted) = self.opened.send(stream).await {
            self.streams.remove(&id);
            unwanted.0.outbound.refuse().await;
        }
        Ok(())
    }
}

/// Writes what is queued, until the goodbye.
pub async fn write<W: AsyncWrite + Unpin>(
    sink: W,
    mut queue: mpsc::Receiver<Outgoing>,
    activity: &Activity,
) -> io::Result<()> {
    let mut sink = BufWriter::new(sink);
    let mut blocks = EmptyBlocks::default();
    let mut last = 0;
    while let Some(message) = queue.recv().await {
        match message {
            Outgoing::Accept(id) => {
                last = last.max(id);
                sink.write_all(&frame::reply(id, &blocks.next())).await?;
            }
            Outgoing::Refuse(id) => sink.write_all(&frame::refusal(id)).await?,
            Outgoing::Data(id, bytes) => {
                activity.happened();
                sink.write_all(&frame::data(id, false, bytes.len())).await?;
                sink.write_all(&bytes).await?;
            }
            Outgoing::End(id) => sink.write_all(&frame::data(id, true, 0)).await?,
            Outgoing::Pong(id) => sink.write_all(&frame::pong(id)).await?,
            Outgoing::Goodbye => {
                sink.write_all(&frame::go_away(last)).await?;
                break;
            }
        }
        if queue.is_empty() {
            sink.flush().await?;
        }
    }
    sink.flush().await?;
    sink.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::super::headers::tests::Deflate;
    use super::*;
    use crate::mux;

    fn open(deflate: &mut Deflate, id: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let block = deflate.block(headers);
        let mut frame = frame::reply(id, &[&[0; 6][..], &block].concat());
        frame[3] = 1;
        frame
    }

    fn data(id: u32, fin: bool, text: &[u8]) -> Vec<u8> {
        [&frame::data(id, fin, text.len())[..], text].concat()
    }

    struct Run {
        streams: Vec<Stream>,
        outcome: Result<(), SpdyError>,
        answers: Vec<Outgoing>,
    }

    /// Reads `bytes` to their end, taking all streams.
    async fn run(bytes: &[u8]) -> Run {
        let (queue, mut answers) = mux::queue();
        let (opened, mut streams) = mpsc::channel(16);
        let activity = Activity::default();
        let outcome = read(bytes, queue, opened, &activity).await;
        let mut run = Run {
            streams: Vec::new(),
            outcome,
            answers: Vec::new(),
        };
        while let Ok(stream) = streams.try_recv() {
            run.streams.push(stream);
        }
        while let Ok(answer) = answers.try_recv() {
            run.answers.push(answer);
        }
        run
    }

    #[tokio::test]
    async fn data_reaches_its_stream_and_ends_with_it() {
        let mut deflate = Deflate::new();
        let bytes = [
            open(&mut deflate, 1, &[("streamtype", "error")]),
            open(&mut deflate, 3, &[("streamtype", "stdin")]),
            data(3, false, b"hello"),
            data(9, false, b"nobody's"),
            data(3, true, b" you"),
            data(3, false, b"too late"),
            frame::pong(1),
            frame::pong(2),
        ]
        .concat();
        let mut run = run(&bytes).await;
        assert!(run.outcome.is_ok(), "{:?}", run.outcome);
        assert_eq!(run.streams.len(), 2);
        let stdin = &mut run.streams[1];
        assert_eq!(stdin.headers.get("streamtype"), Some("stdin"));
        let mut got = Vec::new();
        while let Some(bytes) = stdin.inbound.bytes().await {
            got.extend_from_slice(&bytes);
        }
        assert_eq!(got, b"hello you");
        assert!(matches!(run.answers[..], [Outgoing::Pong(1)]));
    }

    #[tokio::test]
    async fn a_reset_is_told_apart_from_an_end() {
        let mut deflate = Deflate::new();
        let bytes = [open(&mut deflate, 1, &[]), frame::refusal(1)].concat();
        let mut run = run(&bytes).await;
        assert!(matches!(
            run.streams[0].inbound.next().await,
            Some(Chunk::Reset)
        ));
        assert!(run.streams[0].inbound.next().await.is_none());
    }

    #[tokio::test]
    async fn streams_out_of_order_end_the_connection() {
        for ids in [[1, 1], [3, 1], [1, 2]] {
            let mut deflate = Deflate::new();
            let bytes = ids.map(|id| open(&mut deflate, id, &[])).concat();
            assert!(
                matches!(run(&bytes).await.outcome, Err(SpdyError::Order(_))),
                "{ids:?}"
            );
        }
    }

    #[tokio::test]
    async fn streams_are_bounded() {
        let mut deflate = Deflate::new();
        let bytes: Vec<u8> = (0..MAX_STREAMS as u32 + 3)
            .flat_map(|n| open(&mut deflate, n * 2 + 1, &[]))
            .collect();
        let (queue, mut answers) = mux::queue();
        let (opened, mut streams) = mpsc::channel(4096);
        let activity = Activity::default();
        read(&bytes[..], queue, opened, &activity).await.unwrap();
        assert_eq!(streams.len(), MAX_STREAMS);
        let mut refused = 0;
        while let Ok(Outgoing::Refuse(_)) = answers.try_recv() {
            refused += 1;
        }
        assert_eq!(refused, 3);
        streams.close();
    }

    #[tokio::test]
    async fn what_is_written_can_be_read() {
        let (queue, messages) = mux::queue();
        let outbound = Outbound::new(5, queue.clone());
        outbound.accept().await;
        outbound.send("text".into()).await;
        outbound.end().await;
        queue.send(Outgoing::Goodbye).await.unwrap();
        let mut wire = Vec::new();
        write(&mut wire, messages, &Activity::default())
            .await
            .unwrap();
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::from(&wire[..]));
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next(&mut buffer).unwrap() {
            frames.push(frame);
        }
        assert!(matches!(frames[0], Frame::Block(_)), "{frames:?}");
        assert!(matches!(&frames[1], Frame::Data { id: 5, fin: false, bytes } if bytes == "text"));
        assert!(matches!(&frames[2], Frame::Data { id: 5, fin: true, bytes } if bytes.is_empty()));
        assert_eq!(frames[3], Frame::GoAway);
    }
}
