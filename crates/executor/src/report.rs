//! The conversation between the runtime and a child on its way to exec.
//!
//! ```text
//! child                                    runtime
//!   ── Moved(pid) + pidfd ──▶               another process goes on instead
//!   ── Terminal + master descriptor ──▶     (if a terminal was asked for)
//!   ── Notice(step, text) ──▶               something was clamped
//!   ── Filtered(number) ──▶                 (if a seccomp agent answers, see `notify`)
//!   ◀── gate byte ──                        it has the descriptor
//!   ── Hooks ──▶                            (if hooks run beside the runtime)
//!   ◀── gate byte ──                        they have ended well
//!   ── Ready ──▶                            create is done
//!   ◀── gate byte ──                        start
//!   ◀── leave byte ──                       or: somebody else starts, over
//!                                           a listening socket
//!   ── Failed(step, errno, subject) ──▶     or: end of file, by exec
//! ```
//!
//! It runs over a `SOCK_SEQPACKET` pair, one message a packet. Both ends are
//! close-on-exec, so that a successful exec is seen as end of file.

use crate::error::{Error, ExecProblem, Result};
use crate::hooks::HookFailure;
use crate::notify::Handover;
use crate::step::Step;
use berth_kernel::Errno;
use berth_kernel::rustix::event::{PollFd, PollFlags, Timespec, poll};
use berth_kernel::rustix::net::{SocketFlags, accept_with};
use berth_kernel::rustix::process::Pid;
use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// How long a child may take for its setup. Network file systems are slow;
/// a child that hangs longer is given up.
const PATIENCE_SECONDS: i64 = 120;
/// Longest packet; subjects are cut to fit.
const MAX_PACKET: usize = 4096;
const HEADER: usize = 6;

const MOVED: u8 = b'M';
const TERMINAL: u8 = b'T';
const NOTICE: u8 = b'N';
const HOOKS: u8 = b'H';
const READY: u8 = b'R';
const FAILED: u8 = b'F';
const FILTERED: u8 = b'S';

const GATE: u8 = b'G';
const LEAVE: u8 = b'L';

/// A step that failed in the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
    pub(crate) subject: String,
}

impl Failure {
    /// For `map_err`: a failure of `step` on `subject`.
    pub(crate) fn of<S: ToString + ?Sized>(step: Step, subject: &S) -> impl FnOnce(Errno) -> Self {
        move |errno| Self {
            step,
            errno,
            subject: subject.to_string(),
        }
    }

    /// For `map_err`: a failure of `step` on a path.
    pub(crate) fn at(step: Step, path: &std::path::Path) -> impl FnOnce(Errno) -> Self {
        move |errno| Self {
            step,
            errno,
            subject: path.display().to_string(),
        }
    }

    /// Of a hook that the child ran.
    pub(crate) fn of_hook(failure: HookFailure) -> Self {
        Self {
            step: Step::RunHook,
            errno: failure.errno,
            subject: failure.to_string(),
        }
    }

    /// The error that the runtime's caller sees.
    pub(crate) fn into_error(self, id: &str) -> Error {
        let problem = match self.step {
            Step::FindProgram if !self.subject.contains('/') && self.errno == Errno::NOENT => {
                ExecProblem::NotInPath
            }
            Step::FindProgram => ExecProblem::Lookup,
            Step::Execute => ExecProblem::Exec,
            step => {
                return Error::Setup {
                    id: id.to_owned(),
                    step,
                    subject: self.subject,
                    source: self.errno,
                };
            }
        };
        Error::ExecFailed {
            id: id.to_owned(),
            program: self.subject,
            problem,
            errno: self.errno,
        }
    }
}

/// The child's end.
#[derive(Debug)]
pub(crate) struct Reporter {
    /// Replaced by the connection of whoever opens the gate.
    socket: RefCell<OwnedFd>,
}

