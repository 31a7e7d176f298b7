//! What is configured of each part, and the defaults.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

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
    pub(super) fn check(&self) -> Result<()> {
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
