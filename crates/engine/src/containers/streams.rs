//! Between a process's pipes and a client's connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use berth_lifecycle::{AttachControl, CommandControl, Pipes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;

use crate::hijack::{Input, Output};
use crate::{Error, Result};

/// Bytes of one frame at most.
const CHUNK: usize = 32 << 10;
/// How long a client may take to close after the end.
const LINGER: Duration = Duration::from_secs(1);
/// What Docker's client sends to leave a terminal without ending it.
const DETACH: [u8; 2] = [0x10, 0x11];

/// What the streams belong to.
pub enum Sides {
    Container(AttachControl),
    Command(Arc<CommandControl>),
}

impl Sides {
    async fn close_stdin(&self) {
        let closed = match self {
            Self::Container(control) => control.close_stdin().await,
            Self::Command(control) => control.close_stdin().await,
        };
        // One that has ended needs it no more.
        let _ = closed;
    }
}

/// Which of the two outputs a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    Stdout = 1,
    Stderr = 2,
}

/// How a client and a process part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parted {
    /// All of the output was shown, or nobody is there to see it.
    Ended,
    /// The client typed the keys to leave.
    Detached,
}

/// Copies in both directions until the output has ended, the client has gone, or typed what lets it
/// go (with a terminal only). Output goes on when the client's input ends; the client's connection
/// is left open.
pub async fn serve(
    pipes: Pipes,
    sides: Sides,
    input: &mut Input,
    output: &mut Output,
    terminal: bool,
    keys: &[u8],
) -> Parted {
    let Pipes {
        stdin,
        stdout,
        stderr,
    } = pipes;
    let keys = terminal.then_some(keys);
    let (types, shows) = (stdin.is_some(), stdout.is_some() || stderr.is_some());
    let typing = async {
        let Some(stdin) = stdin else { return };
        if type_in(input, stdin, keys).await == Typed::End {
            sides.close_stdin().await;
            if shows {
                std::future::pending::<()>().await;
            }
        }
    };
    match (types, shows) {
        // The connection lives as long as the input.
        (_, false) => typing.await,
        (false, true) => _ = show(stdout, stderr, output, terminal).await,
        (true, true) => tokio::select! {
            _gone = show(stdout, stderr, output, terminal) => {}
            () = typing => return Parted::Detached,
        },
    }
    Parted::Ended
}

#[derive(Debug, PartialEq, Eq)]
enum Typed {
    /// The client is at the end of its input, or the process takes no more.
    End,
    Detached,
}

async fn type_in(input: &mut Input, mut stdin: pipe::Sender, keys: Option<&[u8]>) -> Typed {
    let mut buffer = vec![0; CHUNK];
    let mut keys = Keys::new(keys.unwrap_or_default());
    loop {
        let count = match input.read(&mut buffer).await {
            Ok(count) if count > 0 => count,
            _ => {
                let _ended = stdin.write_all(keys.held()).await;
                return Typed::End;
            }
        };
        let (typed, detached) = keys.pass(buffer.get(..count).unwrap_or_default());
        let sent = stdin.write_all(&typed).await;
        match (detached, sent) {
            (true, _) => return Typed::Detached,
            (false, Err(_)) => return Typed::End,
            (false, Ok(())) => {}
        }
    }
}

/// Looks for the keys in what is typed. What only begins like them is held back until that is clear.
struct Keys<'a> {
    keys: &'a [u8],
    seen: usize,
}

impl<'a> Keys<'a> {
    fn new(keys: &'a [u8]) -> Self {
        Self { keys, seen: 0 }
    }

    fn held(&self) -> &'a [u8] {
        self.keys.get(..self.seen).unwrap_or_default()
    }

    /// What goes on to the process, and whether the keys were typed: then nothing after them counts.
    fn pass(&mut self, chunk: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(chunk.len() + self.seen);
        for byte in chunk {
            if self.keys.get(self.seen) != Some(byte) {
                out.extend_from_slice(self.held());
                self.seen = 0;
            }
            if self.keys.get(self.seen) != Some(byte) {
                out.push(*byte);
                continue;
            }
            self.seen += 1;
            if self.seen == self.keys.len() {
                self.seen = 0;
                return (out, true);
            }
        }
        (out, false)
    }
}

/// Until both outputs have ended, or the client has gone.
async fn show(
    mut stdout: Option<pipe::Receiver>,
    mut stderr: Option<pipe::Receiver>,
    output: &mut Output,
    terminal: bool,
) -> io::Result<()> {
    let (mut first, mut second) = (vec![0; CHUNK], vec![0; CHUNK]);
    while stdout.is_some() || stderr.is_some() {
        tokio::select! {
            read = read(&mut stdout, &mut first) => match read {
                Ok(count) if count > 0 => {
                    let bytes = first.get(..count).unwrap_or_default();
                    write(output, Side::Stdout, bytes, terminal).await?;
                }
                _ => stdout = None,
            },
            read = read(&mut stderr, &mut second) => match read {
                Ok(count) if count > 0 => {
                    let bytes = second.get(..count).unwrap_or_default();
                    write(output, Side::Stderr, bytes, terminal).await?;
                }
                _ => stderr = None,
            },
        }
    }
    Ok(())
}

