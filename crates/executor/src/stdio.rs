//! Standard streams and the terminal.

use crate::ProcessStdio;
use crate::devices;
use crate::identity::IdentityPlan;
use crate::places::{self, PlaceKind};
use crate::report::{Failure, Reporter};
use crate::step::Step;
use crate::user_namespace::UserNamespace;
use berth_kernel::rustix::fs::{FileType, Mode, OFlags, Uid, fchown, fstat};
use berth_kernel::{Errno, WindowSize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// File system type of devpts (statfs(2)).
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// Streams that are ready to take the places of 0, 1 and 2.
#[derive(Debug)]
pub(crate) enum Streams {
    Files([OwnedFd; 3]),
    Terminal { slave: OwnedFd },
}

/// Opens what the process will read and write. For a terminal, it is one of
/// the container's own devpts; its master goes to the runtime.
pub(crate) fn open(
    root: BorrowedFd<'_>,
    stdio: &ProcessStdio,
    size: Option<WindowSize>,
    reporter: &Reporter,
) -> Result<Streams, Failure> {
    match stdio {
        ProcessStdio::Files {
            stdin,
            stdout,
            stderr,
        } => {
            let file = |fd: &Option<OwnedFd>| match fd {
                // Out of the way of the numbers 0 to 2.
                Some(fd) => berth_kernel::duplicate_to(fd, 3),
                None => {
                    devices::open_null(root).and_then(|null| berth_kernel::duplicate_to(null, 3))
                }
            };
            let open = |fd, name| file(fd).map_err(Failure::of(Step::ConnectStreams, name));
            Ok(Streams::Files([
                open(stdin, "stdin")?,
                open(stdout, "stdout")?,
                open(stderr, "stderr")?,
            ]))
        }
        ProcessStdio::Terminal => {
            let devpts = Path::new("/dev/pts");
            let failed = || Failure::at(Step::OpenTerminal, devpts);
            let pty = open_pty(root, devpts).map_err(failed())?;
            if let Some(size) = size {
                berth_kernel::set_window_size(&pty.master, size).map_err(failed())?;
            }
            reporter.terminal(&pty.master);
            let slave = berth_kernel::duplicate_to(&pty.slave, 3).map_err(failed())?;
            Ok(Streams::Terminal { slave })
        }
    }
}

fn open_pty(root: BorrowedFd<'_>, devpts: &Path) -> berth_kernel::Result<berth_kernel::Pty> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let directory = berth_kernel::open_in_root(root, devpts, flags, Mode::empty())?;
    let found = berth_kernel::rustix::fs::fstatfs(&directory)?;
    if u64::try_from(found.f_type) != Ok(DEVPTS_SUPER_MAGIC) {
        return Err(Errno::NODEV);
    }
    berth_kernel::open_pty_from(&directory)
}

/// Binds the terminal onto `/dev/console`. The name must be free or an
/// ordinary file or device; a link there is refused.
pub(crate) fn attach_console(root: BorrowedFd<'_>, slave: &OwnedFd) -> Result<(), Failure> {
    let path = Path::new("/dev/console");
    let failed = || Failure::at(Step::AttachConsole, path);
    let dev =
        places::find_or_make(root, Path::new("/dev"), PlaceKind::Directory).map_err(failed())?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || berth_kernel::rustix::fs::openat(&dev, "console", flags, Mode::empty());
    let place = match open() {
        Err(Errno::NOENT) => {
            let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            berth_kernel::rustix::fs::openat(&dev, "console", create, Mode::from_raw_mode(0o600))
                .map_err(failed())?;
            open().map_err(failed())?
        }
        found => found.map_err(failed())?,
    };
    let found = fstat(&place).map_err(failed())?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Symlink {
        return Err(failed()(Errno::LOOP));
    }
    let mount = berth_kernel::clone_tree(slave, Path::new(""), false).map_err(failed())?;
    berth_kernel::attach(&mount, &place).map_err(failed())
}

/// Gives the streams to a user of the container, by the number that the host
/// knows that user by: inside a user namespace nobody may give away what
/// belongs to the host's root.
pub(crate) fn give_as_host(
    stdio: &ProcessStdio,
    user: &UserNamespace,
    identity: &IdentityPlan,
) -> Result<(), Failure> {
    let ProcessStdio::Files {
        stdin,
        stdout,
        stderr,
    } = stdio
    else {
        return Ok(());
    };
    let Some(owner) = user.outer_uid(identity.uid) else {
        return Ok(());
    };
    [stdin, stdout, stderr]
        .into_iter()
        .flatten()
        .try_for_each(|file| give(file, owner))
        .map_err(Failure::of(Step::ConnectStreams, ""))
}

/// Puts the streams into place for the calling session leader, owned by the
/// user, so that `/dev/stdout` can be opened again by its name.
pub(crate) fn connect(streams: Streams, owner: u32) -> Result<(), Failure> {
    let failed = || Failure::of(Step::ConnectStreams, "");
    match &streams {
        Streams::Files(files) => {
            for (file, number) in files.iter().zip(0..) {
                give(file, owner).map_err(failed())?;
                berth_kernel::duplicate_onto(file, number).map_err(failed())?;
            }
        }
        Streams::Terminal { slave } => {
            give(slave, owner).map_err(failed())?;
            berth_kernel::make_controlling(slave)
                .map_err(Failure::of(Step::OpenTerminal, "controlling terminal"))?;
            for number in 0..=2 {
                berth_kernel::duplicate_onto(slave.as_fd(), number).map_err(failed())?;
            }
        }
    }
    Ok(())
}

/// Files and devices such as `/dev/null` that others share keep their owner.
fn give(file: &OwnedFd, owner: u32) -> berth_kernel::Result<()> {
    let found = fstat(file)?;
    let ours = match FileType::from_raw_mode(found.st_mode) {
        FileType::Fifo | FileType::Socket => true,
        FileType::CharacterDevice => berth_kernel::rustix::termios::isatty(file),
        _ => false,
    };
    if !ours || found.st_uid == owner {
        return Ok(());
    }
    match fchown(file, Some(Uid::from_raw(owner)), None) {
        // Streams on file systems that have no owners, or not these.
        Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => Ok(()),
        Err(errno) => Err(errno),
    }
}
