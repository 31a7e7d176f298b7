//! The loop: one thread that waits for signals, clients and output.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::connection::Connection;
use crate::dispatch::{dispatch, wait_response};
use crate::engine::Engine;
use crate::io::log::Stream;
use crate::journal::note;
use crate::poller::{Poller, Token};
use crate::process::Caller;
use crate::publisher::Publisher;
use crate::reap;
use crate::service::Service;
use crate::signals::Signals;
use crate::status::{Error, Failure, chain};
use crate::wire::Incoming;

/// A shim that nobody talks to and that holds no container ends after this.
const IDLE: Duration = Duration::from_secs(60);
/// How long the last answers may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);
/// Clients at one time; one daemon and a few tools are expected.
const CONNECTIONS: usize = 64;

pub struct Server<E> {
    poller: Rc<Poller>,
    listener: UnixListener,
    signals: Signals,
    connections: BTreeMap<u32, Connection>,
    next_connection: u32,
    service: Service<E>,
    idle_since: Instant,
    publisher: Option<Publisher>,
    /// Removed at the end while the connections are still open: who sees them end may look for it.
    socket: Option<PathBuf>,
}

impl<E: Engine> Server<E> {
    /// `signals` must have been taken before the engine makes a first child, or
    /// that child's end could be missed.
    pub fn new(listener: UnixListener, signals: Signals, engine: E) -> Result<Self, Error> {
        let poller = Rc::new(Poller::new()?);
        listener
            .set_nonblocking(true)
            .map_err(|source| Error::system("make listener non-blocking", source))?;
        poller.watch_reads(&listener, Token::Listener)?;
        poller.watch_reads(signals.fd(), Token::Signals)?;
        Ok(Self {
            service: Service::new(engine, Rc::clone(&poller)),
            poller,
            listener,
            signals,
            connections: BTreeMap::new(),
            next_connection: 0,
            idle_since: Instant::now(),
            publisher: None,
            socket: None,
        })
    }

    /// From now on containerd, which listens at `address`, hears what happens.
    pub fn tell_events(&mut self, address: &Path, namespace: &str) {
        let poller = Rc::clone(&self.poller);
        let publisher = Publisher::new(address.to_owned(), namespace.to_owned(), poller);
        self.publisher = Some(publisher);
        self.service.events.want();
    }

    /// What programs that take output are told of whose it is.
    pub fn belongs_to(&mut self, namespace: &str) {
        namespace.clone_into(&mut self.service.namespace);
    }

    /// Takes over the output of a container that another shim runs.
    pub fn copy(&mut self, args: &Args) -> Result<(), Error> {
        let outputs = [
            (Stream::Stdout, args.stdout.as_path()),
            (Stream::Stderr, args.stderr.as_path()),
        ];
        self.socket = Some(args.socket.clone());
        let bundle = &args.bundle;
        self.service.copy(&args.id, bundle, &outputs, &args.log)
    }

