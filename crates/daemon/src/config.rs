//! The configuration: defaults, a TOML file, its drop-ins, flags; each over the one before.
//!
//! The file is `/etc/berth/berthd.toml`, if it is there, or the one that `--config` names, which
//! must be. Beside it, every `*.toml` in a directory of the same name with `.d` appended
//! (`berthd.toml.d/`) is read over it in the order of names. A key that is not known is an error
//! that names file and line. An ordinary user's daemon has its files elsewhere ([`own`]).

mod docker;
mod files;
mod own;
mod sections;
mod snapshots;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_lifecycle::DEFAULT_CDI_DIRS;
use clap::Parser;
use serde::{Deserialize, Serialize};

pub use docker::Docker;
pub use sections::{
    Bridge, Build, CgroupDriver, Log, LogFormat, Metrics, Pull, RuntimeHandler, Scrub, Streaming,
    Trace,
};
pub use snapshots::Snapshots;

use crate::operator::Task;
use files::{merge, read_with_drop_ins};

const INTERFACE_NAME_LIMIT: usize = 15;
const DOCKER_SUFFIX: &str = "-d";
const DEFAULT_FILE: &str = "/etc/berth/berthd.toml";

/// Berth's daemon: runs pods for a kubelet through the Container Runtime Interface.
#[derive(Debug, Default, Parser)]
#[command(name = "berthd", version)]
pub struct Flags {
    /// Configuration file [default: /etc/berth/berthd.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What survives a reboot: images, layers, metadata [default: /var/lib/berth]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What lives as long as the boot: pods, containers, sockets [default: /run/berth]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Socket of the CRI [default: cri.sock in the state directory]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Socket of the Docker API, or "none" [default: docker.sock beside the CRI's]
    #[arg(long, global = true, value_name = "PATH")]
    docker_socket: Option<PathBuf>,
    /// Registry hosts, a directory with hosts.toml for each [default: /etc/berth/hosts]
    #[arg(long, global = true, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
    /// CNI configurations [default: /etc/cni/net.d]
    #[arg(long, global = true, value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// CNI plugins [default: /opt/cni/bin]
    #[arg(long, global = true, value_name = "DIR")]
    cni_bin_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub task: Option<Task>,
}

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// What survives a reboot: images, layers, metadata.
    pub root: PathBuf,
    /// What lives as long as the boot. A tmpfs.
    pub state: PathBuf,
    /// Socket of the CRI; empty means `cri.sock` in `state`.
    pub socket: PathBuf,
    /// Socket of the Docker API; empty means `docker.sock` beside `socket`, `none` that it is not
    /// served.
    pub docker_socket: PathBuf,
    /// Registry hosts: a directory per host with its `hosts.toml`.
    pub hosts_dir: PathBuf,
    pub cni_conf_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
    /// Makes a CNI configuration of the pod CIDR that the kubelet announces; empty makes none.
    pub cni_conf_template: PathBuf,
    /// The shim; empty means `containerd-shim-berth-v1` beside the daemon's own binary.
    pub shim: PathBuf,
    /// The init of pods with a shared PID namespace; empty means `berth-pod-init` beside the
    /// daemon's own binary.
    pub pod_init: PathBuf,
    /// Unpacks layers; empty means `berth-unpack` beside the daemon's own binary.
    pub unpack: PathBuf,
    /// Where relative localhost seccomp profiles are found.
    pub seccomp_dir: PathBuf,
    /// Directories of CDI files; what a later one describes wins.
    pub cdi_dirs: Vec<PathBuf>,
    /// Makes and restores checkpoints; empty means to look for `criu` in `PATH`.
    pub criu: PathBuf,
    /// Cgroup parent for pods that name none.
    pub cgroup_parent: String,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// The handler of pods that name none: `berth`, or one of `runtimes`.
    pub default_runtime: String,
    /// Runtime handlers by the name that a RuntimeClass gives, beside `berth`.
    pub runtimes: BTreeMap<String, RuntimeHandler>,
    pub bridge: Bridge,
    pub docker: Docker,
    pub streaming: Streaming,
    pub snapshots: Snapshots,
    pub pull: Pull,
    pub build: Build,
    pub scrub: Scrub,
    pub log: Log,
    pub trace: Trace,
    pub metrics: Metrics,
    /// Where slirp4netns takes requests to forward the host's ports: of an ordinary user's daemon.
    #[serde(skip)]
    pub forwards: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/berth".into(),
            state: "/run/berth".into(),
            socket: PathBuf::new(),
            docker_socket: PathBuf::new(),
            hosts_dir: "/etc/berth/hosts".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
            cni_conf_template: PathBuf::new(),
            shim: PathBuf::new(),
            pod_init: PathBuf::new(),
            unpack: PathBuf::new(),
            seccomp_dir: "/var/lib/kubelet/seccomp".into(),
            cdi_dirs: DEFAULT_CDI_DIRS.map(PathBuf::from).to_vec(),
            criu: PathBuf::new(),
            cgroup_parent: "/berth".into(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            default_runtime: "berth".into(),
            runtimes: BTreeMap::new(),
            bridge: Bridge::default(),
            docker: Docker::default(),
            streaming: Streaming::default(),
            snapshots: Snapshots::default(),
            pull: Pull::default(),
            build: Build::default(),
            scrub: Scrub::default(),
            log: Log::default(),
            trace: Trace::default(),
            metrics: Metrics::default(),
            forwards: None,
        }
    }
}

