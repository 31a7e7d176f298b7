//! Moves bytes from one descriptor to a log and to further descriptors.
//!
//! A pump reads nothing while one of its outputs has not taken the previous
//! chunk: the pressure goes back to the process through its pipe or terminal,
//! and a pump holds one chunk at most. An output that belongs to an attached
//! client is cut off when it takes nothing for [`PATIENCE`]; the process and
//! its log are not held up for a client that hangs.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::log::{Lines, LogFile, Stream};
use crate::poller::{Poller, Token};
use berth_executor::Stamp;

/// How long an attached client may take nothing before it is cut off.
pub const PATIENCE: Duration = Duration::from_secs(10);
const CHUNK_LEN: usize = 32 << 10;

/// A log file shared by the streams of one process.
pub type SharedLog = Rc<RefCell<LogFile>>;

/// What a pump is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Input,
    Output(Stream),
}

#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    /// Bytes of the pending chunk that this output took.
    taken: usize,
    /// An attached client, not the stream's own destination.
    guest: bool,
    stalled: Option<Instant>,
}

impl Output {
    /// The last reader of the FIFO has closed it: poll(2) then reports POLLERR for its write end.
    fn is_abandoned(&self) -> bool {
        let mut polled = [PollFd::new(&self.fd, PollFlags::empty())];
        let now = rustix::event::Timespec::default();
        rustix::event::poll(&mut polled, Some(&now)).is_ok()
            && polled[0].revents().contains(PollFlags::ERR)
    }
}

#[derive(Debug)]
pub struct Pump {
    pub owner: u32,
    pub role: Role,
    source: OwnedFd,
    watching_source: bool,
    ended: bool,
    /// Nothing more is written to the source: it ends when it is empty.
    finishing: bool,
    log: Option<(Lines, SharedLog)>,
    outputs: Vec<Output>,
    pending: Vec<u8>,
    /// Set when the process was deleted: what is left may go out until then.
    pub linger: Option<Instant>,
}

impl Pump {
    /// `source` is non-blocking and belongs to the pump alone.
    pub fn new(owner: u32, role: Role, source: OwnedFd) -> Self {
        Self {
            owner,
            role,
            source,
            watching_source: false,
            ended: false,
            finishing: false,
            log: None,
            outputs: Vec::new(),
            pending: Vec::new(),
            linger: None,
        }
    }

    pub fn with_log(mut self, log: SharedLog) -> Self {
        if let Role::Output(stream) = self.role {
            self.log = Some((Lines::new(stream), log));
        }
        self
    }

    /// Adds the stream's own destination, non-blocking.
    pub fn with_output(mut self, fd: OwnedFd) -> Self {
        self.push_output(fd, false);
        self
    }

    /// Adds an attached client. It gets what is read from now on. It is watched for its end, as
    /// a process that prints nothing would keep it for ever.
    pub fn add_guest(&mut self, fd: OwnedFd, poller: &Poller, id: u32) {
        let _ = poller.watch_end(&fd, Token::Sink(id));
        self.push_output(fd, true);
    }

    pub fn drop_absent_guests(&mut self) {
        self.outputs
            .retain(|output| !(output.guest && output.is_abandoned()));
        self.write();
    }

    /// Delivers what is still in the source and ends.
    pub fn finish(&mut self) {
        self.finishing = true;
        self.go_on();
    }

    /// A source that is to end is emptied as far as the outputs take it.
    pub fn go_on(&mut self) {
        while self.finishing && self.read() > 0 {}
    }

    fn push_output(&mut self, fd: OwnedFd, guest: bool) {
        self.outputs.push(Output {
            fd,
            taken: self.pending.len(),
            guest,
            stalled: None,
        });
    }

    pub fn log(&self) -> Option<&SharedLog> {
        self.log.as_ref().map(|(_, log)| log)
    }

