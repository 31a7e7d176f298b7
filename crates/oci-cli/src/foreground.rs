//! Waiting for a process in the foreground: signals go to it, its terminal is
//! ours, its end is ours.

use crate::error::{Error, Result};
use crate::signal::{SIGCHLD, SIGWINCH};
use berth_kernel::rustix::event::{PollFd, PollFlags, poll};
use berth_kernel::rustix::io::{read, write};
use berth_kernel::rustix::process::{WaitOptions, wait};
use berth_kernel::rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use berth_kernel::{Errno, SignalDescriptor};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Not passed on: those that cannot be caught, those that tell of a fault in
/// this program, and the job control of our own terminal.
const KEPT: [i32; 10] = [4, 5, 6, 7, 8, 9, 11, 19, 21, 22];
const HIGHEST: i32 = 31;

/// Signals that arrive from now on, to be passed on. Made before the process,
/// so that none is lost.
#[derive(Debug)]
pub struct Foreground {
    signals: SignalDescriptor,
}

impl Foreground {
    pub fn new() -> Result<Self> {
        let signals: Vec<i32> = (1..=HIGHEST)
            .filter(|signal| !KEPT.contains(signal))
            .collect();
        let signals = SignalDescriptor::new(&signals).map_err(Error::system("watch signals"))?;
        Ok(Self { signals })
    }

    /// Waits until the process, a child, has ended. Answers with its exit
    /// status, or 128 and the signal that ended it.
    pub fn wait(&self, pid: i32, pidfd: BorrowedFd<'_>, terminal: Option<OwnedFd>) -> Result<u8> {
        let mut relay = terminal.map(Relay::new);
        loop {
            let readable = self.poll(relay.as_ref())?;
            if let Some(relay) = &mut relay {
                relay.pass_on(readable[1], readable[2]);
            }
            if readable[0]
                && let Some(status) = self.take_signals(pid, pidfd, relay.as_ref())?
            {
                if let Some(relay) = &mut relay {
                    relay.drain();
                }
                return Ok(status);
            }
        }
    }

    /// Which of signals, our input and the terminal's output can be read.
    fn poll(&self, relay: Option<&Relay>) -> Result<[bool; 3]> {
        let input = std::io::stdin();
        let mut descriptors = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut places = [0; 3];
        if let Some(relay) = relay {
            if relay.input_open {
                places[1] = descriptors.len();
                descriptors.push(PollFd::new(&input, PollFlags::IN));
            }
            if relay.output_open {
                places[2] = descriptors.len();
                descriptors.push(PollFd::new(&relay.master, PollFlags::IN));
            }
        }
        loop {
            match poll(&mut descriptors, None) {
                Err(Errno::INTR) => {}
                Ok(_) => break,
                Err(errno) => return Err(Error::system("wait")(errno)),
            }
        }
        let ready = |place: usize| !descriptors[place].revents().is_empty();
        Ok([
            ready(0),
            places[1] > 0 && ready(places[1]),
            places[2] > 0 && ready(places[2]),
        ])
    }

    /// Passes signals on; the status once the process has ended.
    fn take_signals(
        &self,
        pid: i32,
        pidfd: BorrowedFd<'_>,
        relay: Option<&Relay>,
    ) -> Result<Option<u8>> {
        let mut ended = None;
        while let Some(info) = self.signals.read().map_err(Error::system("read signals"))? {
            match (info.signal, relay) {
                (SIGCHLD, _) => ended = ended.or(reap(pid)?),
                (SIGWINCH, Some(relay)) => relay.resize(),
                // One that has just ended has nothing to be told.
                (signal, _) => drop(berth_kernel::pidfd_send_signal(pidfd, signal)),
            }
        }
        Ok(ended)
    }
}

/// Reaps every child that has ended, also those that were left to us as their
/// subreaper; the status of `pid` if it is among them.
fn reap(pid: i32) -> Result<Option<u8>> {
    let mut found = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Err(Errno::INTR) => {}
            Err(Errno::CHILD) | Ok(None) => return Ok(found),
            Err(errno) => return Err(Error::system("wait for a child")(errno)),
            Ok(Some((child, status))) if child.as_raw_pid() == pid => {
                let exit = status.exit_status();
                let killed = status.terminating_signal().map(|signal| 128 + signal);
                let status = exit.or(killed).unwrap_or(0);
                found = Some(u8::try_from(status).unwrap_or(u8::MAX));
            }
            Ok(Some(_)) => {}
        }
    }
}

/// Copies between our streams and the process's terminal.
#[derive(Debug)]
struct Relay {
    master: OwnedFd,
    input_open: bool,
    output_open: bool,
    /// Our own terminal's settings before, given back in the end.
    before: Option<Termios>,
}

impl Relay {
    fn new(master: OwnedFd) -> Self {
        let input = std::io::stdin();
        let before = isatty(&input).then(|| tcgetattr(&input).ok()).flatten();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = tcsetattr(&input, OptionalActions::Now, &raw);
        }
        let relay = Self {
            master,
            input_open: true,
            output_open: true,
            before,
        };
        relay.resize();
        relay
    }

    /// The process's terminal is as large as ours.
    fn resize(&self) {
        if let Ok(size) = berth_kernel::window_size(std::io::stdin()) {
            let _ = berth_kernel::set_window_size(&self.master, size);
        }
    }

    fn pass_on(&mut self, input: bool, output: bool) {
        if input && !copy(std::io::stdin().as_fd(), self.master.as_fd()) {
            self.input_open = false;
        }
        if output && !copy(self.master.as_fd(), std::io::stdout().as_fd()) {
            self.output_open = false;
        }
    }

    /// What the process wrote before it ended.
    fn drain(&mut self) {
        use berth_kernel::rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
        let flags = fcntl_getfl(&self.master).unwrap_or(OFlags::empty());
        let _ = fcntl_setfl(&self.master, flags | OFlags::NONBLOCK);
        while self.output_open && copy(self.master.as_fd(), std::io::stdout().as_fd()) {}
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// One read and as many writes as it takes; false at the end. A terminal
/// whose other side is closed reads as `EIO`.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; 4096];
    let length = match read(from, &mut buffer) {
        Err(Errno::INTR) => return true,
        Err(_) | Ok(0) => return false,
        Ok(length) => length,
    };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match write(to, rest) {
            Err(Errno::INTR) => {}
            Err(_) => return false,
            Ok(written) => rest = &rest[written..],
        }
    }
    true
}
