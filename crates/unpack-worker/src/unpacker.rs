//! The daemon's side: a worker for each layer.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;

use berth_kernel::{
    AttributeChange, Errno, MountFlags, clone_tree, receive_with_fds, set_attributes, socket_pair,
};
use berth_unpack::{Applied, Directly, Error, Marker, Options, Result};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, accessat, fstat};

use crate::ARGUMENT;
use crate::answer::{Answer, Marked, readable, receive, send};

/// What is copied to the worker at once, and what waits for it.
const PIECE: usize = 256 << 10;
const AHEAD: usize = 1 << 20;
/// How a shell tells that a signal ended a program.
const SIGNALLED: i32 = 128;

/// A program that calls [`crate::serve`] when [`crate::is_asked_for`] says so.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    /// Keeps what is executed from being another one.
    _file: Option<Arc<OwnedFd>>,
}

impl Program {
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            _file: None,
        }
    }

    /// The program as it is now: also after its file was replaced.
    ///
    /// # Errors
    /// The kernel's: there is none, or it is not for this user.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        accessat(CWD, path, Access::EXEC_OK, AtFlags::empty())?;
        Ok(Self {
            path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
            _file: Some(Arc::new(file)),
        })
    }

    /// The calling program itself, as it was started.
    pub fn own() -> Self {
        Self::at("/proc/self/exe")
    }
}

/// Who unpacks layers.
#[derive(Debug, Clone)]
pub enum Unpacker {
    /// The calling process itself, with all that it can reach: for tests of other things.
    Here,
    /// A worker for each layer.
    Apart(Program),
}

impl Unpacker {
    /// Like [`berth_unpack::apply_compressed`]. Blocks; a worker ends with the thread that calls.
    pub fn unpack(
        &self,
        reader: impl Read + Send,
        target: BorrowedFd<'_>,
        options: &Options,
    ) -> Result<Applied> {
        match self {
            Self::Here => berth_unpack::apply_compressed(reader, target, options),
            Self::Apart(program) => apart(program, reader, target, options),
        }
    }
}

fn apart(
    program: &Program,
    reader: impl Read + Send,
    target: BorrowedFd<'_>,
    options: &Options,
) -> Result<Applied> {
    let (input, feed) = pipe().map_err(failed("making a pipe"))?;
    let mut worker = Worker::start(program, input).map_err(failed("starting a program"))?;
    let layer = self::layer(target).map_err(failed("making a mount"))?;
    let device = fstat(target).map_err(|errno| failed("looking at the layer")(errno.into()))?;
    // One that ended before it was asked has said why, or is lost.
    let _see_its_answer = send(&worker.socket, options, &[layer.as_fd()]);
    drop(layer);
    thread::scope(|scope| {
        let feeder = scope.spawn(move || copy(reader, feed));
        let answered = worker.answered(device.st_dev);
        let answered = answered.unwrap_or_else(|| {
            let how = worker.how_it_ended();
            Err(Error::Lost { how })
        });
        // It has nothing more to say: feeding it fails from here on.
        drop(worker);
        let fed = feeder.join().unwrap_or(Fed::Refused);
        match (fed, answered) {
            (Fed::Broken { offset, source }, _) => Err(Error::Read { offset, source }),
            (Fed::Whole, answered) | (Fed::Refused, answered @ Err(_)) => answered,
            (Fed::Refused, Ok(_)) => Err(lost("it answered before it had the whole layer")),
        }
    })
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Process { operation, source }
}

fn lost(how: &str) -> Error {
    Error::Lost {
        how: how.to_owned(),
    }
}

fn pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (input, feed) = io::pipe()?;
    // Users are allowed less than root; a small pipe is slower, nothing else.
    let _as_large_as_it_is = rustix::pipe::fcntl_setpipe_size(&feed, AHEAD);
    Ok((input, feed))
}

