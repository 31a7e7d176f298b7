//! What a shim wrote about the end of its container, for a daemon that was not
//! there.

use std::path::Path;
use std::time::SystemTime;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{Error, path_error};
use crate::types::Exit;

/// `<bundle>/exit.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct ExitRecord {
    pub pid: u32,
    pub exit_status: u32,
    #[serde(deserialize_with = "moment")]
    pub exited_at: SystemTime,
    /// The kernel killed a process of the container for memory.
    pub oom_killed: bool,
}

impl ExitRecord {
    pub fn exit(&self) -> Exit {
        Exit {
            status: self.exit_status,
            exited_at: self.exited_at,
        }
    }
}

fn moment<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    OffsetDateTime::parse(&text, &Rfc3339)
        .map(SystemTime::from)
        .map_err(serde::de::Error::custom)
}

/// Reads the record; `None` if the container has not ended under its shim.
pub fn read_exit_record(bundle: &Path) -> Result<Option<ExitRecord>, Error> {
    let path = bundle.join("exit.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(path_error("read", path)(error)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| Error::ExitRecord { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_record_is_read_exactly_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_exit_record(dir.path()).unwrap(), None);
        let good = r#"{"pid":7,"exit_status":137,"exited_at":"1970-01-01T00:00:01.000000002Z","oom_killed":true}"#;
        for (text, expected) in [
            (
                good,
                Some(ExitRecord {
                    pid: 7,
                    exit_status: 137,
                    exited_at: UNIX_EPOCH + Duration::new(1, 2),
                    oom_killed: true,
                }),
            ),
            ("", None),
            ("{}", None),
            (&good[..40], None),
            (&good.replace("1970-01", "1970-13"), None),
            (&good.replace("137", "-1"), None),
        ] {
            std::fs::write(dir.path().join("exit.json"), text).unwrap();
            assert_eq!(
                read_exit_record(dir.path()).ok().flatten(),
                expected,
                "{text}"
            );
        }
    }
}
