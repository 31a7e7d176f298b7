//! From the `stdin`, `stdout` and `stderr` of a request to open descriptors.
//!
//! | value | meaning |
//! |---|---|
//! | empty | `/dev/null` |
//! | `/path` | a FIFO. Without a terminal the process gets it directly; the shim keeps it open for reading and writing until the process has ended, so that a reader may come, go and come back without the process seeing an end of file or a SIGPIPE |
//! | `cri-log:///path` | a log in the CRI format; the shim reads a pipe and writes the log |
//! | `discard://` | nowhere, but the shim reads it, and clients may attach |
//! | `file:///path` | a regular file that is appended to |
//! | `binary:///path?word=value` | a program that is started for it ([`super::logger`]) |

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::pipe::{PipeFlags, pipe_with};

use super::log::{LogFile, Stream};
use super::logger::{LogProgram, Logger};
use super::pump::{Pump, Role, SharedLog};
use crate::engine::ChildStdio;
use crate::status::Error;

/// The standard streams as a request names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StdioRequest {
    pub terminal: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

/// The process whose streams are opened.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    pub key: u32,
    pub namespace: &'a str,
    pub id: &'a str,
}

/// Our own ends of FIFOs that a process uses directly.
#[derive(Debug, Default)]
pub struct Held {
    pub stdin: Option<OwnedFd>,
    pub outputs: Vec<OwnedFd>,
}

/// Everything opened for a process that is about to be made. Dropping it
/// closes it all.
#[derive(Debug)]
pub struct Prepared {
    pub child: ChildStdio,
    pub held: Held,
    pumps: Vec<Pump>,
    terminal: TerminalEnds,
}

#[derive(Debug, Default)]
struct TerminalEnds {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    log: Option<SharedLog>,
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Null,
    Fifo(PathBuf),
    Log(PathBuf),
    File(PathBuf),
    Program(LogProgram),
    Discard,
}

impl Target {
    fn parse(field: &'static str, value: &str) -> Result<Self, Error> {
        let target = match value.split_once("://") {
            None if value.is_empty() => return Ok(Self::Null),
            None => Self::Fifo(value.into()),
            Some(("cri-log", path)) => Self::Log(path.into()),
            Some(("file", path)) => Self::File(path.into()),
            Some(("binary", text)) => Self::Program(LogProgram::parse(text)),
            Some(("discard", "")) => return Ok(Self::Discard),
            Some(_) => return Err(invalid(field, value)),
        };
        let path = match &target {
            Self::Fifo(path) | Self::Log(path) | Self::File(path) => path,
            Self::Program(program) => &program.path,
            Self::Null | Self::Discard => return Ok(target),
        };
        let climbs = path.components().any(|part| part == Component::ParentDir);
        if !path.is_absolute() || climbs || path.as_os_str().len() >= 4096 {
            return Err(invalid(field, value));
        }
        Ok(target)
    }
}

fn invalid(field: &'static str, value: &str) -> Error {
    Error::Argument {
        field,
        value: value.to_owned(),
    }
}