impl Reporter {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: RefCell::new(socket),
        }
    }

    fn send(&self, tag: u8, step: Step, errno: i32, text: &str, fds: &[BorrowedFd<'_>]) {
        let mut packet = Vec::with_capacity(HEADER + text.len());
        packet.push(tag);
        packet.push(step.number());
        packet.extend_from_slice(&errno.to_le_bytes());
        packet.extend_from_slice(text.as_bytes());
        packet.truncate(MAX_PACKET);
        // Nobody is left to tell when the runtime is gone: the gate that
        // follows will report the end of the stream.
        let _ = berth_kernel::send_with_fds(&*self.socket.borrow(), &packet, fds);
    }

    pub(crate) fn ready(&self) {
        self.send(READY, Step::Report, 0, "", &[]);
    }

    /// It is time for the hooks that the runtime runs; false if they failed,
    /// or the runtime went away.
    pub(crate) fn wait_for_hooks(&self) -> bool {
        self.send(HOOKS, Step::RunHook, 0, "", &[]);
        self.wait_for_gate(None)
    }

    /// From here on the process with this id, a child of the runtime too,
    /// speaks.
    pub(crate) fn moved(&self, pid: Pid, pidfd: &OwnedFd) {
        let pid = pid.as_raw_pid();
        self.send(MOVED, Step::CloneAgain, pid, "", &[pidfd.as_fd()]);
    }

    pub(crate) fn terminal(&self, master: &OwnedFd) {
        self.send(TERMINAL, Step::OpenTerminal, 0, "", &[master.as_fd()]);
    }

    /// The process is under a filter that has this listener; true once somebody answers for it.
    /// Until then no call but write(2) may be made, and nothing allocated.
    pub(crate) fn filtered(&self, listener: BorrowedFd<'_>) -> bool {
        let [a, b, c, d] = listener.as_raw_fd().to_le_bytes();
        let packet = [FILTERED, Step::LoadFilter.number(), a, b, c, d];
        let socket = self.socket.borrow();
        let written = berth_kernel::rustix::io::write(&*socket, &packet);
        written.is_ok() && read_byte(&*socket) == Some(GATE)
    }

    pub(crate) fn notice(&self, step: Step, text: &str) {
        self.send(NOTICE, step, 0, text, &[]);
    }

    pub(crate) fn failed(&self, failure: &Failure) {
        let errno = failure.errno.raw_os_error();
        self.send(FAILED, failure.step, errno, &failure.subject, &[]);
    }

    /// Waits for the gate byte; false if the runtime went away instead. When
    /// it says that it leaves, the byte comes from whoever connects to
    /// `start_socket`, who is then the one to be told of a failure.
    pub(crate) fn wait_for_gate(&self, start_socket: Option<BorrowedFd<'_>>) -> bool {
        match (read_byte(&*self.socket.borrow()), start_socket) {
            (Some(GATE), _) => return true,
            (Some(LEAVE), Some(_)) => {}
            _ => return false,
        }
        loop {
            let accepted = start_socket.map(|socket| accept_with(socket, SocketFlags::CLOEXEC));
            let connection = match accepted {
                Some(Ok(connection)) => connection,
                Some(Err(Errno::INTR | Errno::CONNABORTED)) => continue,
                _ => return false,
            };
            if read_byte(&connection) == Some(GATE) {
                *self.socket.borrow_mut() = connection;
                return true;
            }
        }
    }
}

/// `None` at the end of the stream.
fn read_byte<Fd: AsFd>(socket: Fd) -> Option<u8> {
    let mut byte = [0u8; 1];
    loop {
        match berth_kernel::rustix::io::read(&socket, &mut byte) {
            Err(Errno::INTR) => {}
            Ok(1) => return Some(byte[0]),
            _ => return None,
        }
    }
}

/// What the child said.
#[derive(Debug)]
enum Message {
    Moved(Pid, OwnedFd),
    Terminal(OwnedFd),
    Notice(String),
    Hooks,
    Filtered(RawFd),
    Ready,
    Failed(Failure),
    /// The child executed, or died.
    End,
}

/// How a conversation went on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The child waits for the runtime's hooks.
    Hooks,
    Ready,
    /// The child's end is closed.
    End,
}

/// The runtime's end.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    /// Who speaks since the process that was cloned first has ended.
    pub(crate) moved: Option<(Pid, OwnedFd)>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) notices: Vec<String>,
    /// For a process whose filter notifies.
    handover: Option<Handover>,
}

