//! What a container wrote, read from its log.
//!
//! The log is what the shim writes (`<time> stdout|stderr P|F <text>`), whichever driver was asked
//! for; it is rotated by size, and older files may be compressed: see [`rotation`].

pub(crate) mod driver;
pub(crate) mod forward;
pub(crate) mod rotation;

use std::collections::VecDeque;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, BufReader};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::files::blocking;
use crate::record::Nanos;
use rotation::Older;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(25);
/// No part of a line that the shim writes is longer.
const LONGEST_PART: usize = 64 << 10;

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogQuery {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    /// Not before.
    pub since: Option<Nanos>,
    /// Not after.
    pub until: Option<Nanos>,
    /// The last so many lines; `None` for all.
    pub tail: Option<usize>,
}

/// A line, or a part of one that is long or was never ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub at: Nanos,
    /// The time as it was written down.
    pub stamp: String,
    pub stderr: bool,
    /// With its newline, if it has one.
    pub text: Vec<u8>,
}

/// Reads one log, once.
pub struct Logs {
    query: LogQuery,
    path: PathBuf,
    /// Older files that are still to be read, oldest first.
    older: VecDeque<Older>,
    current: Option<BufReader<File>>,
    /// What was read before, because it was the tail.
    ready: VecDeque<LogLine>,
    /// The file that is read is the newest.
    at_newest: bool,
    held: Vec<u8>,
    /// Whether the container runs.
    running: watch::Receiver<bool>,
}

impl Logs {
    pub(crate) async fn open(
        path: &Path,
        query: LogQuery,
        running: watch::Receiver<bool>,
    ) -> Result<Self> {
        let mut logs = Self {
            older: older_of(path).await?,
            path: path.to_owned(),
            current: None,
            ready: VecDeque::new(),
            at_newest: false,
            held: Vec::new(),
            running,
            query,
        };
        if let Some(count) = query.tail {
            logs.keep_last(count).await?;
        }
        Ok(logs)
    }

    /// The next line that is wanted; `None` at the end, which for a log that is followed is the end
    /// of the container.
    pub async fn next(&mut self) -> Result<Option<LogLine>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            // Looked at first: what was written before the end is read after it.
            let ended = !*self.running.borrow();
            match self.read().await? {
                Some(line) if self.query.until.is_some_and(|until| line.at > until) => {
                    return Ok(None);
                }
                Some(line) if self.wants(&line) => return Ok(Some(line)),
                Some(_) => {}
                None if !self.query.follow || ended => return Ok(None),
                None => {
                    self.turn_over().await?;
                    let changed = self.running.changed();
                    let _ = tokio::time::timeout(LOOK, changed).await;
                }
            }
        }
    }

    fn wants(&self, line: &LogLine) -> bool {
        let stream = match line.stderr {
            true => self.query.stderr,
            false => self.query.stdout,
        };
        stream && self.query.since.is_none_or(|since| line.at >= since)
    }

    async fn keep_last(&mut self, count: usize) -> Result<()> {
        let mut last: VecDeque<LogLine> = VecDeque::new();
        let mut whole = 0;
        while let Some(line) = self.read().await? {
            if self.query.until.is_some_and(|until| line.at > until) || !self.wants(&line) {
                continue;
            }
            whole += usize::from(line.text.ends_with(b"\n"));
            last.push_back(line);
            while whole > count {
                let gone = last.pop_front();
                whole -= usize::from(gone.is_some_and(|line| line.text.ends_with(b"\n")));
            }
        }
        if count > 0 {
            self.ready = last;
        }
        Ok(())
    }

    /// The next part in the files as they are at this moment.
    async fn read(&mut self) -> Result<Option<LogLine>> {
        loop {
            if self.current.is_none() {
                let Some(file) = self.open_next().await? else {
                    return Ok(None);
                };
                self.current = Some(BufReader::new(file));
            }
            let Some(file) = &mut self.current else {
                return Ok(None);
            };
            let read = file.read_until(b'\n', &mut self.held).await;
            let count = read.map_err(Error::file("read", &self.path))?;
            if self.held.ends_with(b"\n") || self.held.len() > LONGEST_PART {
                let line = std::mem::take(&mut self.held);
                if let Some(line) = parse(&line) {
                    return Ok(Some(line));
                }
                continue;
            }
            // The rest of a line is still to be written.
            if self.at_newest && count == 0 {
                return Ok(None);
            }
            if !self.at_newest && count == 0 {
                self.held.clear();
                self.current = None;
            }
        }
    }

    async fn open_next(&mut self) -> Result<Option<File>> {
        let next = self.older.pop_front();
        self.at_newest = next.is_none();
        if let Some(older) = next {
            let log = self.path.clone();
            let text = blocking(move || older.text(&log)).await?;
            return Ok(Some(File::from_std(text)));
        }
        match File::open(&self.path).await {
            Ok(file) => Ok(Some(file)),
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("open", &self.path)(error)),
        }
    }

    /// Goes on with the new file once the log was rotated.
    async fn turn_over(&mut self) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        let Some(file) = &mut self.current else {
            return Ok(());
        };
        let own = file.get_ref().metadata().await;
        let newest = tokio::fs::metadata(&self.path).await;
        let (Ok(own), Ok(newest)) = (own, newest) else {
            return Ok(());
        };
        if own.ino() == newest.ino() {
            // Cut off behind us: the next line is at its beginning.
            let place = file.stream_position().await;
            if place.is_ok_and(|place| place > newest.len()) {
                let back = file.seek(SeekFrom::Start(0)).await;
                back.map_err(Error::file("read", &self.path))?;
            }
            return Ok(());
        }
        // What was written between the last read and the rotation.
        if file.fill_buf().await.is_ok_and(<[u8]>::is_empty) {
            self.current = None;
        }
        Ok(())
    }
}

