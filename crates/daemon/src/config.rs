//! The configuration: defaults, a TOML file, its drop-ins, flags; each over the one before.
//!
//! The file is `/etc/berth/berthd.toml`, if it is there, or the one that `--config` names, which
//! must be. Beside it, every `*.toml` in a directory of the same name with `.d` appended
//! (`berthd.toml.d/`) is read over it in the order of names. A key that is not known is an error
//! that names file and line. An ordinary user's daemon has its files elsewhere ([`own`]).

mod docker;
mod own;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_lifecycle::DEFAULT_CDI_DIRS;
use clap::Parser;
use serde::{Deserialize, Serialize};

pub use docker::Docker;

use crate::operator::Task;

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

/// Who runs the containers of pods that ask for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuntimeHandler {
    /// As containerd names its shims: `io.containerd.runc.v2` is `containerd-shim-runc-v2`. Empty,
    /// with an empty `shim`, means Berth's own runtime.
    pub runtime_type: String,
    /// The shim's binary; empty means to look for it in `PATH`.
    pub shim: PathBuf,
    pub snapshotter: String,
    /// Keys of annotations that the runtime gets to see; a final `*` stands for any rest.
    pub pod_annotations: Vec<String>,
    pub container_annotations: Vec<String>,
    /// Privileged containers get no device of the host but those that they ask for.
    pub privileged_without_host_devices: bool,
    /// For the shim, in containerd's spelling, such as `BinaryName`.
    pub options: BTreeMap<String, toml::Value>,
}

/// The built-in network, used while there is no CNI configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bridge {
    /// False reports the network as not ready until a CNI configuration appears.
    pub enabled: bool,
    /// Name of the interface; many daemons on a host need one each.
    pub name: String,
    /// At most one of each family; empty chooses a range that no route of the host touches.
    pub subnets: Vec<String>,
}

/// Where exec, attach and port-forward are served; the kubelet is told URLs there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Streaming {
    pub address: IpAddr,
    /// 0 takes any port that is free.
    pub port: u16,
    /// The host, or host and port, in URLs; empty means the address.
    pub advertise: String,
    /// PEM files; both or neither.
    pub tls_cert: PathBuf,
    pub tls_key: PathBuf,
    /// A connection without data for this long is closed; 0 means never.
    pub idle_timeout_secs: u64,
    /// A connection is closed after this; 0 means never.
    pub total_timeout_secs: u64,
    /// How long a client may take to open its streams.
    pub creation_timeout_secs: u64,
    /// How long a URL works; it works once.
    pub token_lifetime_secs: u64,
    /// URLs that wait for their client at one time.
    pub max_tokens: usize,
    /// Clients at one time; more wait.
    pub max_connections: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pull {
    /// Layers fetched and unpacked at once, over all pulls.
    pub layers_at_once: usize,
    /// Seconds without a byte after which a transfer is given up and resumed.
    pub progress_timeout_secs: u64,
    /// Further attempts after the first.
    pub retries: u32,
}

/// What builds keep for later ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Build {
    /// Bytes of steps' layers that no other image has; 0 means any number.
    pub cache_max_bytes: u64,
    /// Seconds after which a step that was of no use is given up.
    pub cache_max_age_secs: u64,
}

impl Default for Build {
    fn default() -> Self {
        let keep = berth_build::Keep::default();
        Self {
            cache_max_bytes: keep.bytes,
            cache_max_age_secs: keep.age,
        }
    }
}

/// Images are read again and compared with their digests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scrub {
    /// Seconds from the beginning of one round to that of the next; 0 means never.
    pub every_secs: u64,
    /// Bytes that are read in a second at most; 0 means as fast as the disk.
    pub bytes_per_sec: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Log {
    /// Filter as `tracing` writes it: a level, or targets with levels.
    pub filter: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// systemd where it is PID 1 and cgroups are v2 alone, otherwise cgroupfs.
    Auto,
    Cgroupfs,
    Systemd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Trace {
    /// OTLP endpoint (gRPC), such as `http://127.0.0.1:4317`; empty exports nothing.
    pub otlp_endpoint: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Metrics {
    /// Where the daemon's own metrics are served, such as `127.0.0.1:9464`; empty serves none.
    pub address: String,
}

impl Metrics {
    pub fn socket_address(&self) -> Result<Option<SocketAddr>> {
        if self.address.is_empty() {
            return Ok(None);
        }
        let parsed = self.address.parse().with_context(|| {
            format!(
                "metrics.address {:?} is not an address with a port: write it as 127.0.0.1:9464",
                self.address
            )
        })?;
        Ok(Some(parsed))
    }
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

impl Default for RuntimeHandler {
    fn default() -> Self {
        Self {
            runtime_type: String::new(),
            shim: PathBuf::new(),
            snapshotter: "overlay".into(),
            pod_annotations: Vec::new(),
            container_annotations: Vec::new(),
            privileged_without_host_devices: false,
            options: BTreeMap::new(),
        }
    }
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            enabled: true,
            name: "berth0".into(),
            subnets: Vec::new(),
        }
    }
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            advertise: String::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            idle_timeout_secs: 4 * 3600,
            total_timeout_secs: 0,
            creation_timeout_secs: 30,
            token_lifetime_secs: 60,
            max_tokens: 1000,
            max_connections: 1024,
        }
    }
}

