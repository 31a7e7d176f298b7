//! Ports of the host that slirp4netns forwards into an ordinary user's network namespace, by its
//! JSON protocol (slirp4netns(1), API SOCKET): one request and one answer a connection.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::pod::Protocol;

const PATIENCE: Duration = Duration::from_secs(5);

/// Who forwards. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Forwarder {
    socket: Arc<Path>,
}

/// A port that leads here until this is dropped.
#[derive(Debug)]
pub(super) struct Forward {
    forwarder: Forwarder,
    id: Value,
}

impl Forwarder {
    /// Takes back what a daemon that was killed has left.
    pub(super) fn open(socket: PathBuf) -> Result<Self> {
        let forwarder = Self {
            socket: socket.into(),
        };
        let listed = forwarder.ask("list_hostfwd", &json!({}));
        let listed = listed.map_err(|told| Error::NotReady {
            reason: format!("slirp4netns: {told}"),
        })?;
        for entry in listed["entries"].as_array().into_iter().flatten() {
            forwarder.end(&entry["id"]);
        }
        Ok(forwarder)
    }

    /// `None` for what it does not forward: SCTP, and IPv6.
    pub(super) fn forward(
        &self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
    ) -> Result<Option<Forward>> {
        let IpAddr::V4(address) = address else {
            return Ok(None);
        };
        if protocol == Protocol::Sctp {
            return Ok(None);
        }
        let asked = json!({
            "proto": protocol.to_string(),
            "host_addr": address.to_string(), "host_port": port, "guest_port": port,
        });
        let answer = self
            .ask("add_hostfwd", &asked)
            .map_err(|told| Error::PortNotForwarded {
                port,
                protocol,
                address,
                told,
            })?;
        Ok(Some(Forward {
            forwarder: self.clone(),
            id: answer["id"].clone(),
        }))
    }

    fn end(&self, id: &Value) {
        if let Err(told) = self.ask("remove_hostfwd", &json!({ "id": id })) {
            tracing::warn!(%id, told, "a port of the host is still forwarded");
        }
    }

    /// What is returned, or what is told of a failure.
    fn ask(&self, execute: &str, arguments: &Value) -> std::result::Result<Value, String> {
        let asked = json!({ "execute": execute, "arguments": arguments });
        let text = self
            .exchange(&asked.to_string())
            .map_err(|error| error.to_string())?;
        let mut answer: Value =
            serde_json::from_str(text.trim()).map_err(|_| format!("it answered {text:?}"))?;
        match answer.pointer("/error/desc").and_then(Value::as_str) {
            Some(told) => Err(told.to_owned()),
            None => Ok(answer["return"].take()),
        }
    }

    fn exchange(&self, asked: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(asked.as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.forwarder.end(&self.id);
    }
}

/// What arrives by a forward has an address of the namespace's own, whichever the host's was.
pub(super) const WITHIN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Answers requests as slirp4netns does, one of each text, and returns what was asked.
    fn served(answers: Vec<&'static str>) -> (Forwarder, std::thread::JoinHandle<Vec<Value>>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let _kept = directory;
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                asked.push(serde_json::from_str(&text).unwrap());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            asked
        });
        let socket = path.into();
        (Forwarder { socket }, server)
    }

    #[test]
    fn a_port_is_forwarded_until_nobody_holds_it() {
        let (forwarder, server) = served(vec![r#"{"return": {"id": 42}}"#, r#"{"return": {}}"#]);
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let forward = forwarder.forward(Protocol::Udp, address, 53).unwrap();
        drop(forward);
        let asked = server.join().unwrap();
        assert_eq!(asked[0]["execute"], "add_hostfwd");
        assert_eq!(asked[0]["arguments"]["proto"], "udp");
        assert_eq!(asked[0]["arguments"]["host_addr"], "127.0.0.1");
        assert_eq!(asked[1]["execute"], "remove_hostfwd");
        assert_eq!(asked[1]["arguments"]["id"], 42);
    }

    #[test]
    fn a_refusal_is_told_with_the_port() {
        let (forwarder, _server) = served(vec![
            r#"{"error": {"desc": "bad request: add_hostfwd: slirp_add_hostfwd failed"}}"#,
        ]);
        let refused = forwarder.forward(Protocol::Tcp, WITHIN, 80).unwrap_err();
        let told = refused.to_string();
        assert!(
            told.contains("80/tcp") && told.contains("slirp_add_hostfwd failed"),
            "{told}"
        );
    }
}
