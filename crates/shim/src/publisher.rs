//! Brings events to containerd, which listens for them on a socket of its own.
//!
//! ```text
//! away ──connect──► asked ──answer──► asked (the next one) … ──nothing left──► away
//!   ▲                 │ end, silence
//!   └──── a while ────┘
//! ```
//!
//! One event is on its way at a time: containerd answers requests side by side, and events have an
//! order. One that was not answered for is told again, by a containerd that was started meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::events::Events;
use crate::journal::note;
use crate::poller::{Poller, Token};
use crate::status::{Error, chain};
use crate::wire::{encode_request, take_response};

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
const METHOD: &str = "Forward";
/// Between attempts to reach a containerd that is not there.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// A containerd that comes back later asks for itself how things are.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Publisher {
    address: PathBuf,
    namespace: String,
    poller: Rc<Poller>,
    link: Option<Link>,
    /// Since when nothing has been taken, and when the next attempt is due.
    away: Option<(Instant, Instant)>,
}

/// A connection with a request on its way.
#[derive(Debug)]
struct Link {
    socket: UnixStream,
    stream: u32,
    unsent: Vec<u8>,
    received: Vec<u8>,
    answer_by: Instant,
}

impl Publisher {
    pub fn new(address: PathBuf, namespace: String, poller: Rc<Poller>) -> Self {
        Self {
            address,
            namespace,
            poller,
            link: None,
            away: None,
        }
    }

    /// The next moment at which [`Publisher::step`] has something to do.
    pub fn deadline(&self, events: &Events) -> Option<Instant> {
        match (&self.link, self.away) {
            (Some(link), _) => Some(link.answer_by),
            (None, Some((_, next))) if !events.is_empty() => Some(next),
            _ => None,
        }
    }

    /// Whether somebody listens and an event is on its way.
    pub fn is_telling(&self) -> bool {
        self.link.is_some()
    }

    /// The next attempt is due at once: there will be no other.
    pub fn hurry(&mut self) {
        self.away = None;
    }

    /// Goes on with what can be done now.
    pub fn step(&mut self, events: &mut Events, now: Instant) {
        if self.link.as_ref().is_some_and(|link| now >= link.answer_by) {
            self.lose(events, now);
        }
        let due = self.away.is_none_or(|(_, next)| now >= next);
        if self.link.is_some() || events.is_empty() || !due {
            return;
        }
        match self.reach() {
            Ok(socket) => self.ask(socket, 1, events, now),
            Err(error) => {
                if self.away.is_none() {
                    note!("events wait: {}", chain(&error));
                }
                self.lose(events, now);
            }
        }
    }

    /// The socket can be read or written.
    pub fn ready(&mut self, events: &mut Events, now: Instant) {
        let Some(mut link) = self.link.take() else {
            return;
        };
        match link.talk() {
            Ok(None) => {
                let unsent = !link.unsent.is_empty();
                self.poller
                    .change(&link.socket, Token::Events, true, unsent);
                self.link = Some(link);
            }
            Ok(Some(refusal)) => {
                if let (Some(reason), Some(event)) = (refusal, events.first()) {
                    note!("containerd does not take {}: {reason}", event.topic());
                }
                self.away = None;
                events.drop_first();
                self.poller.forget(&link.socket);
                if !events.is_empty() {
                    self.ask(link.socket, link.stream + 2, events, now);
                }
            }
            Err(_) => {
                self.poller.forget(&link.socket);
                self.lose(events, now);
            }
        }
    }

    /// Never waits: a containerd that does not accept is as one that is not there.
    fn reach(&self) -> Result<UnixStream, Error> {
        let fail = |source| Error::path("connect to", &self.address, source);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(fail)?;
        let address = SocketAddrUnix::new(&self.address).map_err(fail)?;
        connect(&socket, &address).map_err(fail)?;
        Ok(UnixStream::from(socket))
    }

    fn ask(&mut self, socket: UnixStream, stream: u32, events: &mut Events, now: Instant) {
        let Some(request) = events.first().map(|event| event.forward(&self.namespace)) else {
            return;
        };
        let Ok(request) = request else {
            events.drop_first();
            return;
        };
        if self.poller.watch_writes(&socket, Token::Events).is_err() {
            return self.lose(events, now);
        }
        self.link = Some(Link {
            socket,
            stream,
            unsent: encode_request(stream, SERVICE, METHOD, request),
            received: Vec::new(),
            answer_by: now + ANSWER,
        });
    }

    fn lose(&mut self, events: &mut Events, now: Instant) {
        self.link = None;
        let since = self.away.map_or(now, |(since, _)| since);
        self.away = Some((since, now + PAUSE));
        if now >= since + PATIENCE {
            note!("{} events are not told", events.clear());
            self.away = None;
        }
    }
}

