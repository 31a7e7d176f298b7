//! Everything that can go wrong with a pod's network.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use berth_names::{ContainerId, NetworkId, SandboxId};
use berth_plugins::Error as PluginError;

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

    #[error(
        "host port {port}/{protocol} on {address} cannot be forwarded: {told}. It is in use by a \
         process of the host, or below net.ipv4.ip_unprivileged_port_start"
    )]
    PortNotForwarded {
        port: u16,
        protocol: Protocol,
        address: Ipv4Addr,
        told: String,
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

    #[error("network {reference} not found")]
    NetworkNotFound { reference: String },

    #[error("network {reference} is ambiguous: {count} networks found by it, use a longer id")]
    NetworkAmbiguous { reference: String, count: usize },

    #[error("network with name {name} already exists")]
    NetworkExists { name: String },

    #[error("operation is not permitted on predefined {name} network: its name is taken")]
    NetworkPredefined { name: String },

    #[error("{name} is a pre-defined network and cannot be removed")]
    NetworkPermanent { name: String },

    #[error("only one instance of \"{driver}\" network is allowed")]
    NetworkSingle { driver: String },

    #[error("network driver {driver:?} is not there: neither \"bridge\" nor a plugin is called so")]
    NetworkDriverUnknown { driver: String },

    #[error(
        "error while removing network: network {name} id {id} has active endpoints ({endpoints})"
    )]
    NetworkInUse {
        name: String,
        id: NetworkId,
        /// The containers.
        endpoints: String,
    },

    #[error("{action} {name}: {}", .cause.report())]
    Plugged {
        action: &'static str,
        /// The network's name.
        name: String,
        // Not as its source: the text has all of it.
        cause: Box<berth_plugins::Error>,
    },

    #[error(
        "network {name} is not removed: {}. Start its plugin and try again, or have the network \
         forgotten without it: berth network rm --force {name}",
        .cause.report()
    )]
    NetworkHeld {
        name: String,
        cause: Box<berth_plugins::Error>,
    },

    #[error(
        "the plugin of network {network} named the interface {interface:?} for the container, \
         which is not on this host"
    )]
    InterfaceMissing { interface: String, network: String },

    #[error("invalid network: {reason}")]
    NetworkInvalid { reason: String },

    #[error("Pool overlaps with other one on this address space: {subnet} with network {network}")]
    SubnetOverlap { subnet: Subnet, network: String },

    #[error("all predefined address pools have been fully subnetted")]
    PoolsExhausted,

    #[error("invalid endpoint on network {network}: {reason}")]
    EndpointInvalid { network: String, reason: String },

    #[error("Address already in use: {address} on network {network}")]
    AddressTaken { address: IpAddr, network: String },

    #[error("endpoint with name {container} already exists in network {network}")]
    AlreadyConnected { container: String, network: String },

    #[error("container {container} is not connected to network {network}")]
    NotConnected { container: String, network: String },

    #[error("Bind for {} failed: port is already allocated", SocketAddr::new(*.address, *.port))]
    PortAllocated {
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        holder: ContainerId,
    },

    #[error("Bind for {address} failed: all ports from {first} to {last} are allocated")]
    PortsExhausted {
        address: IpAddr,
        first: u16,
        last: u16,
    },

    /// Only ever in builds for tests.
    #[error(transparent)]
    Fault(#[from] berth_faults::Injected),
}

/// Whose fault a failure is, for doors that answer with a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    /// Something of that name or place is there already.
    Conflict,
    /// The request can never succeed.
    Invalid,
    /// Not now, or not with this object: others use it, or it is always there.
    InUse,
    /// The host or the kernel said no.
    Internal,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NetworkNotFound { .. } | Self::NetworkDriverUnknown { .. } => ErrorKind::NotFound,
            Self::NotConnected { .. } => ErrorKind::NotFound,
            Self::Plugged { action, cause, .. } => match **cause {
                PluginError::NotFound(_) | PluginError::Lacks { .. }
                    if *action == "create network" =>
                {
                    ErrorKind::NotFound
                }
                _ => ErrorKind::Internal,
            },
            Self::NetworkExists { .. } => ErrorKind::Conflict,
            Self::NetworkInvalid { .. }
            | Self::NetworkAmbiguous { .. }
            | Self::EndpointInvalid { .. }
            | Self::InvalidPod { .. }
            | Self::InvalidBridge { .. }
            | Self::SysctlRefused { .. } => ErrorKind::Invalid,
            Self::NetworkPredefined { .. }
            | Self::NetworkPermanent { .. }
            | Self::NetworkSingle { .. }
            | Self::NetworkInUse { .. }
            | Self::SubnetOverlap { .. }
            | Self::AddressTaken { .. }
            | Self::AlreadyConnected { .. } => ErrorKind::InUse,
            _ => ErrorKind::Internal,
        }
    }

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
