//! Where the network finds its configuration, and what the built-in bridge looks like.

use std::path::PathBuf;
use std::time::Duration;

use crate::subnet::Subnet;

#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// CNI configurations, usually `/etc/cni/net.d`. It may be absent.
    pub conf_dir: PathBuf,
    /// Makes a configuration in `conf_dir` of the node's pod ranges, once they are known and as long
    /// as nobody else's is there.
    pub conf_template: Option<PathBuf>,
    /// Where plugins are looked up, first match wins; usually `/opt/cni/bin`.
    pub bin_dirs: Vec<PathBuf>,
    /// Ours alone: one record per connected pod. Best on the same file system lifetime as the pods
    /// themselves (`/run`); elsewhere `reconcile` cleans up after a reboot.
    pub state_dir: PathBuf,
    /// How long one run of one plugin may take.
    pub plugin_timeout: Duration,
    /// The network used while `conf_dir` holds no valid configuration; `None` reports
    /// "not ready" instead, as a node needs whose CNI provider installs itself later.
    pub bridge: Option<BridgeConfig>,
}

impl NetworkConfig {
    pub fn new(
        conf_dir: impl Into<PathBuf>,
        bin_dir: impl Into<PathBuf>,
        state_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            conf_dir: conf_dir.into(),
            conf_template: None,
            bin_dirs: vec![bin_dir.into()],
            state_dir: state_dir.into(),
            plugin_timeout: Duration::from_secs(60),
            bridge: Some(BridgeConfig::default()),
        }
    }
}

#[derive(Debug, Clone)]
pub struct BridgeConfig {
    /// Interface name, at most 15 bytes; the nftables table is called `berth_<name>`.
    pub name: String,
    /// At most one subnet of each family, the first is the pods' primary one. Empty: 10.88.0.0/16,
    /// or the next range that no route of the host touches.
    pub subnets: Vec<Subnet>,
    /// `None`: what the interface of the host's default route has.
    pub mtu: Option<u32>,
    /// Whether pods reach the world with the host's address.
    pub masquerade: bool,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            name: "berth0".to_owned(),
            subnets: Vec::new(),
            mtu: None,
            masquerade: true,
        }
    }
}
