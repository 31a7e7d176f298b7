//! A restore as a conversation over the socket that criu was started with.

use std::fmt;
use std::os::fd::OwnedFd;

use berth_kernel::Errno;
use berth_kernel::rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::message::{Response, Restore, acknowledgement};

/// The longest message: a step, or the reason of a failure.
const LONGEST: usize = 64 << 10;

/// Our end of the socket.
#[derive(Debug)]
pub struct Conversation {
    socket: OwnedFd,
    /// How long criu may be silent.
    patience: Timespec,
}

/// How far a restore is. Each step waits until it is acknowledged.
#[derive(Debug)]
pub enum Event {
    /// Namespaces are there, with the first process in them.
    Namespaces { pid: i32 },
    /// The master of a terminal that was not in the images.
    Terminal(OwnedFd),
    /// The processes are made; their credentials are still criu's.
    Made { pid: i32 },
    /// Everything is restored and nothing runs yet.
    Restored,
    /// A step that needs nothing.
    Step,
    /// The processes run.
    Done,
}

/// Why a restore ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its log says why.
    #[error("criu gave up{}", Reason(*.errno))]
    GaveUp { errno: Option<i32> },
    #[error("criu ended in the middle of it")]
    Ended,
    #[error("criu was silent for {0} s")]
    Silent(i64),
    #[error("criu sent what is no answer")]
    Unreadable,
    #[error("talking to criu")]
    Socket(#[from] Errno),
}

struct Reason(Option<i32>);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(errno) if errno > 0 => write!(f, " ({})", Errno::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }
}

impl Conversation {
    /// `patience` in seconds.
    pub fn new(socket: OwnedFd, patience: i64) -> Self {
        let patience = Timespec {
            tv_sec: patience,
            tv_nsec: 0,
        };
        Self { socket, patience }
    }

    pub fn begin(&self, restore: &Restore) -> Result<(), Failure> {
        self.send(&restore.request())
    }

    /// Lets criu go on from a step, or has it give up.
    pub fn acknowledge(&self, success: bool) -> Result<(), Failure> {
        self.send(&acknowledgement(success))
    }

    /// Waits for what comes next.
    pub fn next(&self) -> Result<Event, Failure> {
        self.wait()?;
        let mut bytes = vec![0; LONGEST];
        let received = match berth_kernel::receive_with_fds(&self.socket, &mut bytes) {
            Err(Errno::CONNRESET) => return Err(Failure::Ended),
            received => received?,
        };
        if received.length == 0 {
            return Err(Failure::Ended);
        }
        let response = Response::parse(&bytes[..received.length]).ok_or(Failure::Unreadable)?;
        if !response.success {
            return Err(Failure::GaveUp {
                errno: response.errno,
            });
        }
        if !response.is_notification() {
            return Ok(Event::Done);
        }
        let event = match (response.script.as_deref(), response.pid) {
            (Some("setup-namespaces"), Some(pid)) => Event::Namespaces { pid },
            (Some("post-restore"), Some(pid)) => Event::Made { pid },
            (Some("pre-resume"), _) => Event::Restored,
            (Some("orphan-pts-master"), _) => match received.fds.into_iter().next() {
                Some(master) => Event::Terminal(master),
                None => return Err(Failure::Unreadable),
            },
            _ => Event::Step,
        };
        Ok(event)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Failure> {
        match berth_kernel::send_with_fds(&self.socket, bytes, &[]) {
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Failure::Ended),
            sent => Ok(sent.map(drop)?),
        }
    }

    fn wait(&self) -> Result<(), Failure> {
        loop {
            let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut sockets, Some(&self.patience)) {
                Ok(0) => return Err(Failure::Silent(self.patience.tv_sec)),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_failures_and_ends_are_told_apart() {
        let (near, far) = berth_kernel::socket_pair().unwrap();
        let conversation = Conversation::new(near, 5);
        let say = |bytes: &[u8]| {
            berth_kernel::send_with_fds(&far, bytes, &[]).unwrap();
        };
        say(&[1 << 3, 6, 2 << 3, 1, 5 << 3 | 2, 3, 1 << 3 | 2, 1, b'x']);
        assert!(matches!(conversation.next().unwrap(), Event::Step));
        say(&[1 << 3, 2, 2 << 3, 1]);
        assert!(matches!(conversation.next().unwrap(), Event::Done));
        say(&[1 << 3, 2, 2 << 3, 0, 7 << 3, 17]);
        let failure = conversation.next().unwrap_err().to_string();
        assert!(failure.starts_with("criu gave up ("), "{failure}");
        say(&[0x80]);
        assert!(matches!(conversation.next(), Err(Failure::Unreadable)));
        drop(far);
        assert!(matches!(conversation.next(), Err(Failure::Ended)));
        assert!(matches!(
            conversation.acknowledge(true),
            Err(Failure::Ended)
        ));
    }
}