async fn read(pipe: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> io::Result<usize> {
    match pipe {
        Some(pipe) => AsyncReadExt::read(pipe, buffer).await,
        None => std::future::pending().await,
    }
}

/// A terminal's output as it is; else with the stream and the length before it.
async fn write(
    output: &mut (impl AsyncWrite + Unpin),
    side: Side,
    bytes: &[u8],
    terminal: bool,
) -> io::Result<()> {
    if terminal {
        output.write_all(bytes).await?;
    } else {
        output.write_all(&frame(side, bytes)).await?;
    }
    output.flush().await
}

/// One byte of stream, three of nothing, four of length in network order, and the payload.
pub fn frame(side: Side, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut framed = Vec::with_capacity(bytes.len() + 8);
    framed.extend_from_slice(&[side as u8, 0, 0, 0]);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(bytes);
    framed
}

/// Says why there is nothing to show, and ends.
pub async fn tell(input: Input, mut output: Output, text: &str, terminal: bool) {
    let line = format!("{text}\r\n");
    let _gone = write(&mut output, Side::Stderr, line.as_bytes(), terminal).await;
    part(input, output).await;
}

/// Ends a connection. What a client typed last is read, and let go: a socket that is closed with
/// something unread is a broken connection to the other side (ECONNRESET), and not the end.
pub async fn part(mut input: Input, mut output: Output) {
    let _gone = output.shutdown().await;
    let mut nowhere = tokio::io::sink();
    let rest = tokio::io::copy(&mut input, &mut nowhere);
    let _either = tokio::time::timeout(LINGER, rest).await;
}

/// `ctrl-p,ctrl-q`, `a,b`, …; empty for Docker's own.
pub fn keys(text: &str) -> Result<Vec<u8>> {
    if text.is_empty() {
        return Ok(DETACH.to_vec());
    }
    text.split(',').map(key).collect()
}

fn key(text: &str) -> Result<u8> {
    let bad = || Error::bad(format!("Invalid detach keys ({text}) provided"));
    match text.strip_prefix("ctrl-").map(str::as_bytes) {
        Some([letter @ b'a'..=b'z']) => Ok(letter - b'a' + 1),
        Some(b"@") => Ok(0),
        Some(b"[") => Ok(27),
        Some(b"\\") => Ok(28),
        Some(b"]") => Ok(29),
        Some(b"^") => Ok(30),
        Some(b"_") => Ok(31),
        Some(_) => Err(bad()),
        None => match text.as_bytes() {
            [byte] => Ok(*byte),
            _ => Err(bad()),
        },
    }
}

/// Reads what nobody wants, so that its writer does not wait for ever.
pub async fn drain(pipes: Pipes) {
    let swallow = |pipe: Option<pipe::Receiver>| async {
        if let Some(mut pipe) = pipe {
            let _ = tokio::io::copy(
                &mut pipe as &mut (dyn AsyncRead + Unpin + Send),
                &mut tokio::io::sink(),
            )
            .await;
        }
    };
    tokio::join!(swallow(pipes.stdout), swallow(pipes.stderr));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_names_its_stream_and_length() {
        assert_eq!(frame(Side::Stderr, b"abc"), b"\x02\0\0\0\0\0\0\x03abc");
    }

    #[test]
    fn keys_are_control_letters_or_characters() {
        assert_eq!(keys("").unwrap(), [16, 17]);
        assert_eq!(keys("ctrl-a,x,ctrl-[").unwrap(), [1, b'x', 27]);
        for bad in ["ctrl-", "ctrl-A", "abc", "ctrl-a,,b"] {
            assert!(keys(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_only_begins_like_the_keys_reaches_the_process() {
        let (sender, mut receiver) = pipe::pipe().unwrap();
        let mut typed: Input = Box::pin(&b"a\x10b\x10\x10\x11never"[..]);
        assert_eq!(
            type_in(&mut typed, sender, Some(&DETACH)).await,
            Typed::Detached
        );
        let mut got = Vec::new();
        receiver.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"a\x10b\x10");
    }

    #[tokio::test]
    async fn what_is_typed_after_the_end_does_not_break_the_connection() {
        let (mut client, server) = tokio::net::UnixStream::pair().unwrap();
        client.write_all(b"typed too late").await.unwrap();
        let (input, output) = server.into_split();
        let parting = tokio::spawn(part(Box::pin(input), Box::pin(output)));
        let mut shown = Vec::new();
        client.read_to_end(&mut shown).await.unwrap();
        drop(client);
        parting.await.unwrap();
    }
}
