//! Exec and attach: between a client's channels and a process.

use std::future::pending;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::backend::{Attached, Control, Failure, Input, Output, Size};
use crate::mux::{Inbound, Outbound};
use crate::request::Streams;
use crate::spdy;
use crate::status::{Ending, Form, chain};

/// After the process has ended, its output is over when none came for this long: a child that it
/// left may hold the pipe for as long as it likes.
const QUIET: Duration = Duration::from_millis(500);
const CHUNK: usize = 32 << 10;
/// Longest text of one window size.
const MAX_SIZE_TEXT: usize = 256;

/// What the client has open.
#[derive(Debug)]
pub struct Channels {
    pub stdin: Option<Inbound>,
    pub resize: Option<Inbound>,
    pub stdout: Option<Outbound>,
    pub stderr: Option<Outbound>,
    pub status: Outbound,
    pub form: Form,
}

/// Collects the streams that the client opens for `streams`, by their `streamtype`. `None`: it ended
/// the connection before all were there.
pub async fn collect(
    opened: &mut mpsc::Receiver<spdy::Stream>,
    streams: Streams,
    form: Form,
    resizes: bool,
) -> Option<Channels> {
    let (mut stdin, mut resize) = (None, None);
    let (mut stdout, mut stderr, mut status) = (None, None, None);
    let complete = |stdin: bool, resize: bool, stdout: bool, stderr: bool, status: bool| {
        status
            && stdin >= streams.stdin
            && stdout >= streams.stdout
            && stderr >= streams.stderr
            && resize >= (streams.tty && resizes)
    };
    while !complete(
        stdin.is_some(),
        resize.is_some(),
        stdout.is_some(),
        stderr.is_some(),
        status.is_some(),
    ) {
        let stream = opened.recv().await?;
        let spdy::Stream {
            headers,
            inbound,
            outbound,
            ..
        } = stream;
        outbound.accept().await;
        match headers.get("streamtype") {
            Some("error") => status = Some(outbound),
            Some("stdin") => stdin = Some(inbound),
            Some("resize") => resize = Some(inbound),
            Some("stdout") => stdout = Some(outbound),
            Some("stderr") => stderr = Some(outbound),
            _ => outbound.refuse().await,
        }
    }
    Some(Channels {
        stdin,
        resize,
        stdout,
        stderr,
        status: status?,
        form,
    })
}

/// Runs to the end of the process and tells the client.
pub async fn run(
    begun: impl Future<Output = Result<Attached, Failure>>,
    channels: Channels,
    action: &'static str,
) {
    let Channels {
        stdin,
        resize,
        stdout,
        stderr,
        status,
        form,
    } = channels;
    let ending = match begun.await {
        Ok(attached) => {
            let joined = Joined {
                stdin,
                resize,
                stdout,
                stderr,
            };
            joined.run(attached).await
        }
        Err(failure) => Err(failure),
    };
    let ending = match ending {
        Ok(code) => Ending::Exited(code),
        Err(failure) => Ending::Failed(format!("{action}: {}", chain(&*failure))),
    };
    if let Ending::Failed(message) = &ending {
        tracing::info!(error = message, "a stream ended in failure");
    }
    let text = ending.encode(form);
    if text.is_empty() || status.send(text).await {
        status.end().await;
    }
}

struct Joined {
    stdin: Option<Inbound>,
    resize: Option<Inbound>,
    stdout: Option<Outbound>,
    stderr: Option<Outbound>,
}

impl Joined {
    async fn run(self, attached: Attached) -> Result<u32, Failure> {
        let Attached {
            stdin,
            stdout,
            stderr,
            control,
            ends_with_output,
        } = attached;
        let control = &*control;
        let (over, is_over) = watch::channel(false);
        let has_output = stdout.is_some() || stderr.is_some();
        let outputs = async {
            tokio::join!(
                copy_out(stdout, self.stdout, is_over.clone()),
                copy_out(stderr, self.stderr, is_over.clone()),
            );
        };
        let ended = async {
            let outcome = control.ended().await;
            over.send_replace(true);
            outcome
        };
        let work = async {
            if !(ends_with_output && has_output) {
                return tokio::join!(ended, outputs).0;
            }
            let (mut ended, mut outputs) = (std::pin::pin!(ended), std::pin::pin!(outputs));
            tokio::select! {
                outcome = &mut ended => {
                    outputs.await;
                    outcome
                }
                () = &mut outputs => Ok(0),
            }
        };
        tokio::select! {
            outcome = work => outcome,
            () = copy_in(self.stdin, stdin, control) => pending().await,
            () = resizes(self.resize, control) => pending().await,
        }
    }
}

