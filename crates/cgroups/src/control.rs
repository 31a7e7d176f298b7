//! Control files of one cgroup directory.

use crate::error::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Largest control file that is read; `memory.stat` and per-device tables are
/// a few KiB, `cgroup.procs` of a fork bomb is the long one.
const MAX_READ: usize = 64 << 20;
const FIRST_READ: usize = 4096;

/// A cgroup directory whose files are read and written by name. A name is
/// always a literal of this crate or has passed a check; it never holds a
/// slash.
#[derive(Debug)]
pub(crate) struct ControlDir {
    path: PathBuf,
    /// Files that were read before, if they are kept open.
    kept: Option<Mutex<Vec<(String, OwnedFd)>>>,
    /// During an update: what files held before their first write.
    notes: Mutex<Option<Vec<(String, String)>>>,
}

impl ControlDir {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            kept: None,
            notes: Mutex::default(),
        }
    }

    /// From now on a file that has been read stays open for the next time.
    pub(crate) fn keep_open(&mut self) {
        self.kept.get_or_insert_default();
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.file(name).exists()
    }

    /// Writes `value` in one `write`, as control files demand. The file must
    /// exist: a missing one is an error, never created.
    pub(crate) fn write(&self, name: &str, value: &str) -> Result<()> {
        self.try_write(name, value)
            .map_err(|source| self.write_error(name, value, source))
    }

    /// The same with the bare error, for callers that know a second way.
    pub(crate) fn try_write(&self, name: &str, value: &str) -> io::Result<()> {
        self.note(name);
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(self.file(name), flags, Mode::empty())?;
        File::from(fd).write_all(value.as_bytes())
    }

    /// From now on the content of a file is noted before it is written.
    pub(crate) fn begin_notes(&self) {
        *self.lock_notes() = Some(Vec::new());
    }

    /// Ends that and gives the notes, oldest first.
    pub(crate) fn end_notes(&self) -> Vec<(String, String)> {
        self.lock_notes().take().unwrap_or_default()
    }

    /// A file that cannot be read, such as a trigger, has nothing to go back to.
    fn note(&self, name: &str) {
        let mut notes = self.lock_notes();
        if let Some(notes) = notes.as_mut()
            && !notes.iter().any(|(known, _)| known == name)
            && let Ok(content) = self.try_read(name)
        {
            notes.push((name.to_owned(), content));
        }
    }

    fn lock_notes(&self) -> MutexGuard<'_, Option<Vec<(String, String)>>> {
        // A panic between two pushes leaves whole notes.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write_error(&self, name: &str, value: &str, source: io::Error) -> Error {
        Error::Write {
            file: self.file(name),
            value: value.to_owned(),
            source,
        }
    }

    pub(crate) fn read(&self, name: &str) -> Result<String> {
        self.try_read(name).map_err(|source| Error::Read {
            file: self.file(name),
            source,
        })
    }

    /// The content, or `None` if the kernel has no such file (an option not
    /// built in, or the other version's).
    pub(crate) fn read_optional(&self, name: &str) -> Result<Option<String>> {
        match self.try_read(name) {
            Ok(content) => Ok(Some(content)),
            // Pressure files exist but answer EOPNOTSUPP if PSI is off.
            Err(e) if absent(&e) => Ok(None),
            Err(source) => Err(Error::Read {
                file: self.file(name),
                source,
            }),
        }
    }

    fn try_read(&self, name: &str) -> io::Result<String> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::open(self.file(name), flags, Mode::empty())
        };
        let Some(kept) = &self.kept else {
            return read_all(&open()?);
        };
        // Only descriptors are in there: a panic elsewhere cannot spoil them.
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match kept.iter().position(|(known, _)| known == name) {
            Some(at) => at,
            None => {
                kept.push((name.to_owned(), open()?));
                kept.len() - 1
            }
        };
        match kept.get(at) {
            Some((_, fd)) => read_all(fd),
            None => read_all(&open()?),
        }
    }

    /// A single number; `max` reads as `u64::MAX`.
    pub(crate) fn read_number(&self, name: &str) -> Result<u64> {
        let content = self.read(name)?;
        parse_number(&content).ok_or_else(|| self.malformed(name, &content))
    }

    pub(crate) fn read_number_optional(&self, name: &str) -> Result<Option<u64>> {
        match self.read_optional(name)? {
            None => Ok(None),
            Some(content) => parse_number(&content)
                .map(Some)
                .ok_or_else(|| self.malformed(name, &content)),
        }
    }

    pub(crate) fn malformed(&self, name: &str, content: &str) -> Error {
        Error::Malformed {
            file: self.file(name),
            content: content.chars().take(200).collect(),
        }
    }

    /// Opens a file for a write that happens later, in a cloned child.
    pub(crate) fn open_for_write(&self, name: &str) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(self.file(name), flags, Mode::empty()).map_err(|errno| Error::Open {
            path: self.file(name),
            source: errno.into(),
        })
    }
}

/// Reads to the end. The first piece is large enough for nearly all control
/// files: the kernel renders them at the first read, and many small reads are
/// what a sample of statistics would otherwise cost.
pub(crate) fn read_all(fd: &OwnedFd) -> io::Result<String> {
    let mut content = Vec::with_capacity(FIRST_READ);
    loop {
        if content.len() >= MAX_READ {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        content.reserve(FIRST_READ);
        // Reading from the start has the kernel render the file anew.
        let at = content.len() as u64;
        match rustix::io::pread(fd, rustix::buffer::spare_capacity(&mut content), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    String::from_utf8(content).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// True for errors that mean that a control file is not offered.
pub(crate) fn absent(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOENT | Errno::OPNOTSUPP | Errno::NODEV))
}

fn parse_number(content: &str) -> Option<u64> {
    match content.trim() {
        "max" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The value of `key` in a file of `key value` lines.
pub(crate) fn flat_value(content: &str, key: &str) -> Option<u64> {
    content.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_never_created() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = ControlDir::new(tmp.path().to_owned());
        let error = dir.write("pids.max", "5").unwrap_err();
        assert!(matches!(&error, Error::Write { value, .. } if value == "5"));
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::NOENT.raw_os_error())
        );
        assert!(!dir.has("pids.max"));
        assert_eq!(dir.read_optional("pids.max").unwrap(), None);
    }

    #[test]
    fn a_file_that_is_kept_open_is_read_anew() {
        let tmp = tempfile::tempdir().unwrap();
        let mut dir = ControlDir::new(tmp.path().to_owned());
        dir.keep_open();
        for content in ["1\n", "22\n", "3\n"] {
            std::fs::write(dir.file("f"), content).unwrap();
            assert_eq!(dir.read("f").unwrap(), content);
        }
        assert_eq!(dir.read_optional("missing").unwrap(), None);
    }

    #[test]
    fn numbers_are_read_and_nonsense_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = ControlDir::new(tmp.path().to_owned());
        for (content, expected) in [("12\n", Some(12)), ("max\n", Some(u64::MAX)), ("x", None)] {
            std::fs::write(dir.file("f"), content).unwrap();
            match expected {
                Some(number) => assert_eq!(dir.read_number("f").unwrap(), number),
                None => assert!(matches!(dir.read_number("f"), Err(Error::Malformed { .. }))),
            }
        }
    }

    #[test]
    fn flat_files_are_searched_by_whole_key() {
        let content = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\nbad\n";
        assert_eq!(flat_value(content, "oom_kill"), Some(3));
        assert_eq!(flat_value(content, "oom"), None);
        assert_eq!(flat_value(content, "bad"), None);
    }
}