async fn older_of(path: &Path) -> Result<VecDeque<Older>> {
    let path = path.to_owned();
    blocking(move || Ok(rotation::older(&path))).await
}

fn parse(line: &[u8]) -> Option<LogLine> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (stamp, stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
    let stamp = std::str::from_utf8(stamp).ok()?;
    let at = OffsetDateTime::parse(stamp, &Rfc3339).ok()?;
    let mut text = fields.next()?.to_vec();
    if tag == b"P" && text.ends_with(b"\n") {
        text.pop();
    }
    Some(LogLine {
        at: i64::try_from(at.unix_timestamp_nanos()).ok()?,
        stamp: stamp.to_owned(),
        stderr: stream == b"stderr",
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LINES: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n\
                         2026-01-01T00:00:02.000000000Z stderr F two\n\
                         2026-01-01T00:00:03.000000000Z stdout P thr\n\
                         2026-01-01T00:00:04.000000000Z stdout F ee\n";

    async fn read(path: &Path, query: LogQuery) -> Vec<String> {
        let (_running, running) = watch::channel(false);
        let mut logs = Logs::open(path, query, running).await.unwrap();
        let mut found = Vec::new();
        while let Some(line) = logs.next().await.unwrap() {
            found.push(String::from_utf8(line.text).unwrap());
        }
        found
    }

    fn both() -> LogQuery {
        LogQuery {
            stdout: true,
            stderr: true,
            ..LogQuery::default()
        }
    }

    #[tokio::test]
    async fn parts_of_a_line_are_joined_by_those_who_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container.log");
        std::fs::write(&path, LINES).unwrap();
        assert_eq!(read(&path, both()).await.concat(), "one\ntwo\nthree\n");
        let out = LogQuery {
            stderr: false,
            ..both()
        };
        assert_eq!(read(&path, out).await.concat(), "one\nthree\n");
        let last = LogQuery {
            tail: Some(1),
            ..both()
        };
        assert_eq!(read(&path, last).await.concat(), "three\n");
        let none = LogQuery {
            tail: Some(0),
            ..both()
        };
        assert!(read(&path, none).await.is_empty());
        let second = 1_767_225_602_000_000_000;
        let between = LogQuery {
            since: Some(second),
            until: Some(second),
            ..both()
        };
        assert_eq!(read(&path, between).await.concat(), "two\n");
    }

    #[tokio::test]
    async fn who_follows_reads_on_over_a_rotation_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container.log");
        std::fs::write(&path, LINES).unwrap();
        let (ends, running) = watch::channel(true);
        let query = LogQuery {
            follow: true,
            ..both()
        };
        let mut logs = Logs::open(&path, query, running).await.unwrap();
        let mut found = String::new();
        for _ in 0..4 {
            let line = logs.next().await.unwrap().unwrap();
            found.push_str(std::str::from_utf8(&line.text).unwrap());
        }
        rotation::tests::turn(&path, 3, true);
        let line = "2026-01-01T00:00:05.000000000Z stdout F four\n";
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
        let next = logs.next().await.unwrap().unwrap();
        assert_eq!(next.text, b"four\n");
        ends.send_replace(false);
        assert_eq!(logs.next().await.unwrap(), None);
        assert_eq!(
            read(&path, both()).await.concat(),
            "one\ntwo\nthree\nfour\n"
        );
    }
}