/// Ends only by being dropped.
async fn copy_in(from: Option<Inbound>, to: Option<Input>, control: &dyn Control) {
    let Some(mut from) = from else {
        return pending().await;
    };
    if let Some(mut to) = to {
        while let Some(bytes) = from.bytes().await {
            // A process that closed its input does not want the rest; the client is not told.
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to.flush().await;
        drop(to);
        control.close_stdin().await;
    }
    while from.bytes().await.is_some() {}
    pending().await
}

async fn copy_out(from: Option<Output>, to: Option<Outbound>, is_over: watch::Receiver<bool>) {
    let Some(mut from) = from else {
        if let Some(to) = to {
            to.end().await;
        }
        return;
    };
    let mut buffer = BytesMut::new();
    while let Some(bytes) = next_output(&mut from, &mut buffer, is_over.clone()).await {
        if let Some(to) = &to
            && !to.send(bytes).await
        {
            return;
        }
    }
    if let Some(to) = to {
        to.end().await;
    }
}

/// `None` at the end of the output, or when it is over and quiet.
async fn next_output(
    from: &mut Output,
    buffer: &mut BytesMut,
    mut is_over: watch::Receiver<bool>,
) -> Option<Bytes> {
    buffer.reserve(CHUNK);
    let read = from.read_buf(buffer);
    let mut read = std::pin::pin!(read);
    let count = tokio::select! {
        biased;
        count = &mut read => count,
        () = told(&mut is_over) => timeout(QUIET, read).await.unwrap_or(Ok(0)),
    };
    match count {
        Ok(count) if count > 0 => Some(buffer.split().freeze()),
        _ => None,
    }
}

async fn told(is_over: &mut watch::Receiver<bool>) {
    let _ = is_over.wait_for(|over| *over).await;
}

/// Applies window sizes: JSON objects one after another, cut anywhere. Ends only by being dropped.
async fn resizes(from: Option<Inbound>, control: &dyn Control) {
    let Some(mut from) = from else {
        return pending().await;
    };
    let mut text = Vec::new();
    while let Some(bytes) = from.bytes().await {
        text.extend_from_slice(&bytes);
        for size in sizes(&mut text) {
            control.resize(size).await;
        }
    }
    pending().await
}

/// Takes the whole sizes off the front of `text`; what cannot be one is dropped.
fn sizes(text: &mut Vec<u8>) -> Vec<Size> {
    let mut found = Vec::new();
    let mut whole = 0;
    let mut stream = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let broken = loop {
        match stream.next() {
            Some(Ok(size)) => {
                found.push(size);
                whole = stream.byte_offset();
            }
            Some(Err(error)) => break !error.is_eof(),
            None => {
                whole = stream.byte_offset();
                break false;
            }
        }
    };
    if broken || text.len() - whole > MAX_SIZE_TEXT {
        text.clear();
    } else {
        text.drain(..whole);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_sizes_are_read_however_they_are_cut() {
        let input = b"{\"Width\":80,\"Height\":24}\n{\"Width\":132,\"Height\":50}\n";
        for step in [1, 7, 30, 100] {
            let (mut text, mut found) = (Vec::new(), Vec::new());
            for piece in input.chunks(step) {
                text.extend_from_slice(piece);
                found.extend(sizes(&mut text));
            }
            let expected = [(80, 24), (132, 50)].map(|(width, height)| Size { width, height });
            assert_eq!(found, expected, "in steps of {step}");
            assert!(text.len() <= 1, "{text:?}");
        }
    }

    #[test]
    fn nonsense_on_the_resize_channel_is_bounded_and_dropped() {
        let mut text = vec![b' '; 10];
        text.extend(b"{\"Width\":");
        assert!(sizes(&mut text).is_empty());
        text.extend(vec![b' '; 1000]);
        assert!(sizes(&mut text).is_empty());
        assert!(text.is_empty());
        let mut text = b"nonsense".to_vec();
        assert!(sizes(&mut text).is_empty() && text.is_empty());
        let mut text = b"{\"Width\":70000,\"Height\":1}".to_vec();
        assert!(sizes(&mut text).is_empty() && text.is_empty());
    }
}
