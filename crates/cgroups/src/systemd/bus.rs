//! A connection to systemd's manager.
//!
//! The socket is the manager's own, `/run/systemd/private`, which is what
//! `systemctl` uses as root: no bus daemon has to run, nobody else is on the
//! line, and the manager tells every job's end without being asked to. Calls
//! are made one at a time, so one thread and blocking reads are enough.

use super::wire::{self, FIXED, Kind, Message, Method, Writer};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Where the manager listens.
pub(super) const SOCKET: &str = "/run/systemd/private";

/// A manager that is busy with a reload answers nobody; one that says nothing
/// for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

const DESTINATION: &str = "org.freedesktop.systemd1";

/// What went wrong with a call.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The manager cannot be spoken to.
    #[error("speak to systemd")]
    Io(#[from] io::Error),

    /// The manager answered with an error; `name` is that of D-Bus.
    #[error("systemd refused: {message} ({name})")]
    Refused { name: String, message: String },

    /// The job that the manager made of the call did not end well.
    #[error("systemd's job ended as {result}")]
    Job { result: String },
}

impl Failure {
    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. }
            if name.strip_prefix("org.freedesktop.systemd1.") == Some(wanted))
    }

    pub(super) fn is_timeout(&self) -> bool {
        matches!(self, Self::Io(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

#[derive(Debug)]
pub(super) struct Bus {
    stream: BufReader<UnixStream>,
    serial: u32,
    /// Ends of jobs that were told before somebody waited for them.
    ended: Vec<(String, String)>,
}

impl Bus {
    pub(super) fn connect(socket: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut bus = Self {
            stream: BufReader::new(stream),
            serial: 0,
            ended: Vec::new(),
        };
        bus.authenticate()?;
        Ok(bus)
    }

    /// Waits no longer than this for an answer.
    pub(super) fn give_up_after(&self, patience: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(patience))
    }

    /// SASL as D-Bus has it: the kernel tells the peer who we are, we only
    /// repeat it, in digits and these in hexadecimal.
    fn authenticate(&mut self) -> Result<(), Failure> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let mut answer = Vec::new();
        (&mut self.stream)
            .take(1024)
            .read_until(b'\n', &mut answer)?;
        if !answer.starts_with(b"OK ") {
            let answer = String::from_utf8_lossy(&answer);
            let problem = format!("not let in: {:?}", answer.trim_end());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem).into());
        }
        Ok(self.send(b"BEGIN\r\n")?)
    }

    /// Calls and waits for the answer.
    pub(super) fn call(&mut self, method: Method, body: Writer) -> Result<Message, Failure> {
        self.serial += 1;
        let serial = self.serial;
        self.send(&wire::call(serial, DESTINATION, method, body))?;
        loop {
            let message = self.receive()?;
            match message.kind {
                Kind::Return if message.answers == serial => return Ok(message),
                Kind::Error if message.answers == serial => {
                    return Err(Failure::Refused {
                        message: message.first_text().unwrap_or_default(),
                        name: message.error,
                    });
                }
                _ => self.note(&message),
            }
        }
    }

    /// Calls what makes a job, and waits until that is done.
    pub(super) fn run_job(&mut self, method: Method, body: Writer) -> Result<(), Failure> {
        let answer = self.call(method, body)?;
        let job = answer.first_text().ok_or_else(unreadable)?;
        loop {
            if let Some(at) = self.ended.iter().position(|(ended, _)| *ended == job) {
                let (_, result) = self.ended.swap_remove(at);
                return match result.as_str() {
                    "done" => Ok(()),
                    _ => Err(Failure::Job { result }),
                };
            }
            let message = self.receive()?;
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Message) {
        if message.kind == Kind::Signal && message.member == "JobRemoved" {
            self.ended.extend(message.removed_job());
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    fn receive(&mut self) -> Result<Message, Failure> {
        let mut fixed = [0; FIXED];
        self.stream.read_exact(&mut fixed)?;
        let length = wire::rest(&fixed).ok_or_else(unreadable)?;
        let mut rest = vec![0; length];
        self.stream.read_exact(&mut rest)?;
        Ok(Message::parse(&fixed, rest).ok_or_else(unreadable)?)
    }
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer that is not D-Bus")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A manager that lets us in and says these bytes to the first call.
    fn manager(answers: Vec<u8>) -> (tempfile::TempDir, std::thread::JoinHandle<Vec<u8>>) {
        let place = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(place.path().join("s")).unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            stream.read_until(b'\n', &mut line).unwrap();
            stream.get_mut().write_all(b"OK 0123\r\n").unwrap();
            stream.read_until(b'\n', &mut line).unwrap();
            let mut call = [0; FIXED];
            stream.read_exact(&mut call).unwrap();
            stream.get_mut().write_all(&answers).unwrap();
            line
        });
        (place, thread)
    }

    const METHOD: Method = Method {
        path: "/p",
        interface: "i",
        member: "M",
        signature: "",
    };

    #[test]
    fn who_is_let_in_says_its_user_and_begins() {
        let (place, thread) = manager(Vec::new());
        let mut bus = Bus::connect(&place.path().join("s")).unwrap();
        let end = bus.call(METHOD, Writer::default()).unwrap_err();
        assert!(matches!(end, Failure::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof));
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        let expected = format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n");
        assert_eq!(thread.join().unwrap(), expected.as_bytes());
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (place, thread) = manager(vec![b'x'; 64]);
        let mut bus = Bus::connect(&place.path().join("s")).unwrap();
        let error = bus.call(METHOD, Writer::default()).unwrap_err();
        assert!(matches!(error, Failure::Io(error) if error.kind() == io::ErrorKind::InvalidData));
        thread.join().unwrap();
    }
}
