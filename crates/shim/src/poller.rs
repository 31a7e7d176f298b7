//! The epoll set of the shim's only thread.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use crate::status::Error;

/// What became ready. Ids are never used twice within the life of a shim, so a
/// stale event finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Signals,
    Listener,
    Connection(u32),
    /// The descriptor that a pump reads from.
    Source(u32),
    /// A descriptor that a pump could not write to.
    Sink(u32),
    /// The connection by which events are told.
    Events,
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, id) = match self {
            Self::Signals => (0, 0),
            Self::Listener => (1, 0),
            Self::Connection(id) => (2, id),
            Self::Source(id) => (3, id),
            Self::Sink(id) => (4, id),
            Self::Events => (5, 0),
        };
        kind << 32 | u64::from(id)
    }

    fn unpack(value: u64) -> Self {
        let id = (value & 0xffff_ffff) as u32;
        match value >> 32 {
            0 => Self::Signals,
            1 => Self::Listener,
            2 => Self::Connection(id),
            3 => Self::Source(id),
            4 => Self::Sink(id),
            _ => Self::Events,
        }
    }
}

#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    pub fn new() -> Result<Self, Error> {
        epoll::create(epoll::CreateFlags::CLOEXEC)
            .map(Self)
            .map_err(|source| Error::system("create epoll set", source))
    }

    pub fn watch_reads(&self, fd: impl AsFd, token: Token) -> Result<(), Error> {
        self.add(fd, token, EventFlags::IN)
    }

    pub fn watch_writes(&self, fd: impl AsFd, token: Token) -> Result<(), Error> {
        self.add(fd, token, EventFlags::OUT)
    }

    /// Reports only that the other side is gone.
    pub fn watch_end(&self, fd: impl AsFd, token: Token) -> Result<(), Error> {
        self.add(fd, token, EventFlags::empty())
    }

    fn add(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> Result<(), Error> {
        epoll::add(&self.0, fd, EventData::new_u64(token.pack()), flags)
            .map_err(|source| Error::system("watch descriptor", source))
    }

    /// Changes what a watched descriptor is watched for. With neither, only its
    /// end is reported.
    pub fn change(&self, fd: impl AsFd, token: Token, reads: bool, writes: bool) {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, reads);
        flags.set(EventFlags::OUT, writes);
        // Fails only for a descriptor that is not watched.
        let _ = epoll::modify(&self.0, fd, EventData::new_u64(token.pack()), flags);
    }

    pub fn forget(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits until something is ready or `timeout` has passed; fills `ready`.
    pub fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<Token>) -> Result<(), Error> {
        let timeout = timeout.map(|timeout| rustix::event::Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        ready.clear();
        let mut events: [epoll::Event; 16] = std::array::from_fn(|_| epoll::Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        });
        match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
            Ok(count) => {
                ready.extend(
                    events[..count]
                        .iter()
                        .map(|event| Token::unpack(event.data.u64())),
                );
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(source) => Err(Error::system("wait for events", source)),
        }
    }
}