impl Config {
    /// Reads file, drop-ins and flags, and fills in what depends on others.
    pub fn load(flags: Flags) -> Result<Self> {
        let own = own::places()?;
        let default = own
            .as_ref()
            .map_or(Path::new(DEFAULT_FILE), |own| &own.file);
        let read = match &flags.config {
            Some(named) => read_with_drop_ins(named, true)?,
            None => read_with_drop_ins(default, false)?,
        };
        let mut merged = own.map_or_else(toml::Table::new, |own| own.defaults());
        merge(&mut merged, read);
        let mut config = Self::deserialize(toml::Value::Table(merged))
            .context("the configuration files do not fit together")?;
        config.take(flags);
        config.complete()?;
        Ok(config)
    }

    pub fn serves_docker(&self) -> bool {
        self.docker_socket != Path::new("none")
    }

    /// The interface of Docker's network `bridge`.
    pub fn docker_bridge(&self) -> String {
        if !self.docker.bridge.is_empty() {
            return self.docker.bridge.clone();
        }
        let longest = INTERFACE_NAME_LIMIT - DOCKER_SUFFIX.len();
        let name = &self.bridge.name;
        // Names side by side differ at their ends most often.
        let begin = name.len().saturating_sub(longest);
        format!("{}{DOCKER_SUFFIX}", name.get(begin..).unwrap_or(name))
    }

    fn take(&mut self, flags: Flags) {
        let set = |place: &mut PathBuf, given: Option<PathBuf>| {
            if let Some(given) = given {
                *place = given;
            }
        };
        set(&mut self.root, flags.root);
        set(&mut self.state, flags.state);
        set(&mut self.socket, flags.socket);
        set(&mut self.docker_socket, flags.docker_socket);
        set(&mut self.hosts_dir, flags.hosts_dir);
        set(&mut self.cni_conf_dir, flags.cni_conf_dir);
        set(&mut self.cni_bin_dir, flags.cni_bin_dir);
    }

    fn complete(&mut self) -> Result<()> {
        let own = std::env::current_exe().context("cannot find the daemon's own binary")?;
        let beside = |name: &str| own.with_file_name(name);
        if self.socket.as_os_str().is_empty() {
            self.socket = self.state.join("cri.sock");
        }
        if self.docker_socket.as_os_str().is_empty() {
            self.docker_socket = self.socket.with_file_name("docker.sock");
        }
        if self.shim.as_os_str().is_empty() {
            self.shim = beside("containerd-shim-berth-v1");
        }
        if self.pod_init.as_os_str().is_empty() {
            self.pod_init = beside("berth-pod-init");
        }
        if self.unpack.as_os_str().is_empty() {
            self.unpack = beside("berth-unpack");
        }
        if self.serves_docker() && self.docker_socket == self.socket {
            bail!("docker-socket and socket are both {:?}", self.socket);
        }
        self.metrics.socket_address()?;
        if !self.cgroup_parent.starts_with('/') {
            bail!(
                "cgroup-parent {:?} is not absolute: write it as /name",
                self.cgroup_parent
            );
        }
        self.streaming.check()?;
        self.docker.check()?;
        for (name, path) in [("root", &self.root), ("state", &self.state)] {
            if !path.is_absolute() {
                bail!("{name} {path:?} is not absolute");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