/// The directory as the root of a mount of its own, which nothing leads out of. In it nothing is
/// started, and no device opened.
///
/// # Errors
/// The kernel's.
pub fn layer(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mount = clone_tree(directory, Path::new(""), false)?;
    let change = AttributeChange {
        set: MountFlags::MOUNT_ATTR_NOSUID
            | MountFlags::MOUNT_ATTR_NODEV
            | MountFlags::MOUNT_ATTR_NOEXEC,
        ..AttributeChange::default()
    };
    set_attributes(&mount, &change, None, false)?;
    Ok(mount)
}

/// What came of feeding a worker.
enum Fed {
    Whole,
    /// The worker takes no more.
    Refused,
    /// What is fed could not be read on.
    Broken {
        offset: u64,
        source: io::Error,
    },
}

fn copy(mut reader: impl Read, mut feed: PipeWriter) -> Fed {
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    loop {
        let count = match reader.read(&mut piece) {
            Ok(0) => return Fed::Whole,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Fed::Broken { offset, source },
        };
        let read = piece.get(..count).unwrap_or_default();
        if feed.write_all(read).is_err() {
            return Fed::Refused;
        }
        offset += count as u64;
    }
}

/// A process that unpacks. Dropped, it is killed and gone.
struct Worker {
    child: Child,
    socket: OwnedFd,
}

impl Worker {
    fn start(program: &Program, input: PipeReader) -> io::Result<Self> {
        let (socket, theirs) = socket_pair()?;
        // Without anything that would have code of this program run between fork and exec.
        let child = Command::new(&program.path)
            .arg0("berth-unpack")
            .arg(ARGUMENT)
            .env_clear()
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(theirs))
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, socket })
    }

    /// Does what the worker asks for until it has answered. `None` if it ends without.
    fn answered(&self, device: u64) -> Option<Result<Applied>> {
        loop {
            let (answer, received) = match receive::<Answer>(&self.socket) {
                Ok(Some(message)) => message,
                Ok(None) => return None,
                Err(_) => return Some(Err(lost("its answer is not understood"))),
            };
            match answer {
                Answer::Mark => {
                    let directory = received.fds.first();
                    let none = || Err(Errno::BADF.into());
                    let marked = directory.map_or_else(none, |dir| mark(dir, device));
                    let failed = |error: io::Error| Errno::from_io_error(&error);
                    let errno = marked.err().map(|error| failed(error).unwrap_or(Errno::IO));
                    let errno = errno.map(Errno::raw_os_error);
                    // If it is not there any more, that is found next.
                    let _see_above = send(&self.socket, &Marked(errno), &[]);
                }
                Answer::Applied(applied) => return Some(Ok(applied)),
                Answer::Failed { told, fault } => {
                    let told = readable(&told);
                    return Some(Err(Error::Told { told, fault }));
                }
            }
        }
    }

    /// Of one that is not heard of any more, which is its end.
    fn how_it_ended(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => told(status),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _has_ended = self.child.kill();
        let _was_waited_for = self.child.wait();
        // The process in the namespaces is killed with the one outside, and is gone when nobody has
        // the other end of the socket: from then on nothing is made in the layer.
        let mut unheard = [0; 1];
        loop {
            match receive_with_fds(&self.socket, &mut unheard) {
                Ok(received) if received.length > 0 => {}
                Err(Errno::INTR) => {}
                _ => return,
            }
        }
    }
}

/// Does for a worker what it may not. A directory of another file system cannot be of the layer.
fn mark(directory: &OwnedFd, device: u64) -> io::Result<()> {
    let found = fstat(directory)?;
    let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    if !is_directory || found.st_dev != device {
        return Err(Errno::PERM.into());
    }
    Directly.opaque(directory.as_fd())
}

/// The process outside tells as a shell what became of the one in the namespaces.
fn told(status: ExitStatus) -> String {
    let by_proxy = status.code().filter(|code| *code > SIGNALLED);
    let signal = status.signal().or(by_proxy.map(|code| code - SIGNALLED));
    match (signal, status.code()) {
        (Some(signal), _) => format!("signal {signal} ended it"),
        (None, Some(code)) => format!("it ended with status {code}"),
        (None, None) => status.to_string(),
    }
}
