//! Messages for the caller: to the log file in the form that it asked for, as
//! logrus writes it, and for a fatal error to standard error as well.

use crate::clock;
use crate::error::{Error, Result};
use crate::global::{Global, LogFormat};
use berth_executor::chain;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

#[derive(Debug)]
pub struct Journal {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            file: None,
            format: LogFormat::Text,
            debug: false,
        }
    }
}

impl Journal {
    pub fn open(global: &Global) -> Result<Self> {
        let file = match &global.log {
            Some(path) => {
                let mut options = OpenOptions::new();
                let options = options.create(true).append(true).mode(0o644);
                Some(options.open(path).map_err(Error::io("open log", path))?)
            }
            None => None,
        };
        Ok(Self {
            file,
            format: global.format.clone(),
            debug: global.debug,
        })
    }

    pub fn warning(&self, message: &str) {
        self.write("warning", message);
    }

    pub fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    /// Tells of the error that ends the program; `failure` says what failed.
    pub fn fatal(&self, failure: &str, error: &Error, status: u8) -> ExitCode {
        let message = format!("{failure}{}", chain(error));
        self.write("error", &message);
        if self.file.is_some() {
            // Nothing can be done about a closed standard error.
            let _ = writeln!(std::io::stderr(), "{message}");
        }
        ExitCode::from(status)
    }

    fn write(&self, level: &str, message: &str) {
        let line = self.line(level, message);
        let _ = match &self.file {
            Some(file) => {
                let mut file = file;
                file.write_all(line.as_bytes())
            }
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    fn line(&self, level: &str, message: &str) -> String {
        let now = clock::seconds(clock::now());
        match self.format {
            LogFormat::Json => {
                let message = serde_json::Value::from(message);
                format!("{{\"level\":\"{level}\",\"msg\":{message},\"time\":\"{now}\"}}\n")
            }
            LogFormat::Text => format!("time=\"{now}\" level={level} msg={message:?}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_readers_of_logrus_parse() {
        let mut journal = Journal::default();
        let line = journal.line("error", "exec: \"x\": no");
        assert!(line.starts_with("time=\"20"), "{line}");
        assert!(line.ends_with("level=error msg=\"exec: \\\"x\\\": no\"\n"));
        journal.format = LogFormat::Json;
        let line = journal.line("error", "exec: \"x\"\n");
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["msg"], "exec: \"x\"\n");
        assert_eq!(json["level"], "error");
        assert_eq!(line.matches('\n').count(), 1);
    }
}
