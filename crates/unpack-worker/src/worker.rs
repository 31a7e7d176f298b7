//! The worker's side: what a program does that was started as one.

use std::fs::{self, File};
use std::io::{self, Stdout, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use berth_kernel::Errno;
use berth_unpack::{Error, Fault, Marker, Options};

use rustix::fs::{Mode, OFlags};

use crate::ARGUMENT;
use crate::answer::{Answer, Marked, readable, receive, send};
use crate::confinement::shut_in;
use crate::process;

/// Under a shortage of memory a pull that fails is better than a container that dies.
const OOM_SCORE: &str = "500";
/// Allocator arenas, of two threads.
const ARENAS: i32 = 1;

/// Whether this program was started to be a worker.
pub fn is_asked_for() -> bool {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().is_some_and(|first| first == ARGUMENT) && arguments.next().is_none()
}

/// Unpacks the layer that is asked for, and answers. To be called before any thread is made.
pub fn serve() -> ExitCode {
    match begin() {
        Ok(Some(status)) => ExitCode::from(status),
        // Nobody is there any more.
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            let answer = Answer::Failed {
                told: readable(&format!("the process that unpacks: {error}")),
                fault: Fault::Host,
            };
            let _nobody_is_there = send(stdout(), &answer, &[]);
            ExitCode::FAILURE
        }
    }
}

fn begin() -> io::Result<Option<u8>> {
    process::end_with_parent()?;
    let Some((options, received)) = receive::<Options>(stdout())? else {
        return Ok(None);
    };
    let mount = received.fds.into_iter().next();
    let mount = mount.ok_or_else(|| io::Error::other("no layer came with the order"))?;
    // A mount's own descriptor stands for a path, and nothing can be marked by that.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let layer = rustix::fs::openat(&mount, c".", flags, Mode::empty())?;
    fs::write("/proc/self/oom_score_adj", OOM_SCORE)?;
    berth_kernel::limit_arenas(ARENAS);
    // Which they are is read from /proc, which is about to be left.
    let _known_from_here_on = berth_kernel::overlay_marks();
    if let Some(status) = shut_in()? {
        return Ok(Some(status));
    }
    let input = stdin().as_fd().try_clone_to_owned()?;
    let answer = unpack(File::from(input), &layer, &options);
    send(stdout(), &answer, &[])?;
    Ok(Some(0))
}

fn unpack(input: File, layer: &OwnedFd, options: &Options) -> Answer {
    // Nobody reads what it would say.
    std::panic::set_hook(Box::new(|_| {}));
    let marker = Asking { socket: stdout() };
    let apply = || berth_unpack::apply_compressed_by(input, layer.as_fd(), options, &marker);
    match catch_unwind(AssertUnwindSafe(apply)) {
        Ok(Ok(applied)) => Answer::Applied(applied),
        Ok(Err(error)) => Answer::failure(&error),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
            Answer::failure(&Error::Lost {
                how: format!("it panicked: {}", said.unwrap_or("for no reason")),
            })
        }
    }
}

/// Has the daemon mark directories: this process may not.
struct Asking {
    socket: Stdout,
}

impl Marker for Asking {
    fn opaque(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        send(&self.socket, &Answer::Mark, &[dir])?;
        match receive::<Marked>(&self.socket)? {
            Some((Marked(None), _)) => Ok(()),
            Some((Marked(Some(errno)), _)) => Err(Errno::from_raw_os_error(errno).into()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}
