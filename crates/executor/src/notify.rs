//! Handing the descriptor of seccomp notifications to the agent that answers them (runtime
//! specification, "Seccomp" and "The Container Process State").
//!
//! ```text
//! child                                   runtime                         agent
//!   load filter
//!   ── Filtered(number), by write(2) ──▶    takes the descriptor
//!                                           ── state, descriptor ──▶       answers from now on
//!   ◀── gate byte ──
//! ```
//!
//! From the moment at which the filter is loaded until the agent has the descriptor, a call that
//! it notifies of waits for ever. In between the child makes one call, write(2), of which profiles
//! cannot ask to be notified; a message with the descriptor would be `sendmsg`, of which they can.

use crate::container::Create;
use crate::error::{Error, Result};
use crate::filter::Filter;
use berth_kernel::Errno;
use berth_kernel::rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
};
use berth_kernel::rustix::process::{Pid, PidfdGetfdFlags, pidfd_getfd};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::rc::Rc;

/// The specification's name for the descriptor.
const DESCRIPTOR: &str = "seccompFd";

/// Where notifications go, and what is told of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agent {
    path: PathBuf,
    metadata: String,
    version: String,
    bundle: PathBuf,
    annotations: BTreeMap<String, String>,
}

impl Agent {
    pub(crate) fn new(create: &Create<'_>, listener: berth_seccomp::Listener) -> Self {
        let annotations = create.spec.annotations().iter().flatten();
        Self {
            path: listener.path,
            metadata: listener.metadata,
            version: create.spec.version().clone(),
            bundle: create.bundle.to_owned(),
            annotations: annotations.map(|(k, v)| (k.clone(), v.clone())).collect(),
        }
    }

    /// `init` is the container's first process, where `pid` is another.
    fn state(&self, id: &str, pid: i32, init: Option<i32>) -> Vec<u8> {
        let state = json!({
            "ociVersion": self.version,
            "fds": [DESCRIPTOR],
            "pid": pid,
            "metadata": self.metadata,
            "state": {
                "ociVersion": self.version,
                "id": id,
                "status": if init.is_some() { "running" } else { "creating" },
                "pid": init.unwrap_or(pid),
                "bundle": self.bundle,
                "annotations": self.annotations,
            },
        });
        state.to_string().into_bytes()
    }
}

/// A process whose filter may have an agent.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) filter: Rc<Filter>,
    /// A child of the runtime that was not reaped: the number stays its own.
    pub(crate) pid: Pid,
    pub(crate) init: Option<i32>,
}

impl Handover {
    /// Takes the descriptor with this number from the process and passes it on. The agent is not
    /// waited for.
    pub(crate) fn pass(&self, id: &str, number: RawFd) -> Result<()> {
        let host = |operation| Error::host(id, operation);
        let taking = "take the seccomp listener of its process";
        let agent = self.filter.agent.as_ref();
        let agent = agent.ok_or_else(|| host(taking)(Errno::PROTO))?;
        let listener = self.take(number).map_err(host(taking))?;
        let pid = self.pid.as_raw_pid();
        let told = send(agent, &agent.state(id, pid, self.init), &listener);
        told.map_err(|(operation, source)| Error::SeccompAgent {
            id: id.to_owned(),
            operation,
            path: agent.path.clone(),
            source,
        })
    }

    fn take(&self, number: RawFd) -> berth_kernel::Result<OwnedFd> {
        let pidfd = berth_kernel::pidfd_open(self.pid)?;
        pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())
    }
}

fn send(
    agent: &Agent,
    state: &[u8],
    listener: &OwnedFd,
) -> std::result::Result<(), (&'static str, Errno)> {
    let connecting = |errno| ("connect to", errno);
    let address = SocketAddrUnix::new(&agent.path).map_err(connecting)?;
    // One whose backlog is full must not hold the runtime up.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|errno| ("make a socket for", errno))?;
    connect(&socket, &address).map_err(connecting)?;
    match berth_kernel::send_with_fds(&socket, state, &[listener.as_fd()]) {
        Ok(sent) if sent == state.len() => Ok(()),
        Ok(_) => Err(("send all of its state to", Errno::MSGSIZE)),
        Err(errno) => Err(("send its state to", errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn an_agent_is_told_which_process_of_which_container_it_answers_for() {
        let agent = Agent {
            path: "/run/agent.sock".into(),
            metadata: "hello".to_owned(),
            version: "1.2.0".to_owned(),
            bundle: "/b".into(),
            annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        };
        let read = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();
        let first = read(agent.state("c", 7, None));
        assert_eq!(first["fds"], json!(["seccompFd"]));
        assert_eq!(
            (&first["pid"], &first["metadata"]),
            (&json!(7), &json!("hello"))
        );
        let expected = json!({"ociVersion": "1.2.0", "id": "c", "status": "creating", "pid": 7,
            "bundle": "/b", "annotations": {"k": "v"}});
        assert_eq!(first["state"], expected);
        let later = read(agent.state("c", 9, Some(7)));
        assert_eq!(later["pid"], json!(9));
        assert_eq!(later["state"]["status"], json!("running"));
        assert_eq!(later["state"]["pid"], json!(7));
    }
}
