//! slirp4netns(1): the way out of the network namespace, and in by forwarded ports.
//!
//! It is a user-mode TCP/IP stack on a tap device, started outside, so no privilege is needed. The
//! host's loopback is kept out of the containers' reach.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use berth_kernel::process_start;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::FdFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{Error, Result};

/// Where slirp4netns answers for names, in its default network.
pub(crate) const NAME_SERVER: &str = "10.0.2.3";

const PROGRAM: &str = "slirp4netns";
/// As large as it takes: fewer packets for the same bytes.
const MTU: &str = "65520";
const PATIENCE: Duration = Duration::from_secs(10);
const SOCKET: &str = "slirp4netns.sock";
const LOG: &str = "slirp4netns.log";
const RECORD: &str = "slirp4netns.pid";

/// Sees to it that one serves the namespaces of `holder`, and says where it takes requests.
pub(crate) fn ensure(directory: &Path, holder: i32) -> Result<PathBuf> {
    let socket = directory.join(SOCKET);
    if !is_running(&directory.join(RECORD)) {
        start(directory, &socket, holder)?;
    }
    Ok(socket)
}

/// The record is its pid and when that was started.
fn is_running(record: &Path) -> bool {
    let text = fs::read_to_string(record).unwrap_or_default();
    let mut words = text.split_ascii_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    let since = words.next().and_then(|word| word.parse::<u64>().ok());
    pid.is_some_and(|pid| since.is_some() && process_start(pid) == since)
}

fn start(directory: &Path, socket: &Path, holder: i32) -> Result<()> {
    let _of_an_earlier_one = fs::remove_file(socket);
    let log = directory.join(LOG);
    let file = File::create(&log).map_err(Error::file("write", &log))?;
    let (ready, told) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::kernel("make a pipe"))?;
    // Its end of the pipe is the one descriptor that it is to have.
    rustix::io::fcntl_setfd(&told, FdFlags::empty()).map_err(Error::kernel("make a pipe"))?;
    let child = Command::new(PROGRAM)
        .args(["--configure", "--mtu", MTU, "--disable-host-loopback"])
        .args(["--enable-sandbox", "--enable-seccomp"])
        .arg(format!("--ready-fd={}", told.as_raw_fd()))
        .arg("--api-socket")
        .arg(socket)
        .arg(holder.to_string())
        .arg("tap0")
        .stdin(Stdio::null())
        .stdout(file.try_clone().map_err(Error::file("write", &log))?)
        .stderr(file)
        .process_group(0)
        .spawn()
        .map_err(Error::start(PROGRAM, PROGRAM))?;
    drop(told);
    if !says_ready(ready) {
        let told = fs::read_to_string(&log).unwrap_or_default();
        let told = told.trim().to_owned();
        return Err(Error::Program {
            program: PROGRAM,
            told,
        });
    }
    let pid = child.id();
    let since = i32::try_from(pid).ok().and_then(process_start).unwrap_or(0);
    let record = directory.join(RECORD);
    fs::write(&record, format!("{pid} {since}\n")).map_err(Error::file("write", &record))
}

/// One byte, or the end of a program that failed.
fn says_ready(ready: OwnedFd) -> bool {
    let patience = rustix::event::Timespec {
        tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let mut waiting = [PollFd::new(&ready, PollFlags::IN)];
    let is_told = matches!(poll(&mut waiting, Some(&patience)), Ok(1));
    is_told && matches!(File::from(ready).read(&mut [0; 1]), Ok(1))
}