    /// Serves until `Shutdown`, or until nobody needs this shim any more.
    pub fn run(&mut self) -> Result<(), Error> {
        let mut ready = Vec::with_capacity(16);
        while !self.service.is_stopping() {
            self.poller.wait(self.timeout(), &mut ready)?;
            // Children first: who asks in the same round is told what is so.
            if ready.contains(&Token::Signals) {
                self.signals.drain();
                reap::collect(|pid, exit| self.service.exited(pid, exit));
            }
            for token in &ready {
                self.handle(*token);
            }
            let now = Instant::now();
            self.service.pumps.expire(now);
            self.deliver_ends();
            self.publish(now);
            if self.is_idle() && now >= self.idle_since + IDLE {
                return Ok(());
            }
        }
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
        self.say_farewell();
        Ok(())
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Signals => {}
            Token::Listener => self.accept(),
            Token::Connection(id) => self.talk(id),
            Token::Source(id) => self.service.pumps.readable(id),
            Token::Sink(id) => self.service.pumps.writable(id),
            Token::Events => {
                if let Some(publisher) = &mut self.publisher {
                    publisher.ready(&mut self.service.events, Instant::now());
                }
            }
        }
    }

    fn publish(&mut self, now: Instant) {
        if let Some(publisher) = &mut self.publisher {
            publisher.step(&mut self.service.events, now);
        }
    }

    /// When there is something to do for events that are not told yet.
    fn next_event(&self) -> Option<Instant> {
        let publisher = self.publisher.as_ref()?;
        publisher.deadline(&self.service.events)
    }

    fn accept(&mut self) {
        let Ok((socket, _)) = self.listener.accept() else {
            return;
        };
        let connection = match Connection::admit(socket) {
            Ok(Some(connection)) if self.connections.len() < CONNECTIONS => connection,
            Ok(_) => {
                note!("a client was turned away");
                return;
            }
            Err(error) => {
                note!("{}", chain(&error));
                return;
            }
        };
        self.next_connection += 1;
        let id = self.next_connection;
        match self
            .poller
            .watch_reads(connection.fd(), Token::Connection(id))
        {
            Ok(()) => {
                self.connections.insert(id, connection);
            }
            Err(error) => note!("{}", chain(&error)),
        }
    }

    fn talk(&mut self, id: u32) {
        if self
            .connections
            .get_mut(&id)
            .is_some_and(|peer| !(peer.flush() && peer.receive()))
        {
            self.hang_up(id);
        }
        while let Some(peer) = self.connections.get_mut(&id) {
            let (stream, answer) = match peer.next_frame() {
                Ok(None) => break,
                Ok(Some(Incoming::Refused { stream, failure })) => (stream, Some(Err(failure))),
                Ok(Some(Incoming::Call { stream, request })) => {
                    let connection = id;
                    let caller = Caller { connection, stream };
                    (stream, dispatch(&mut self.service, caller, &request))
                }
                Err(broken) => {
                    note!("a client was cut off: {broken}");
                    self.hang_up(id);
                    break;
                }
            };
            if let Some(answer) = answer {
                self.answer(
                    Caller {
                        connection: id,
                        stream,
                    },
                    answer,
                );
            }
        }
        self.adjust(id);
    }

    fn answer(&mut self, caller: Caller, answer: Result<Vec<u8>, Failure>) {
        let id = caller.connection;
        if let Some(peer) = self.connections.get_mut(&id)
            && !peer.answer(caller.stream, answer)
        {
            self.hang_up(id);
        }
    }

    /// Answers those who wait for a process to end, and for a checkpoint.
    fn deliver_ends(&mut self) {
        for (caller, exit) in self.service.take_answers() {
            self.answer(caller, wait_response(&exit).map_err(Failure::from));
            self.adjust(caller.connection);
        }
        for (caller, dumped) in self.service.take_dumped() {
            let answer = dumped.map(|()| Vec::new());
            self.answer(caller, answer.map_err(Failure::from));
            self.adjust(caller.connection);
        }
    }

    /// Watches a client for what can be done with it now.
    fn adjust(&mut self, id: u32) {
        if let Some(peer) = self.connections.get(&id) {
            let (reads, writes) = (peer.wants_reads(), peer.wants_writes());
            self.poller
                .change(peer.fd(), Token::Connection(id), reads, writes);
        }
    }

    fn hang_up(&mut self, id: u32) {
        if let Some(peer) = self.connections.remove(&id) {
            self.poller.forget(peer.fd());
        }
        self.service.forget_connection(id);
        self.idle_since = Instant::now();
    }

    fn is_idle(&self) -> bool {
        self.connections.is_empty() && !self.service.has_container()
    }

    fn timeout(&self) -> Option<Duration> {
        let idle = self.is_idle().then_some(self.idle_since + IDLE);
        let next = self
            .service
            .pumps
            .deadline()
            .into_iter()
            .chain(idle)
            .chain(self.next_event())
            .min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Sends what is still unsent, tells the last events, and lets attached readers fetch their
    /// rest.
    fn say_farewell(&mut self) {
        let mut ready = Vec::new();
        self.deliver_ends();
        if let Some(publisher) = &mut self.publisher {
            publisher.hurry();
        }
        let last_answer = Instant::now() + FAREWELL;
        loop {
            self.connections
                .retain(|_, peer| peer.flush() && peer.wants_writes());
            self.publish(Instant::now());
            let telling = self.publisher.as_ref().is_some_and(Publisher::is_telling);
            let unsaid = telling || !self.connections.is_empty();
            let answers = unsaid.then_some(last_answer);
            let Some(deadline) = self
                .service
                .pumps
                .deadline()
                .into_iter()
                .chain(answers)
                .min()
            else {
                return;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return;
            }
            if self.poller.wait(Some(left), &mut ready).is_err() {
                return;
            }
            for token in &ready {
                if let Token::Source(_) | Token::Sink(_) | Token::Events = token {
                    self.handle(*token);
                }
            }
        }
    }
}