impl Streaming {
    fn check(&self) -> Result<()> {
        if self.address.is_unspecified() && self.advertise.is_empty() {
            bail!(
                "streaming.address {} is no address that a client can reach: set \
                 streaming.advertise to the one that it should use",
                self.address
            );
        }
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        if given(&self.tls_cert) != given(&self.tls_key) {
            bail!("streaming.tls-cert and streaming.tls-key go together: set both or neither");
        }
        for (name, value) in [
            ("creation-timeout-secs", self.creation_timeout_secs),
            ("token-lifetime-secs", self.token_lifetime_secs),
            ("max-tokens", self.max_tokens as u64),
            ("max-connections", self.max_connections as u64),
        ] {
            if value == 0 {
                bail!("streaming.{name} is 0: nothing could be streamed");
            }
        }
        Ok(())
    }
}

impl Default for Pull {
    fn default() -> Self {
        Self {
            layers_at_once: 4,
            progress_timeout_secs: 30,
            retries: 5,
        }
    }
}

impl Default for Scrub {
    fn default() -> Self {
        Self {
            every_secs: 7 * 24 * 3600,
            bytes_per_sec: 8 << 20,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".into(),
            format: LogFormat::Text,
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

fn read_with_drop_ins(file: &Path, required: bool) -> Result<toml::Table> {
    let mut merged = toml::Table::new();
    match fs::read_to_string(file) {
        Ok(text) => merge(&mut merged, parse(file, &text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {file:?}")),
    }
    for drop_in in drop_ins(file)? {
        let text =
            fs::read_to_string(&drop_in).with_context(|| format!("cannot read {drop_in:?}"))?;
        merge(&mut merged, parse(&drop_in, &text)?);
    }
    Ok(merged)
}

fn drop_ins(file: &Path) -> Result<Vec<PathBuf>> {
    let mut dir = file.as_os_str().to_owned();
    dir.push(".d");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {dir:?}")),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {dir:?}"))?
            .path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A file on its own must be a valid configuration: that is how an error gets its line.
fn parse(file: &Path, text: &str) -> Result<toml::Table> {
    let located = |error: toml::de::Error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        anyhow::anyhow!("{}:{line}: {}", file.display(), error.message())
    };
    toml::from_str::<Config>(text).map_err(located)?;
    toml::from_str(text).map_err(located)
}

/// Tables are merged key by key; anything else replaces what was there.
fn merge(into: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(present)), toml::Value::Table(table)) => merge(present, table),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(dir: &Path, text: &str, drop_in: Option<&str>) -> Result<Config> {
        let file = dir.join("berthd.toml");
        fs::write(&file, text).unwrap();
        if let Some(drop_in) = drop_in {
            fs::create_dir_all(dir.join("berthd.toml.d")).unwrap();
            fs::write(dir.join("berthd.toml.d/10.toml"), drop_in).unwrap();
        }
        Config::load(Flags {
            config: Some(file),
            ..Flags::default()
        })
    }

    #[test]
    fn drop_ins_are_read_over_the_file_and_flags_over_both() {
        let dir = tempfile::tempdir().unwrap();
        let text = "root = \"/a\"\nstate = \"/s\"\n[bridge]\nname = \"b1\"\n";
        let config = load(
            dir.path(),
            text,
            Some("root = \"/b\"\n[pull]\nretries = 9\n"),
        )
        .unwrap();
        assert_eq!(config.root, Path::new("/b"));
        assert_eq!(
            (config.bridge.name.as_str(), config.pull.retries),
            ("b1", 9)
        );
        assert_eq!(config.socket, Path::new("/s/cri.sock"));
        let flags = Flags {
            config: Some(dir.path().join("berthd.toml")),
            root: Some("/c".into()),
            ..Flags::default()
        };
        assert_eq!(Config::load(flags).unwrap().root, Path::new("/c"));
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_line() {
        let cases = [
            (
                "root = \"/a\"\nrooot = \"/b\"\n",
                ":2: unknown field `rooot`",
            ),
            (
                "[bridge]\nname = \"x\"\ncolour = 1\n",
                ":3: unknown field `colour`",
            ),
            ("root = 7\n", ":1: invalid type"),
            ("root = \"/a\n", ":1: "),
            ("[log]\nformat = \"xml\"\n", ":2: unknown variant `xml`"),
        ];
        for (text, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            let error = format!("{:#}", load(dir.path(), text, None).unwrap_err());
            assert!(
                error.contains("berthd.toml") && error.contains(expected),
                "{error}"
            );
        }
    }

    #[test]
    fn a_bad_drop_in_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = load(dir.path(), "", Some("\nnope = 1\n")).unwrap_err();
        assert!(
            format!("{error:#}").contains("10.toml:2: unknown field `nope`"),
            "{error:#}"
        );
    }

    #[test]
    fn a_named_file_must_be_there_and_paths_absolute() {
        let missing = Flags {
            config: Some("/nonexistent/x.toml".into()),
            ..Flags::default()
        };
        assert!(Config::load(missing).is_err());
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path(), "root = \"relative\"\n", None).is_err());
        assert!(load(dir.path(), "cgroup-parent = \"x\"\n", None).is_err());
        let error = load(dir.path(), "[metrics]\naddress = \"9464\"\n", None).unwrap_err();
        assert!(format!("{error:#}").contains("127.0.0.1:9464"), "{error:#}");
    }

    #[test]
    fn streaming_that_could_not_work_is_refused() {
        for (text, expected) in [
            ("address = \"0.0.0.0\"", "streaming.advertise"),
            ("tls-cert = \"/c.pem\"", "set both or neither"),
            ("max-tokens = 0", "max-tokens is 0"),
            ("address = \"localhost\"", "invalid IP address"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let text = format!("[streaming]\n{text}\n");
            let error = format!("{:#}", load(dir.path(), &text, None).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_shipped_example_is_valid() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/berthd.toml");
        let text = fs::read_to_string(&example).unwrap();
        parse(&example, &text).unwrap();
    }
}