impl Link {
    /// Sends and receives what there is. The answer, once it is there: `Some(None)` if the event
    /// was taken, or why it was not.
    fn talk(&mut self) -> std::io::Result<Option<Option<String>>> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut chunk = [0; 1024];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let broken = |_| std::io::Error::from(ErrorKind::InvalidData);
        while let Some((stream, answer)) = take_response(&mut self.received).map_err(broken)? {
            if stream == self.stream {
                return Ok(Some(answer.err()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;
    use crate::wire::encode_response;
    use containerd_shim_protos::api::ForwardRequest;
    use containerd_shim_protos::protobuf::Message;
    use containerd_shim_protos::ttrpc::proto::Request;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    struct Scene {
        poller: Rc<Poller>,
        publisher: Publisher,
        events: Events,
    }

    impl Scene {
        fn new(address: &Path) -> Self {
            let poller = Rc::new(Poller::new().unwrap());
            let publisher = Publisher::new(address.to_owned(), "ns".into(), Rc::clone(&poller));
            let mut events = Events::default();
            events.want();
            Self {
                poller,
                publisher,
                events,
            }
        }

        /// What the loop of a shim does, for a moment.
        fn turn(&mut self, now: Instant) {
            let mut ready = Vec::new();
            self.publisher.step(&mut self.events, now);
            let moment = Some(Duration::from_millis(20));
            self.poller.wait(moment, &mut ready).unwrap();
            if ready.contains(&Token::Events) {
                self.publisher.ready(&mut self.events, now);
            }
        }
    }

    /// Topic and stream of the request that has come.
    fn asked(peer: &mut UnixStream) -> (String, u32) {
        let mut header = [0; 10];
        peer.read_exact(&mut header).unwrap();
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; number(0) as usize];
        peer.read_exact(&mut payload).unwrap();
        let request = Request::parse_from_bytes(&payload).unwrap();
        assert_eq!((&*request.service, &*request.method), (SERVICE, METHOD));
        let forward = ForwardRequest::parse_from_bytes(&request.payload).unwrap();
        (forward.envelope.topic.clone(), number(4))
    }

    #[test]
    fn events_are_told_one_after_another_and_again_to_one_that_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("events");
        let listener = UnixListener::bind(&address).unwrap();
        let mut scene = Scene::new(&address);
        scene.events.tell(|| Event::paused("c"));
        scene.events.tell(|| Event::resumed("c"));
        let start = Instant::now();
        scene.turn(start);
        let (mut peer, _) = listener.accept().unwrap();
        assert_eq!(asked(&mut peer), ("/tasks/paused".to_owned(), 1));
        peer.set_nonblocking(true).unwrap();
        scene.turn(start);
        let early = peer.read(&mut [0; 1]).unwrap_err();
        assert_eq!(early.kind(), ErrorKind::WouldBlock, "the second one waits");

        // Gone without an answer.
        drop((peer, listener));
        std::fs::remove_file(&address).unwrap();
        scene.turn(start);
        assert!(scene.publisher.link.is_none());
        let listener = UnixListener::bind(&address).unwrap();
        let later = start + PAUSE;
        scene.turn(later);
        let (mut peer, _) = listener.accept().unwrap();
        for (topic, stream) in [("/tasks/paused", 1), ("/tasks/resumed", 3)] {
            assert_eq!(asked(&mut peer), (topic.to_owned(), stream));
            peer.write_all(&encode_response(stream, Ok(Vec::new())))
                .unwrap();
            scene.turn(later);
            scene.turn(later);
        }
        assert!(scene.events.is_empty());
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0, "no connection is kept");
        assert_eq!(scene.publisher.deadline(&scene.events), None);
    }

    #[test]
    fn nobody_to_tell_is_borne_and_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut scene = Scene::new(&dir.path().join("missing"));
        scene.events.tell(|| Event::paused("c"));
        let start = Instant::now();
        scene.turn(start);
        assert_eq!(scene.publisher.deadline(&scene.events), Some(start + PAUSE));
        scene.turn(start + PATIENCE);
        assert!(scene.events.is_empty());
        assert_eq!(scene.publisher.deadline(&scene.events), None);
    }

    #[test]
    fn an_answer_that_does_not_come_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("events");
        let _silent = UnixListener::bind(&address).unwrap();
        let mut scene = Scene::new(&address);
        scene.events.tell(|| Event::paused("c"));
        let start = Instant::now();
        scene.turn(start);
        assert!(scene.publisher.link.is_some());
        scene.turn(start + ANSWER);
        assert!(scene.publisher.link.is_none() && !scene.events.is_empty());
    }
}