impl Listener {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            moved: None,
            terminal: None,
            notices: Vec::new(),
            handover: None,
        }
    }

    /// The process that speaks may be put under a filter that notifies.
    pub(crate) fn expect_filter(&mut self, handover: Handover) {
        self.handover = Some(handover);
    }

    /// Reads until the child is ready, has failed (the error), or is gone.
    pub(crate) fn wait(&mut self, id: &str) -> Result<Progress> {
        loop {
            match self.next(id)? {
                Message::Moved(pid, pidfd) => {
                    if let Some(handover) = &mut self.handover {
                        handover.pid = pid;
                    }
                    self.moved = Some((pid, pidfd));
                }
                Message::Filtered(number) => self.hand_over(id, number)?,
                Message::Terminal(master) => self.terminal = Some(master),
                Message::Notice(text) => self.notices.push(text),
                Message::Hooks => return Ok(Progress::Hooks),
                Message::Ready => return Ok(Progress::Ready),
                Message::Failed(failure) => return Err(failure.into_error(id)),
                Message::End => return Ok(Progress::End),
            }
        }
    }

    fn hand_over(&self, id: &str, number: RawFd) -> Result<()> {
        let host = Error::host(id, "hear from its process");
        let handover = self.handover.as_ref().ok_or_else(|| host(Errno::PROTO))?;
        handover.pass(id, number)?;
        match self.open_gate() {
            Err(Errno::PIPE) => Err(Error::ChildDied { id: id.to_owned() }),
            done => done.map_err(Error::host(id, "let its process go on")),
        }
    }

    /// Opens the start gate. `EPIPE` if the child is gone.
    pub(crate) fn open_gate(&self) -> berth_kernel::Result<()> {
        berth_kernel::send_with_fds(&self.socket, &[GATE], &[]).map(drop)
    }

    /// Leaves the start gate to whoever connects to the start socket.
    pub(crate) fn leave(&self) -> berth_kernel::Result<()> {
        berth_kernel::send_with_fds(&self.socket, &[LEAVE], &[]).map(drop)
    }

    fn next(&self, id: &str) -> Result<Message> {
        let host = Error::host(id, "hear from its process");
        self.wait_readable(id)?;
        let mut packet = [0u8; MAX_PACKET];
        let received = match berth_kernel::receive_with_fds(&self.socket, &mut packet) {
            // A child that was killed with a gate byte unread.
            Err(Errno::CONNRESET) => return Ok(Message::End),
            other => other.map_err(&host)?,
        };
        if received.length == 0 {
            return Ok(Message::End);
        }
        decode(&packet[..received.length], received.fds).ok_or_else(|| host(Errno::PROTO))
    }

    fn wait_readable(&self, id: &str) -> Result<()> {
        let patience = Timespec {
            tv_sec: PATIENCE_SECONDS,
            tv_nsec: 0,
        };
        loop {
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut fds, Some(&patience)) {
                Ok(0) => {
                    return Err(Error::Timeout {
                        id: id.to_owned(),
                        seconds: PATIENCE_SECONDS.unsigned_abs(),
                    });
                }
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::host(id, "wait for its process")(errno)),
            }
        }
    }
}

fn decode(packet: &[u8], fds: Vec<OwnedFd>) -> Option<Message> {
    let (header, text) = packet.split_at_checked(HEADER)?;
    let step = Step::from_number(header[1])?;
    let errno = i32::from_le_bytes(header[2..HEADER].try_into().ok()?);
    let text = String::from_utf8_lossy(text).into_owned();
    Some(match header[0] {
        MOVED => Message::Moved(Pid::from_raw(errno)?, fds.into_iter().next()?),
        TERMINAL => Message::Terminal(fds.into_iter().next()?),
        NOTICE => Message::Notice(format!("{step}: {text}")),
        HOOKS => Message::Hooks,
        FILTERED => Message::Filtered(errno),
        READY => Message::Ready,
        FAILED => Message::Failed(Failure {
            step,
            errno: Errno::from_raw_os_error(errno),
            subject: text,
        }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_arrives_with_its_step_and_subject() {
        let (near, far) = berth_kernel::socket_pair().unwrap();
        let reporter = Reporter::new(far);
        reporter.notice(Step::SetLimit, "clamped");
        reporter.failed(&Failure {
            step: Step::Attach,
            errno: Errno::BUSY,
            subject: "/data".to_owned(),
        });
        let mut listener = Listener::new(near);
        match listener.wait("c1").unwrap_err() {
            Error::Setup {
                step,
                subject,
                source,
                ..
            } => assert_eq!(
                (step, subject.as_str(), source),
                (Step::Attach, "/data", Errno::BUSY)
            ),
            other => panic!("{other}"),
        }
        assert_eq!(listener.notices, ["set resource limit: clamped"]);
        drop(reporter);
        assert_eq!(listener.wait("c1").unwrap(), Progress::End);
    }

    #[test]
    fn packets_that_no_child_sends_are_refused() {
        let cases: [&[u8]; 5] = [
            b"R",
            b"X\0\0\0\0\0",
            b"F\xff\0\0\0\0",
            b"T\0\0\0\0\0",
            b"M\0\x01\0\0\0",
        ];
        for packet in cases {
            assert!(decode(packet, Vec::new()).is_none(), "{packet:?}");
        }
    }
}
