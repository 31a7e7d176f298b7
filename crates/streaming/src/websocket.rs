//! The channel protocols over WebSocket: each message is one byte of channel and its data.
//!
//! | protocol | data | status | input can end |
//! |---|---|---|---|
//! | `v5.channel.k8s.io` | binary | JSON | yes: channel 255 names the ended one |
//! | `v4.channel.k8s.io` | binary | JSON | no |
//! | `v4.base64.channel.k8s.io` | base64 text, channel as a digit | JSON | no |
//! | `channel.k8s.io`, or none named | binary | text | no |
//! | `base64.channel.k8s.io` | base64 text | text | no |

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::link::Activity;
use crate::mux::{Chunk, Outgoing};
use crate::status::Form;

/// Names the channel that ended, in v5.
const CLOSE: u8 = 255;
/// Largest message: some clients send a whole file as one.
const MAX_MESSAGE: usize = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    pub base64: bool,
    pub form: Form,
    pub closes: bool,
}

impl Channels {
    /// The protocols that are spoken, by name.
    pub const NAMES: [&'static str; 5] = [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ];

    /// `None` in `name`: the client named no protocol.
    pub fn named(name: Option<&str>) -> Self {
        let name = name.unwrap_or("channel.k8s.io");
        let versioned = name.starts_with('v');
        Self {
            base64: name.contains("base64"),
            form: if versioned { Form::Json } else { Form::Text },
            closes: name.starts_with("v5."),
        }
    }

    fn decode(self, message: &Message) -> Option<(u8, Bytes)> {
        let bytes = match message {
            Message::Binary(bytes) => bytes.clone(),
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            _ => return None,
        };
        let channel = *bytes.first()?;
        let rest = bytes.slice(1..);
        if self.base64 {
            let decoded = STANDARD.decode(rest).ok()?;
            return Some((channel.checked_sub(b'0')?, decoded.into()));
        }
        Some((channel, rest))
    }

    fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let text = format!("{}{}", char::from(b'0' + channel), STANDARD.encode(data));
            return Message::text(text);
        }
        let mut bytes = BytesMut::with_capacity(1 + data.len());
        bytes.put_u8(channel);
        bytes.put_slice(data);
        Message::binary(bytes.freeze())
    }
}

pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(32 << 10)
        .write_buffer_size(0)
}

/// Reads until the client closes. `takers` are the channels that it may write to, by number.
pub async fn read<S>(
    mut source: S,
    channels: Channels,
    mut takers: Vec<Option<mpsc::Sender<Chunk>>>,
    activity: &Activity,
) where
    S: Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
{
    while let Some(Ok(message)) = source.next().await {
        let Some((channel, data)) = channels.decode(&message) else {
            continue;
        };
        activity.happened();
        if channel == CLOSE && channels.closes {
            if let Some(taker) = data.first().and_then(|n| takers.get_mut(usize::from(*n))) {
                *taker = None;
            }
        } else if let Some(Some(taker)) = takers.get(usize::from(channel))
            && !data.is_empty()
        {
            let _ = taker.send(Chunk::Data(data)).await;
        }
    }
}

/// Writes what is queued, until the goodbye.
pub async fn write<S>(
    mut sink: S,
    channels: Channels,
    mut queue: mpsc::Receiver<Outgoing>,
    activity: &Activity,
) -> io::Result<()>
where
    S: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    while let Some(message) = queue.recv().await {
        match message {
            Outgoing::Data(id, data) => {
                activity.happened();
                let channel = u8::try_from(id).unwrap_or(CLOSE);
                let message = channels.encode(channel, &data);
                sink.send(message).await.map_err(io::Error::other)?;
            }
            Outgoing::Goodbye => break,
            // Channels are there from the start, and clients know no end of ours but the whole.
            Outgoing::Accept(_) | Outgoing::Refuse(_) | Outgoing::End(_) | Outgoing::Pong(_) => {}
        }
    }
    let normal = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    sink.send(Message::Close(Some(normal)))
        .await
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux;

    async fn received(name: &str, messages: Vec<Message>) -> (Vec<u8>, bool) {
        let (taker, mut inbound) = mux::inbound();
        let activity = Activity::default();
        let source = futures::stream::iter(messages.into_iter().map(Ok)).chain(
            // The connection stays open.
            futures::stream::pending(),
        );
        let channels = Channels::named(Some(name));
        let reading = read(source, channels, vec![Some(taker)], &activity);
        let mut got = Vec::new();
        let taking = async {
            while let Some(bytes) = inbound.bytes().await {
                got.extend_from_slice(&bytes);
            }
        };
        let ended = tokio::select! {
            biased;
            () = reading => false,
            () = taking => true,
            () = tokio::time::sleep(std::time::Duration::from_millis(50)) => false,
        };
        (got, ended)
    }

    #[tokio::test]
    async fn v5_ends_the_input_and_v4_takes_the_signal_for_nothing() {
        let messages = || {
            vec![
                Message::binary(&b"\0hello"[..]),
                Message::binary(&b"\x07nobody"[..]),
                Message::binary(&b""[..]),
                Message::binary(&[CLOSE, 0][..]),
                Message::binary(&[CLOSE][..]),
                Message::binary(&[CLOSE, 200][..]),
            ]
        };
        let v5 = received("v5.channel.k8s.io", messages()).await;
        assert_eq!(v5, (b"hello".to_vec(), true));
        let v4 = received("v4.channel.k8s.io", messages()).await;
        assert_eq!(v4, (b"hello".to_vec(), false));
    }

    #[tokio::test]
    async fn base64_is_text_both_ways() {
        let channels = Channels::named(Some("v4.base64.channel.k8s.io"));
        assert_eq!(channels.encode(1, b"hello"), Message::text("1aGVsbG8="));
        let messages = vec![Message::text("0aGVsbG8="), Message::text("0%%%")];
        let got = received("v4.base64.channel.k8s.io", messages).await;
        assert_eq!(got.0, b"hello");
    }

    #[test]
    fn versions_decide_the_form_of_the_status() {
        let forms = Channels::NAMES.map(|name| Channels::named(Some(name)).form);
        use Form::{Json, Text};
        assert_eq!(forms, [Json, Json, Json, Text, Text]);
        assert_eq!(
            Channels::named(None),
            Channels::named(Some("channel.k8s.io"))
        );
    }
}
