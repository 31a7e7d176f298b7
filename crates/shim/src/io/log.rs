//! Container logs in the CRI format.
//!
//! Each line of output becomes `<RFC3339Nano> stdout|stderr P|F <text>\n`. A
//! line above 16 KiB is split: all its parts but the last carry `P`. What a
//! process leaves unfinished when its stream ends is a `P` part as well, so
//! that joining the parts gives back exactly the bytes that it wrote.
//!
//! Memory is flat whatever a container writes: per stream at most one part is
//! held back, and the file's buffer is written out when it reaches 64 KiB.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::journal::note;
use crate::status::Error;
use berth_executor::Stamp;

/// Bytes of text in one part.
pub const PART_LEN: usize = 16 << 10;
const BUFFER_LEN: usize = 64 << 10;
/// Capacity that is kept between chunks.
const KEPT_LEN: usize = 4 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Partial,
    Full,
}

/// Where finished parts go.
pub trait Parts {
    /// Takes one part whose text is `head` followed by `tail`.
    fn part(&mut self, stream: Stream, tag: Tag, head: &[u8], tail: &[u8]);
}

/// Cuts one stream into parts; holds back what may still grow.
#[derive(Debug)]
pub struct Lines {
    stream: Stream,
    held: Vec<u8>,
}

impl Lines {
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            held: Vec::new(),
        }
    }

    pub fn push(&mut self, mut chunk: &[u8], out: &mut dyn Parts) {
        while !chunk.is_empty() {
            let room = PART_LEN - self.held.len();
            // One byte beyond the part: a newline there still belongs to it.
            let window = &chunk[..chunk.len().min(room + 1)];
            if let Some(end) = window.iter().position(|&byte| byte == b'\n') {
                out.part(self.stream, Tag::Full, &self.held, &chunk[..end]);
                self.held.clear();
                chunk = &chunk[end + 1..];
            } else if window.len() > room {
                out.part(self.stream, Tag::Partial, &self.held, &chunk[..room]);
                self.held.clear();
                chunk = &chunk[room..];
            } else {
                self.held.extend_from_slice(chunk);
                return;
            }
        }
        if self.held.capacity() > KEPT_LEN {
            self.held = Vec::new();
        }
    }

    /// The stream ended.
    pub fn finish(&mut self, out: &mut dyn Parts) {
        if !self.held.is_empty() {
            out.part(self.stream, Tag::Partial, &self.held, &[]);
            self.held = Vec::new();
        }
    }
}

/// The open log file of a process. Its streams share it.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    stamp: Stamp,
    /// The file ends in the middle of a line, because a write failed there.
    torn: bool,
    /// Bytes that could not be written since the log was opened.
    lost: u64,
}

impl LogFile {
    /// Opens or creates the file for appending. A symbolic link as the last
    /// component is refused, and so is anything but a regular file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
            file: open_regular(path)?,
            buffer: Vec::new(),
            stamp: Stamp::now(),
            torn: false,
            lost: 0,
        })
    }

    /// Opens the path again after the file was renamed. The old file stays in
    /// use when that fails.
    pub fn reopen(&mut self) -> Result<(), Error> {
        self.flush();
        self.file = open_regular(&self.path)?;
        self.torn = false;
        Ok(())
    }

    /// Sets the moment that the parts of the next chunk carry.
    pub fn begin(&mut self, stamp: Stamp) {
        self.stamp = stamp;
    }

    /// Writes out what is buffered. A full disk must not stop the container:
    /// what cannot be written is dropped and counted, and the next line starts
    /// on a line of its own.
    pub fn flush(&mut self) {
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(count) if count > 0 => rest = &rest[count..],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                failed => {
                    if self.lost == 0 {
                        let path = self.path.display();
                        note!("log {path}: output is being dropped: {failed:?}");
                    }
                    self.lost += rest.len() as u64;
                    let written = self.buffer.len() - rest.len();
                    if let Some(last) = self.buffer[..written].last() {
                        self.torn = *last != b'\n';
                    }
                    break;
                }
            }
        }
        self.buffer.clear();
        if self.buffer.capacity() > KEPT_LEN {
            self.buffer = Vec::new();
        }
    }
}

impl Parts for LogFile {
    fn part(&mut self, stream: Stream, tag: Tag, head: &[u8], tail: &[u8]) {
        if std::mem::take(&mut self.torn) {
            self.buffer.push(b'\n');
        }
        let tag: &[u8] = match tag {
            Tag::Partial => b" P ",
            Tag::Full => b" F ",
        };
        let text = [
            self.stamp.as_bytes(),
            b" ",
            stream.name(),
            tag,
            head,
            tail,
            b"\n",
        ];
        for piece in text {
            self.buffer.extend_from_slice(piece);
        }
        if self.buffer.len() >= BUFFER_LEN {
            self.flush();
        }
    }
}