    /// The source has ended and everything is delivered.
    pub fn is_done(&self) -> bool {
        self.ended && self.pending.is_empty()
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// When an attached client will be cut off, or the pump's time is over.
    pub fn deadline(&self) -> Option<Instant> {
        let stalls = self.outputs.iter().filter(|output| output.guest);
        stalls
            .filter_map(|output| output.stalled.map(|since| since + PATIENCE))
            .chain(self.linger)
            .min()
    }

    /// Starts or stops watching according to what the pump can do now.
    /// A source that must not be read is taken out of the set altogether, as
    /// its hang-up would be reported over and over.
    pub fn watch(&mut self, poller: &Poller, id: u32) {
        let wanted = !self.ended && self.pending.is_empty();
        if wanted != self.watching_source {
            if wanted {
                self.watching_source = poller.watch_reads(&self.source, Token::Source(id)).is_ok();
            } else {
                poller.forget(&self.source);
                self.watching_source = false;
            }
        }
        for output in &mut self.outputs {
            let blocked = output.taken < self.pending.len();
            match (blocked, output.stalled) {
                (true, None) => {
                    if output.guest {
                        poller.change(&output.fd, Token::Sink(id), false, true);
                    } else {
                        let _ = poller.watch_writes(&output.fd, Token::Sink(id));
                    }
                    output.stalled = Some(Instant::now());
                }
                (false, Some(_)) => {
                    if output.guest {
                        poller.change(&output.fd, Token::Sink(id), false, false);
                    } else {
                        poller.forget(&output.fd);
                    }
                    output.stalled = None;
                }
                _ => {}
            }
        }
    }

    /// The source is readable: moves one chunk. Returns how many bytes were read.
    pub fn read(&mut self) -> usize {
        if self.ended || !self.pending.is_empty() {
            return 0;
        }
        let mut chunk = Vec::with_capacity(CHUNK_LEN);
        match rustix::io::read(&self.source, spare_capacity(&mut chunk)) {
            Ok(count) if count > 0 => {
                self.deliver(chunk);
                return count;
            }
            Err(Errno::AGAIN) if self.finishing => self.end(),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO: the last user of a terminal has closed it.
            Ok(_) | Err(_) => self.end(),
        }
        0
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some((lines, log)) = &mut self.log {
            let mut log = log.borrow_mut();
            log.begin(Stamp::now());
            lines.finish(&mut *log);
            log.flush();
        }
    }

    fn deliver(&mut self, chunk: Vec<u8>) {
        if let Some((lines, log)) = &mut self.log {
            let mut log = log.borrow_mut();
            log.begin(Stamp::now());
            lines.push(&chunk, &mut *log);
            log.flush();
        }
        for output in &mut self.outputs {
            output.taken = 0;
        }
        self.pending = chunk;
        self.write();
    }

    /// Gives each output what it still lacks of the pending chunk. Outputs
    /// whose reader is gone are dropped.
    pub fn write(&mut self) {
        let pending = &self.pending;
        self.outputs.retain_mut(|output| {
            while output.taken < pending.len() {
                match rustix::io::write(&output.fd, &pending[output.taken..]) {
                    Ok(count) => {
                        output.taken += count;
                        output.stalled = output.stalled.map(|_| Instant::now());
                    }
                    Err(Errno::AGAIN) => return true,
                    Err(Errno::INTR) => {}
                    Err(_) => return false,
                }
            }
            true
        });
        if self
            .outputs
            .iter()
            .all(|output| output.taken == self.pending.len())
        {
            self.pending = Vec::new();
            self.outputs.iter_mut().for_each(|output| output.taken = 0);
        }
    }

    /// Cuts off clients that took nothing for too long.
    pub fn expire(&mut self, now: Instant) {
        self.outputs.retain(|output| {
            !(output.guest && output.stalled.is_some_and(|since| now >= since + PATIENCE))
        });
        self.write();
    }

    /// Takes the pump's descriptors out of the set; what a log still lacks of
    /// an unfinished line is written.
    pub fn close(&mut self, poller: &Poller) {
        if self.watching_source {
            poller.forget(&self.source);
        }
        self.end();
        for output in self
            .outputs
            .iter()
            .filter(|output| output.guest || output.stalled.is_some())
        {
            poller.forget(output.fd.as_fd());
        }
    }
}
