//! `zygote`: a shim that waits to be copied.
//!
//! A shim that is executed costs more before its first instruction than in its first call: the
//! program is mapped and linked, and the C library asks the processor about itself, which traps in
//! a virtual machine. A copy of one that is ready costs a `clone`, and shares the memory that
//! neither has changed. The daemon starts a zygote and has it clone itself for each container. The
//! zygote reaps the copies, and ends with the daemon; they outlive both.
//!
//! # Protocol
//!
//! The zygote's standard input is a `SOCK_SEQPACKET` socket; its end is the zygote's.
//!
//! | message | bytes | descriptors |
//! |---|---|---|
//! | order | the container's id | a listening Unix socket, and what becomes standard error |
//! | answer | a [`ClonedWord`] | none |

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use berth_kernel::{Clone3, Cloned, ClonedWord, CommandLine, Errno};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::write;
use rustix::process::Pid;

use crate::engine::Engine;
use crate::journal::note;
use crate::process::Exit;
use crate::reap;
use crate::serve::{self, Before};
use crate::signals::Signals;
use crate::status::Error;

/// Longer ids are cut off; none is made.
const ID_LEN: usize = 256;

/// What a copy is made for.
struct Order {
    id: String,
    listener: UnixListener,
    log: OwnedFd,
}

/// Which of the two this process is after an order.
enum Side {
    Zygote,
    Copy(Order),
}

/// Waits for orders. Comes back in each copy, too, when that has served its container. `engine` is
/// asked for once in each copy.
pub fn run<E: Engine>(engine: impl FnOnce(Before) -> E) -> Result<(), Error> {
    let mut zygote = Zygote {
        socket: take_socket()?,
        signals: Signals::take_over()?,
        shims: BTreeMap::new(),
    };
    // A terminal's signals are for the daemon. Fails only for the leader of a group.
    let _ = rustix::process::setsid();
    let before = serve::set_up(c"berth-zygote");
    // Where it cannot be found, `ps` shows the zygote's words for its copies.
    let words = CommandLine::of_process().ok();
    while let Some(order) = zygote.next_order()? {
        if let Side::Copy(order) = zygote.copy(order) {
            drop(zygote);
            become_shim(&order, words)?;
            return serve::on(order.listener, before, engine);
        }
    }
    Ok(())
}

struct Zygote {
    socket: OwnedFd,
    signals: Signals,
    /// The copies that have not ended, and their containers.
    shims: BTreeMap<i32, String>,
}

impl Zygote {
    /// `None` when there is nobody to give one any more.
    fn next_order(&mut self) -> Result<Option<Order>, Error> {
        loop {
            self.wait_for_order()?;
            let mut id = [0; ID_LEN];
            let received = match berth_kernel::receive_with_fds(&self.socket, &mut id) {
                Err(Errno::INTR | Errno::AGAIN) => continue,
                received => received.map_err(|errno| Error::system("take an order", errno))?,
            };
            if received.length == 0 {
                return Ok(None);
            }
            let id = String::from_utf8_lossy(&id[..received.length]).into_owned();
            match <[OwnedFd; 2]>::try_from(received.fds) {
                Ok([listener, log]) => {
                    let listener = UnixListener::from(listener);
                    return Ok(Some(Order { id, listener, log }));
                }
                Err(_) => self.answer(Err(Errno::INVAL)),
            }
        }
    }

    /// Reaps copies until an order has come.
    fn wait_for_order(&mut self) -> Result<(), Error> {
        loop {
            let mut watched = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN),
            ];
            match poll(&mut watched, None) {
                Err(Errno::INTR) => continue,
                polled => polled.map_err(|errno| Error::system("wait for orders", errno))?,
            };
            let [order, signal] = watched.map(|fd| !fd.revents().is_empty());
            if signal {
                self.signals.drain();
                reap::collect(|pid, exit| tell_end(self.shims.remove(&pid), &exit));
            }
            if order {
                return Ok(());
            }
        }
    }

    fn copy(&mut self, order: Order) -> Side {
        match Clone3::default().run() {
            Ok(Cloned::Child) => return Side::Copy(order),
            Ok(Cloned::Parent { pid, .. }) => {
                self.shims.insert(pid.as_raw_pid(), order.id);
                self.answer(Ok(pid));
            }
            Err(errno) => self.answer(Err(errno)),
        }
        Side::Zygote
    }

    fn answer(&self, made: Result<Pid, Errno>) {
        let word = ClonedWord::new(made.map(|pid| (pid, 0)));
        // Nobody to tell: then the next order is the end.
        let _ = write(&self.socket, &word.to_bytes());
    }
}

/// One that was killed cannot say so itself.
fn tell_end(id: Option<String>, exit: &Exit) {
    if let (Some(id), 1..) = (id, exit.status) {
        note!("the shim of {id} ended with status {}", exit.status);
    }
}

fn take_socket() -> Result<OwnedFd, Error> {
    let fail = |errno: Errno| Error::system("take the socket of orders", errno);
    let stdin = std::io::stdin();
    let socket = berth_kernel::duplicate_to(&stdin, 3).map_err(fail)?;
    serve::nothing_on_stdin()?;
    Ok(socket)
}

/// What a copy does not share with the zygote.
fn become_shim(order: &Order, words: Option<CommandLine>) -> Result<(), Error> {
    berth_kernel::duplicate_onto(order.log.as_fd(), 2)
        .map_err(|errno| Error::system("take the log", errno))?;
    let _ = berth_kernel::set_process_name(serve::NAME);
    if let Some(mut words) = words {
        let program = std::env::args().next().unwrap_or_default();
        let _ = words.show(&[&program, "-id", &order.id, "serve"]);
    }
    Ok(())
}