impl StdioRequest {
    /// Opens all that the process `owner` will need.
    pub fn open(&self, owner: Owner<'_>) -> Result<Prepared, Error> {
        let stdin = Target::parse("stdin", &self.stdin)?;
        let stdout = Target::parse("stdout", &self.stdout)?;
        let stderr = Target::parse("stderr", &self.stderr)?;
        if !matches!(stdin, Target::Null | Target::Fifo(_)) {
            return Err(invalid("stdin", &self.stdin));
        }
        if self.terminal {
            return open_terminal(owner, stdin, stdout);
        }
        let mut held = Held::default();
        let mut pumps = Vec::new();
        let child_stdin = match stdin {
            Target::Fifo(path) => {
                let (ours, theirs) = open_fifo(&path, OFlags::RDONLY)?;
                held.stdin = Some(ours);
                theirs
            }
            _ => open_null(OFlags::RDONLY)?,
        };
        let mut logs: Vec<(PathBuf, SharedLog)> = Vec::new();
        let mut loggers: Vec<(LogProgram, Logger)> = Vec::new();
        let mut output = |target: Target, stream: Stream| match target {
            Target::Null => open_null(OFlags::WRONLY),
            Target::Fifo(path) => {
                let (ours, theirs) = open_fifo(&path, OFlags::WRONLY)?;
                held.outputs.push(ours);
                Ok(theirs)
            }
            Target::File(path) => open_file(&path),
            Target::Program(program) => match loggers.iter().find(|(known, _)| *known == program) {
                Some((_, logger)) => logger.end(stream),
                None => {
                    let logger = program.start(owner.namespace, owner.id)?;
                    let end = logger.end(stream);
                    loggers.push((program, logger));
                    end
                }
            },
            Target::Discard => {
                let (source, theirs) = open_pipe()?;
                pumps.push(Pump::new(owner.key, Role::Output(stream), source));
                Ok(theirs)
            }
            Target::Log(path) => {
                let log = match logs.iter().find(|(known, _)| *known == path) {
                    Some((_, log)) => Rc::clone(log),
                    None => {
                        let log = Rc::new(RefCell::new(LogFile::open(&path)?));
                        logs.push((path, Rc::clone(&log)));
                        log
                    }
                };
                let (source, theirs) = open_pipe()?;
                pumps.push(Pump::new(owner.key, Role::Output(stream), source).with_log(log));
                Ok(theirs)
            }
        };
        let child_stdout = output(stdout, Stream::Stdout)?;
        let child_stderr = output(stderr, Stream::Stderr)?;
        Ok(Prepared {
            child: ChildStdio::Files {
                stdin: child_stdin,
                stdout: child_stdout,
                stderr: child_stderr,
            },
            held,
            pumps,
            terminal: TerminalEnds::default(),
        })
    }
}

impl Prepared {
    /// Takes out what the engine needs.
    pub fn take_child(&mut self) -> ChildStdio {
        std::mem::replace(&mut self.child, ChildStdio::Terminal)
    }

    /// The pumps to run now that the process exists, and what stays open beside
    /// them. `master` is the terminal, if one was asked for.
    pub fn into_pumps(
        self,
        owner: u32,
        master: Option<&OwnedFd>,
    ) -> Result<(Held, Vec<Pump>), Error> {
        let mut pumps = self.pumps;
        if let Some(master) = master {
            let copy = || {
                rustix::io::fcntl_dupfd_cloexec(master, 3)
                    .map_err(|source| Error::system("duplicate terminal", source))
            };
            rustix::io::ioctl_fionbio(master, true)
                .map_err(|source| Error::system("make terminal non-blocking", source))?;
            // Even without a destination the output is read, or the process
            // would block once the terminal's buffer is full.
            let mut output = Pump::new(owner, Role::Output(Stream::Stdout), copy()?);
            if let Some(log) = self.terminal.log {
                output = output.with_log(log);
            }
            if let Some(fifo) = self.terminal.stdout {
                output = output.with_output(fifo);
            }
            pumps.push(output);
            if let Some(fifo) = self.terminal.stdin {
                pumps.push(Pump::new(owner, Role::Input, fifo).with_output(copy()?));
            }
        }
        Ok((self.held, pumps))
    }
}

fn open_terminal(owner: Owner<'_>, stdin: Target, stdout: Target) -> Result<Prepared, Error> {
    let mut terminal = TerminalEnds::default();
    if let Target::Fifo(path) = stdin {
        terminal.stdin = Some(open_own_fifo(&path)?);
    }
    match stdout {
        Target::Null | Target::Discard => {}
        Target::Fifo(path) => terminal.stdout = Some(open_own_fifo(&path)?),
        Target::File(path) => terminal.stdout = Some(open_file(&path)?),
        Target::Program(program) => {
            let logger = program.start(owner.namespace, owner.id)?;
            let end = logger.end(Stream::Stdout)?;
            rustix::io::ioctl_fionbio(&end, true)
                .map_err(|source| Error::system("make pipe non-blocking", source))?;
            terminal.stdout = Some(end);
        }
        Target::Log(path) => {
            terminal.log = Some(Rc::new(RefCell::new(LogFile::open(&path)?)));
        }
    }
    Ok(Prepared {
        child: ChildStdio::Terminal,
        held: Held::default(),
        pumps: Vec::new(),
        terminal,
    })
}

