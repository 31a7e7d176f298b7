//! What the two say to each other: messages of JSON on a socket that keeps their boundaries.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use berth_kernel::{Errno, Received, receive_with_fds, send_with_fds};
use berth_unpack::{Applied, Error, Fault};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// No message is longer: what is asked for and what is answered are small.
pub(crate) const LONGEST: usize = 16 << 10;
/// Bytes of a reason; entries of archives can have long names.
const REASON: usize = 4 << 10;

/// What the worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The directory that comes with it is to be made opaque; the worker waits for a [`Marked`].
    Mark,
    Applied(Applied),
    Failed {
        told: String,
        fault: Fault,
    },
}

/// The kernel's error number, where there was one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Marked(pub Option<i32>);

impl Answer {
    /// Why it was not unpacked, with all causes.
    pub fn failure(error: &Error) -> Self {
        let mut told = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            told.push_str(": ");
            told.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::Failed {
            told: readable(&told),
            fault: error.fault(),
        }
    }
}

/// What may be shown and logged of a text that a stranger chose.
pub(crate) fn readable(text: &str) -> String {
    let mut kept: String = text.chars().filter(|c| !c.is_control()).collect();
    let end = kept.floor_char_boundary(REASON);
    kept.truncate(end);
    kept
}

pub(crate) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    loop {
        match send_with_fds(&socket, &bytes, fds) {
            Err(Errno::INTR) => {}
            sent => return sent.map(drop).map_err(Into::into),
        }
    }
}

/// The next message and its descriptors; `None` when nobody is at the other end any more.
pub(crate) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Received)>> {
    let mut bytes = vec![0; LONGEST];
    let received = loop {
        match receive_with_fds(&socket, &mut bytes) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            received => break received?,
        }
    };
    let message = bytes.get(..received.length).unwrap_or_default();
    if message.is_empty() {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(message)?, received)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_bounded_and_has_no_control_characters() {
        let told = readable(&format!("bad\n\u{1b}[2Jentry {}", "é".repeat(REASON)));
        assert!(told.starts_with("bad[2Jentry é"));
        assert!(told.len() <= REASON);
    }
}
