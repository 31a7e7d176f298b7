//! What is typed goes in, what comes out is shown.

use bytes::Bytes;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, Stderr, Stdout, WriteHalf,
};

use super::frames::{Frames, Side};
use super::keys::DetachKeys;
use crate::daemon::{Answer, Hijacked};
use crate::error::{Error, Result};

const CHUNK: usize = 32 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The other side has said everything.
    Output,
    /// The keys were typed: the process runs on.
    Detached,
}

/// A connection that was taken over.
#[derive(Debug)]
pub struct Session {
    pub connection: Hijacked,
    /// Output has its streams told apart by frames.
    pub framed: bool,
    /// Whether what is typed goes in.
    pub typed: bool,
    /// With a terminal only.
    pub keys: Option<DetachKeys>,
}

impl Session {
    /// Until the output ends. The end of what is typed closes that direction alone.
    pub async fn converse(self) -> Result<Ended> {
        let (reader, writer) = tokio::io::split(self.connection);
        let typing = async {
            let detached = match self.typed {
                true => type_in(tokio::io::stdin(), writer, self.keys).await,
                false => hold(writer).await,
            };
            match detached {
                true => (),
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            shown = show(reader, self.framed) => shown.map(|()| Ended::Output),
            () = typing => Ok(Ended::Detached),
        }
    }
}

/// Keeps the direction open: to close it would close the process's input.
async fn hold(_writer: WriteHalf<Hijacked>) -> bool {
    std::future::pending().await
}

/// Whether the keys were typed.
async fn type_in(
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    mut keys: Option<DetachKeys>,
) -> bool {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = input.read(&mut buffer).await.unwrap_or(0);
        let typed = buffer.get(..count).unwrap_or_default();
        if count == 0 {
            // The other side may have gone already.
            let _gone = output.shutdown().await;
            return false;
        }
        let (typed, detached) = match &mut keys {
            Some(keys) => keys.pass(typed),
            None => (typed.to_vec(), false),
        };
        if output.write_all(&typed).await.is_err() || output.flush().await.is_err() {
            return false;
        }
        if detached {
            return true;
        }
    }
}

async fn show(mut reader: ReadHalf<Hijacked>, framed: bool) -> Result<()> {
    let mut screen = Screen::new(framed);
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => screen.show(buffer.get(..count).unwrap_or_default()).await?,
            Err(error) => return Err(Error::Stream(error)),
        }
    }
}

/// An answer's body, as logs are sent.
pub async fn show_answer(mut answer: Answer) -> Result<()> {
    let mut screen = Screen::new(answer.is_framed());
    while let Some(chunk) = answer.chunk().await? {
        screen.show(&chunk).await?;
    }
    Ok(())
}

/// Both outputs of this program.
struct Screen {
    frames: Option<Frames>,
    stdout: Stdout,
    stderr: Stderr,
}

impl Screen {
    fn new(framed: bool) -> Self {
        Self {
            frames: framed.then(Frames::default),
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
        }
    }

    async fn show(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(frames) = &mut self.frames else {
            return self.write(Side::Stdout, bytes).await;
        };
        frames.feed(bytes);
        let mut parts: Vec<(Side, Bytes)> = Vec::new();
        while let Some(part) = frames.next() {
            parts.push(part);
        }
        for (side, bytes) in parts {
            self.write(side, &bytes).await?;
        }
        Ok(())
    }

    async fn write(&mut self, side: Side, bytes: &[u8]) -> Result<()> {
        let written = match side {
            Side::Stdout => write(&mut self.stdout, bytes).await,
            Side::Stderr => write(&mut self.stderr, bytes).await,
        };
        written.map_err(Error::Output)
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn typed(text: &'static [u8], keys: Option<DetachKeys>) -> (bool, Vec<u8>) {
        let (near, mut far) = tokio::io::duplex(256);
        let detached = type_in(text, near, keys).await;
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        (detached, got)
    }

    #[tokio::test]
    async fn the_end_of_the_input_closes_that_direction() {
        assert_eq!(typed(b"abc", None).await, (false, b"abc".to_vec()));
    }

    #[tokio::test]
    async fn keys_leave_and_nothing_after_them_is_sent() {
        let keys = DetachKeys::parse("").ok();
        let text = b"ls\n\x10\x11more";
        assert_eq!(typed(text, keys).await, (true, b"ls\n\x10\x11".to_vec()));
        // Without a terminal they are bytes like any other.
        assert_eq!(typed(text, None).await, (false, text.to_vec()));
    }
}
