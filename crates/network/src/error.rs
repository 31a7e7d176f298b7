//! Everything that can go wrong with a pod's network.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use berth_names::SandboxId;

use crate::netlink::Refusal;
use crate::pod::Protocol;
use crate::subnet::Subnet;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {operation} {}", .path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error("the kernel did not {operation} ({object})")]
    Kernel {
        operation: &'static str,
        object: String,
        source: Refusal,
    },

    #[error("cannot open a {protocol} netlink socket")]
    Socket {
        protocol: &'static str,
        source: io::Error,
    },

    #[error("cannot connect to port {port}")]
    Dial { port: u16, source: io::Error },

    #[error("cannot start the thread {task}")]
    Thread {
        task: &'static str,
        source: io::Error,
    },

    #[error("the task {task} ended without an answer")]
    TaskLost { task: &'static str },

    #[error("cannot make new namespaces ({namespaces})")]
    Unshare {
        namespaces: String,
        source: io::Error,
    },

    #[error("sysctl {name} cannot be set for a pod: {reason}")]
    SysctlRefused { name: String, reason: &'static str },

    #[error("sysctl {name} does not take the value {value:?}")]
    SysctlWrite {
        name: String,
        value: String,
        source: io::Error,
    },

    #[error("{field} of sandbox {sandbox} is unusable: {reason}")]
    InvalidPod {
        sandbox: SandboxId,
        field: &'static str,
        reason: &'static str,
    },

    #[error("the bridge configuration is unusable: {reason}")]
    InvalidBridge { reason: String },

    #[error("every candidate for the bridge's subnet collides with a route of this host")]
    NoFreeSubnet,

    #[error("subnet {subnet} has no free address")]
    AddressesExhausted { subnet: Subnet },

    #[error("host port {port}/{protocol} is already taken by sandbox {holder}")]
    PortTaken {
        port: u16,
        protocol: Protocol,
        holder: SandboxId,
    },

    #[error("host port {port}/{protocol} on {address} is in use by a process of the host")]
    PortInUse {
        port: u16,
        protocol: Protocol,
        address: IpAddr,
        source: io::Error,
    },

    #[error("no network: {reason}")]
    NotReady { reason: String },

    #[error("CNI configuration {}: {reason}", .path.display())]
    Conf { path: PathBuf, reason: String },

    #[error("CNI plugin {plugin} is in none of {searched:?}")]
    PluginMissing {
        plugin: String,
        searched: Vec<PathBuf>,
    },

    #[error("CNI plugin {plugin} could not be run for {command}")]
    PluginRun {
        plugin: String,
        command: &'static str,
        source: io::Error,
    },

    #[error("CNI plugin {plugin} did not finish {command} within {seconds} s{}", said(.stderr))]
    PluginTimeout {
        plugin: String,
        command: &'static str,
        seconds: u64,
        stderr: String,
    },

    #[error("CNI plugin {plugin} failed {command}: {message}{}", said(.stderr))]
    PluginFailed {
        plugin: String,
        command: &'static str,
        /// The specification's error code; `None` when the plugin ended without saying one.
        code: Option<u32>,
        message: String,
        stderr: String,
    },

    #[error("CNI plugin {plugin} answered {command} with nonsense: {answer:?}{}", said(.stderr))]
    PluginGarbled {
        plugin: String,
        command: &'static str,
        answer: String,
        stderr: String,
    },

    #[error("CNI plugin {plugin} gave the pod no address")]
    NoAddress { plugin: String },

    #[error("network record {} cannot be read", .path.display())]
    RecordGarbled {
        path: PathBuf,
        source: serde_json::Error,
    },

    #[error("sandbox {sandbox} is not fully disconnected ({remaining} more failures)")]
    Teardown {
        sandbox: SandboxId,
        remaining: usize,
        source: Box<Error>,
    },
    /// Only ever in builds for tests.
    #[error(transparent)]
    Fault(#[from] berth_faults::Injected),
}

impl Error {
    /// Gathers a teardown's failures into its result; the first one speaks.
    pub(crate) fn gather(sandbox: &SandboxId, mut failures: Vec<Self>) -> Result<()> {
        if failures.is_empty() {
            return Ok(());
        }
        let source = Box::new(failures.remove(0));
        Err(Self::Teardown {
            sandbox: sandbox.clone(),
            remaining: failures.len(),
            source,
        })
    }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!("; stderr: {stderr}")
    }
}