/// Opens the write end of a FIFO whose reader is already there, for an
/// attached client. Fails with ENXIO when nobody reads.
pub fn open_guest(path: &str) -> Result<OwnedFd, Error> {
    let Target::Fifo(path) = Target::parse("fifo", path)? else {
        return Err(invalid("fifo", path));
    };
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open(&path, flags, Mode::empty())
        .map_err(|source| Error::path("open FIFO", &path, source))?;
    check_fifo(&path, &fd)?;
    Ok(fd)
}

/// Opens the read end of a FIFO, whose writers may come later.
pub fn open_source(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open(path, flags, Mode::empty())
        .map_err(|source| Error::path("open FIFO", path, source))?;
    check_fifo(path, &fd)?;
    Ok(fd)
}

fn open_own_fifo(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open(path, flags, Mode::empty())
        .map_err(|source| Error::path("open FIFO", path, source))?;
    check_fifo(path, &fd)?;
    Ok(fd)
}

fn check_fifo(path: &Path, fd: &OwnedFd) -> Result<(), Error> {
    let stat = fstat(fd).map_err(|source| Error::path("stat", path, source))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Err(invalid("FIFO", &path.display().to_string()));
    }
    Ok(())
}

/// Our end and the process's. The process's is opened through ours, so that
/// both are the same FIFO whatever happens to the path, and it blocks.
fn open_fifo(path: &Path, mode: OFlags) -> Result<(OwnedFd, OwnedFd), Error> {
    let ours = open_own_fifo(path)?;
    let same = format!("/proc/self/fd/{}", ours.as_raw_fd());
    let theirs = open(same, mode | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| Error::path("open FIFO", path, source))?;
    Ok((ours, theirs))
}

fn open_file(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(path, flags, Mode::from_raw_mode(0o640))
        .map_err(|source| Error::path("open", path, source))
}

fn open_null(mode: OFlags) -> Result<OwnedFd, Error> {
    open("/dev/null", mode | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| Error::path("open", "/dev/null", source))
}

/// A pipe whose read end is non-blocking; the write end is the process's.
fn open_pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let fail = |source| Error::system("create pipe", source);
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(fail)?;
    rustix::io::ioctl_fionbio(read.as_fd(), true).map_err(fail)?;
    Ok((read, write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_and_absolute_targets_are_accepted() {
        for (value, expected) in [
            ("", Some(Target::Null)),
            ("/run/f", Some(Target::Fifo("/run/f".into()))),
            ("cri-log:///l/0.log", Some(Target::Log("/l/0.log".into()))),
            ("file:///l", Some(Target::File("/l".into()))),
            ("discard://", Some(Target::Discard)),
            ("discard:///l", None),
            ("relative", None),
            ("cri-log://relative", None),
            ("cri-log:///logs/../../etc/passwd", None),
            ("/run/../f", None),
            (
                "binary:///bin/logger?a=b",
                Some(Target::Program(LogProgram::parse("/bin/logger?a=b"))),
            ),
            ("binary://logger", None),
            ("binary:///bin/%2e%2e/logger", None),
            ("://", None),
        ] {
            assert_eq!(Target::parse("stdout", value).ok(), expected, "{value}");
        }
    }

    #[test]
    fn what_is_not_a_fifo_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [file, link, dir.path().join("missing")] {
            let request = StdioRequest {
                stdout: path.display().to_string(),
                ..StdioRequest::default()
            };
            let owner = Owner {
                key: 1,
                namespace: "",
                id: "",
            };
            assert!(request.open(owner).is_err(), "{}", path.display());
        }
    }
}
