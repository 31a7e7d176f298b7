//! `<bundle>/exit.json`: how the container ended, for a daemon that was not
//! there to be told.
//!
//! ```json
//! {"pid":12,"exit_status":0,"exited_at":"2026-11-21T05:00:00.000000000Z","oom_killed":false}
//! ```
//!
//! The directory lives as long as the boot, as the container does, so the file
//! appears by rename and is not synced.

use std::path::Path;

use crate::process::Exit;
use crate::status::Error;
use berth_executor::Stamp;

pub const FILE_NAME: &str = "exit.json";

pub fn write(bundle: &Path, pid: i32, exit: &Exit, oom_killed: bool) -> Result<(), Error> {
    let text = format!(
        r#"{{"pid":{pid},"exit_status":{},"exited_at":"{}","oom_killed":{oom_killed}}}"#,
        exit.status,
        Stamp::at(exit.at),
    );
    let draft = bundle.join(".exit.json.draft");
    let path = bundle.join(FILE_NAME);
    std::fs::write(&draft, text).map_err(|source| Error::path("write", &draft, source))?;
    std::fs::rename(&draft, &path).map_err(|source| Error::path("rename to", &path, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn the_record_is_json_with_the_documented_fields() {
        let dir = tempfile::tempdir().unwrap();
        let exit = Exit {
            status: 137,
            at: UNIX_EPOCH + Duration::from_nanos(1),
        };
        write(dir.path(), 42, &exit, true).unwrap();
        let text = std::fs::read(dir.path().join(FILE_NAME)).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            record,
            serde_json::json!({
                "pid": 42, "exit_status": 137, "oom_killed": true,
                "exited_at": "1970-01-01T00:00:00.000000001Z"
            })
        );
    }
}
