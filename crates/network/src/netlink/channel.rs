//! A synchronous netlink socket. It stays in the network namespace in which it was opened, whatever
//! namespace its user's thread is in later: that is how one socket serves the host from anywhere.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size_force, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags};

use super::wire::{self, Message, Received};

/// The kernel answers a request while it is being sent; only a dump takes longer. A silence of this
/// length means that the answer was lost, and a lost answer must not hang a pod for ever.
const SILENCE: Duration = Duration::from_secs(10);
/// Large enough for the kernel's largest dump chunk (32 KiB).
const BUFFER: usize = 64 * 1024;
const SEND_BUFFER: usize = 8 * 1024 * 1024;
/// `NLMSGERR_ATTR_MSG`: the kernel's own explanation.
const ERROR_TEXT: u16 = 1;

/// The kernel's no, with its explanation where it gave one.
#[derive(Debug)]
pub struct Refusal {
    errno: Errno,
    text: Option<String>,
}

impl Refusal {
    pub(crate) fn errno(&self) -> Errno {
        self.errno
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plain = io::Error::from(self.errno);
        match &self.text {
            Some(text) => write!(f, "{text} ({plain})"),
            None => plain.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, text: None }
    }
}

impl From<io::Error> for Refusal {
    fn from(source: io::Error) -> Self {
        Self {
            errno: Errno::from_io_error(&source).unwrap_or(Errno::IO),
            text: None,
        }
    }
}

/// One socket, one request at a time.
pub(crate) struct Channel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    /// Opens a socket of `protocol` (`libc::NETLINK_ROUTE`, …) in the thread's network namespace.
    pub(crate) fn open(protocol: libc::c_int) -> io::Result<Self> {
        let mut socket = Socket::new(protocol as isize)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        // Both only make errors more telling; an old kernel may refuse.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        // A transaction is one datagram, and a table with thousands of ports is a large one.
        let _ = set_socket_send_buffer_size_force(socket.as_fd(), SEND_BUFFER);
        set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(SILENCE))?;
        Ok(Self {
            socket,
            sequence: 1,
            buffer: vec![0; BUFFER],
        })
    }

    /// Sends one request and waits for the acknowledgement.
    pub(crate) fn ask(&mut self, mut message: Message) -> Result<(), Refusal> {
        message.add_flags(libc::NLM_F_ACK as u16);
        let sequence = self.next_sequence();
        self.send(message.sealed(sequence))?;
        self.receive(|received| match received {
            _ if received.sequence != sequence => Step::More,
            _ if i32::from(received.kind) == libc::NLMSG_ERROR => Step::End(verdict(&received)),
            _ => Step::More,
        })
    }

    /// Sends one request that is answered by messages, and shows each to `each`.
    pub(crate) fn list(
        &mut self,
        mut message: Message,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Refusal> {
        // A dump ends with NLMSG_DONE; a single get ends with its acknowledgement.
        let flags = message.sealed(0)[6..8].to_vec();
        if u16::from_ne_bytes([flags[0], flags[1]]) & libc::NLM_F_DUMP as u16 == 0 {
            message.add_flags(libc::NLM_F_ACK as u16);
        }
        let sequence = self.next_sequence();
        self.send(message.sealed(sequence))?;
        let mut interrupted = false;
        self.receive(|received| {
            if received.sequence != sequence {
                return Step::More;
            }
            interrupted |= received.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
            match i32::from(received.kind) {
                libc::NLMSG_ERROR => Step::End(verdict(&received)),
                // DONE carries the dump's own error, if any.
                libc::NLMSG_DONE => Step::End(verdict(&received)),
                _ => {
                    each(received.payload);
                    Step::More
                }
            }
        })?;
        // Another change ran through the list: the caller asks again.
        if interrupted {
            Err(Errno::INTR.into())
        } else {
            Ok(())
        }
    }

    /// Sends several requests as one datagram; the last one is acknowledged, and an error of any
    /// one ends the wait. nftables runs such a datagram as a transaction.
    pub(crate) fn batch(
        &mut self,
        mut requests: Vec<Message>,
        begin: Message,
        end: Message,
    ) -> Result<(), Refusal> {
        let Some(last) = requests.last_mut() else {
            return Ok(());
        };
        last.add_flags(libc::NLM_F_ACK as u16);
        let first_sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(4096);
        let mut last_sequence = first_sequence;
        let count = requests.len();
        for (at, mut message) in std::iter::once(begin)
            .chain(requests)
            .chain(std::iter::once(end))
            .enumerate()
        {
            let sequence = self.next_sequence();
            if at == count {
                last_sequence = sequence;
            }
            bytes.extend_from_slice(message.sealed(sequence));
        }
        self.send(&bytes)?;
        let mut failure = None;
        self.receive(|received| {
            let ours = received.sequence.wrapping_sub(first_sequence) as usize <= count + 1;
            if !ours || i32::from(received.kind) != libc::NLMSG_ERROR {
                return Step::More;
            }
            let result = verdict(&received);
            // The beginning and the end answer only when the transaction as a whole failed.
            let whole = received.sequence == first_sequence
                || received.sequence == last_sequence.wrapping_add(1);
            if let (Err(refusal), None) = (result, &failure) {
                failure = Some(refusal);
            }
            if received.sequence == last_sequence || whole {
                Step::End(Ok(()))
            } else {
                Step::More
            }
        })?;
        failure.map_or(Ok(()), Err)
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Refusal> {
        rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, bytes, SendFlags::empty()))?;
        Ok(())
    }

    fn receive(&mut self, mut judge: impl FnMut(Received<'_>) -> Step) -> Result<(), Refusal> {
        loop {
            let (_, length) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC)
            })
            .map_err(|errno| {
                if errno == Errno::AGAIN {
                    Errno::TIMEDOUT
                } else {
                    errno
                }
            })?;
            if length > self.buffer.len() {
                return Err(Errno::MSGSIZE.into());
            }
            for received in wire::messages(&self.buffer[..length]) {
                if let Step::End(result) = judge(received) {
                    return result;
                }
            }
        }
    }
}

enum Step {
    More,
    End(Result<(), Refusal>),
}

/// Reads `struct nlmsgerr`, or the errno that ends a dump: 0 is success.
fn verdict(received: &Received<'_>) -> Result<(), Refusal> {
    let code = wire::u32_at(received.payload, 0).unwrap_or(0) as i32;
    if code == 0 {
        return Ok(());
    }
    // With capped acks the offender's header, and not its payload, is echoed behind the code.
    let text = received
        .payload
        .get(4 + wire::HEADER..)
        .into_iter()
        .flat_map(wire::attributes)
        .find(|(kind, _)| *kind == ERROR_TEXT)
        .map(|(_, value)| wire::text(value));
    Err(Refusal {
        errno: Errno::from_raw_os_error(code.unsigned_abs() as i32),
        text,
    })
}
