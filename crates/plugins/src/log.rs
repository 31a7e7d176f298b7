//! What a log driver is asked
//! (<https://docs.docker.com/engine/extend/plugins_logging/>), and the entries that it reads.
//!
//! A plugin is told the path of a FIFO, and reads from it: a length of four bytes, big-endian, and
//! so many bytes of a protobuf message
//! `{1: source, 2: nanoseconds, 3: line, 4: partial, 5: {1: last, 2: id, 3: ordinal}}`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{Patience, Plugin};
use crate::error::Result;
use crate::registry::Plugins;

const INTERFACE: &str = "LogDriver";

/// What a plugin learns of the container whose log it gets.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct LogInfo {
    /// The options of the request.
    pub config: BTreeMap<String, String>,
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    pub container_name: String,
    pub container_entrypoint: String,
    pub container_args: Vec<String>,
    #[serde(rename = "ContainerImageID")]
    pub container_image_id: String,
    pub container_image_name: String,
    /// RFC 3339.
    pub container_created: String,
    pub container_env: Vec<String>,
    pub container_labels: BTreeMap<String, String>,
    /// Where the container's own log is.
    pub log_path: String,
    pub daemon_name: String,
}

#[derive(Deserialize)]
struct Nothing {}

/// A plugin that takes logs.
#[derive(Debug, Clone)]
pub struct LogDriver(Arc<Plugin>);

impl LogDriver {
    pub async fn open(plugins: &Plugins, name: &str, patience: Patience) -> Result<Self> {
        plugins.get(name, INTERFACE, patience).await.map(Self)
    }

    /// From now on it reads entries from `fifo`.
    pub async fn start(&self, fifo: &Path, info: &LogInfo) -> Result<()> {
        let body = json!({ "File": fifo, "Info": info });
        let asked = self
            .0
            .call("LogDriver.StartLogging", &body, Patience::Change);
        let _nothing: Nothing = asked.await?;
        Ok(())
    }

    /// The FIFO is over; returns when the plugin has read what is in it.
    pub async fn stop(&self, fifo: &Path) -> Result<()> {
        let body = json!({ "File": fifo });
        let asked = self
            .0
            .call("LogDriver.StopLogging", &body, Patience::Change);
        let _nothing: Nothing = asked.await?;
        Ok(())
    }
}

/// One line, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry<'a> {
    pub stderr: bool,
    /// Since the Unix epoch.
    pub nanos: i64,
    /// Without its newline.
    pub line: &'a [u8],
    /// The line goes on in the next entry of its stream.
    pub partial: bool,
}

impl LogEntry<'_> {
    /// Appends it as a plugin reads it.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend_from_slice(&[0; 4]);
        let source: &[u8] = if self.stderr { b"stderr" } else { b"stdout" };
        bytes(to, 1, source);
        to.push(2 << 3);
        varint(to, self.nanos.cast_unsigned());
        bytes(to, 3, self.line);
        if self.partial {
            to.extend_from_slice(&[4 << 3, 1]);
        }
        let length = u32::try_from(to.len() - start - 4).unwrap_or(u32::MAX);
        to[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// A field of length-delimited bytes.
fn bytes(to: &mut Vec<u8>, field: u8, value: &[u8]) {
    to.push(field << 3 | 2);
    varint(to, value.len() as u64);
    to.extend_from_slice(value);
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_length_and_a_message() {
        let mut found = Vec::new();
        let entry = LogEntry {
            stderr: false,
            nanos: 300,
            line: b"hi",
            partial: true,
        };
        entry.encode(&mut found);
        let message = b"\x0a\x06stdout\x10\xac\x02\x1a\x02hi\x20\x01";
        let expected = [&[0, 0, 0, message.len() as u8][..], message].concat();
        assert_eq!(found, expected);
        let whole = LogEntry {
            stderr: true,
            partial: false,
            line: &[b'x'; 200],
            ..entry
        };
        whole.encode(&mut found);
        let second = &found[expected.len()..];
        assert_eq!(second[..4], (second.len() as u32 - 4).to_be_bytes());
        assert!(second.ends_with(&[b'x'; 200]));
    }
}