fn open_regular(path: &Path) -> Result<File, Error> {
    let fail = |source| Error::path("open log", path, source);
    // O_NONBLOCK: a FIFO at this path must give an error, not a hang.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(fail)?;
    let kind = file.metadata().map_err(fail)?.file_type();
    if !kind.is_file() {
        let what = if kind.is_fifo() {
            "a FIFO"
        } else {
            "not a regular file"
        };
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, what);
        return Err(fail(source));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Collected {
        parts: Vec<(Tag, Vec<u8>)>,
    }

    impl Parts for Collected {
        fn part(&mut self, _stream: Stream, tag: Tag, head: &[u8], tail: &[u8]) {
            self.parts.push((tag, [head, tail].concat()));
        }
    }

    type Expected = Vec<(Tag, usize)>;

    fn cut(input: &[u8], step: usize) -> Vec<(Tag, Vec<u8>)> {
        let mut out = Collected::default();
        let mut lines = Lines::new(Stream::Stdout);
        for chunk in input.chunks(step) {
            lines.push(chunk, &mut out);
            assert!(lines.held.len() <= PART_LEN);
        }
        lines.finish(&mut out);
        out.parts
    }

    #[test]
    fn lines_are_cut_the_same_way_however_they_arrive() {
        let long = vec![b'x'; PART_LEN];
        let cases: [(&[u8], Expected); 8] = [
            (b"", vec![]),
            (b"a\n", vec![(Tag::Full, 1)]),
            (b"\n\n", vec![(Tag::Full, 0), (Tag::Full, 0)]),
            (b"a\nbc", vec![(Tag::Full, 1), (Tag::Partial, 2)]),
            (&long, vec![(Tag::Partial, PART_LEN)]),
            (&[&long[..], b"\n"].concat(), vec![(Tag::Full, PART_LEN)]),
            (
                &[&long[..], b"y\n"].concat(),
                vec![(Tag::Partial, PART_LEN), (Tag::Full, 1)],
            ),
            (
                &[&long[..], &long, &long[1..], b"\nz\n"].concat(),
                vec![
                    (Tag::Partial, PART_LEN),
                    (Tag::Partial, PART_LEN),
                    (Tag::Full, PART_LEN - 1),
                    (Tag::Full, 1),
                ],
            ),
        ];
        for (input, expected) in cases {
            for step in [1, 7, 4096, PART_LEN, PART_LEN + 1, 1 << 20] {
                let found: Expected = cut(input, step)
                    .into_iter()
                    .map(|(tag, text)| (tag, text.len()))
                    .collect();
                assert_eq!(found, expected, "{} bytes by {step}", input.len());
            }
        }
    }

    #[test]
    fn joining_the_parts_gives_back_what_was_written() {
        let input: Vec<u8> = (0..200_000u32)
            .map(|i| {
                if i % 40_009 == 0 {
                    b'\n'
                } else {
                    (i % 251) as u8
                }
            })
            .collect();
        let mut joined = Vec::new();
        for (tag, text) in cut(&input, 4099) {
            joined.extend(text);
            if tag == Tag::Full {
                joined.push(b'\n');
            }
        }
        assert_eq!(joined, input);
    }

    #[test]
    fn an_endless_line_is_written_with_flat_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&dir.path().join("0.log")).unwrap();
        let mut lines = Lines::new(Stream::Stdout);
        let chunk = vec![b'x'; 32 << 10];
        for _ in 0..2048 {
            lines.push(&chunk, &mut log);
            assert!(log.buffer.capacity() <= 4 * BUFFER_LEN);
            assert!(lines.held.capacity() <= 2 * PART_LEN);
            log.flush();
            // Keep the disk flat as well; the file is opened for appending.
            log.file.set_len(0).unwrap();
        }
    }

    #[test]
    fn a_renamed_log_goes_on_in_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
        let mut log = LogFile::open(&path).unwrap();
        let mut lines = Lines::new(Stream::Stderr);
        lines.push(b"one\ntw", &mut log);
        log.flush();
        std::fs::rename(&path, &old).unwrap();
        log.reopen().unwrap();
        lines.push(b"o\n", &mut log);
        log.flush();
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert!(text(&old).ends_with("Z stderr F one\n"), "{}", text(&old));
        assert!(text(&path).ends_with("Z stderr F two\n"), "{}", text(&path));
    }

    #[test]
    fn a_failed_reopen_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
        let mut log = LogFile::open(&path).unwrap();
        std::fs::rename(&path, &old).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(log.reopen().is_err());
        Lines::new(Stream::Stdout).push(b"kept\n", &mut log);
        log.flush();
        assert!(std::fs::read_to_string(&old).unwrap().contains("kept"));
    }

    #[test]
    fn a_log_path_that_is_no_regular_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("target"), &link).unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for path in [
            link,
            fifo,
            dir.path().to_owned(),
            dir.path().join("no/such"),
        ] {
            assert!(LogFile::open(&path).is_err(), "{}", path.display());
        }
        assert!(!dir.path().join("target").exists());
    }

    #[test]
    fn a_full_disk_drops_output_and_goes_on() {
        let mut log = LogFile::open(Path::new("/dev/null")).err();
        assert!(log.take().is_some(), "a device is refused");
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&dir.path().join("0.log")).unwrap();
        log.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut lines = Lines::new(Stream::Stdout);
        lines.push(b"lost\n", &mut log);
        log.flush();
        assert_eq!(log.lost, 30 + 10 + 5);
        log.reopen().unwrap();
        lines.push(b"found\n", &mut log);
        log.flush();
        let text = std::fs::read_to_string(&log.path).unwrap();
        assert!(text.ends_with("Z stdout F found\n") && !text.contains("lost"));
    }
}
