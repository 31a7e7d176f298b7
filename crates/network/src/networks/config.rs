//! What a daemon's networks are made of.

use std::path::PathBuf;

use berth_plugins::Plugins;

use super::ipam::AddressPool;

#[derive(Debug, Clone)]
pub struct NetworksConfig {
    /// Definitions, one file each. They outlive the host's boot.
    pub record_dir: PathBuf,
    /// Which containers are on which network. Lives as long as they do: best below `/run`.
    pub state_dir: PathBuf,
    /// The interface of the network `bridge`, at most 15 bytes; also names the nftables table,
    /// `berth_<interface>`. Unique among daemons side by side.
    pub bridge: String,
    /// For networks that ask for no subnet, in the order of preference. One of IPv6 is added that
    /// no other daemon has.
    pub pools: Vec<AddressPool>,
    /// Where the host's resolvers are named.
    pub resolv_conf: PathBuf,
    /// Who forwards ports of the host into this network namespace, where it is an ordinary user's:
    /// the API socket of slirp4netns.
    pub forwards: Option<PathBuf>,
    /// Whose networks and addresses can be asked for.
    pub plugins: Plugins,
}

impl NetworksConfig {
    pub fn new(record_dir: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            record_dir: record_dir.into(),
            state_dir: state_dir.into(),
            bridge: "berth-docker0".to_owned(),
            pools: AddressPool::defaults(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            forwards: None,
            plugins: Plugins::new(berth_plugins::Config::default()),
        }
    }
}
