//! What belongs to the Docker API alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Docker {
    /// Interface of the network `bridge`; many daemons on a host need one each. Empty: the pods'
    /// with `-d` behind its name.
    pub bridge: String,
    /// For networks that ask for no subnet; empty means Docker's own ranges.
    pub address_pools: Vec<AddressPool>,
    /// Serves checkpoints, which Docker calls experimental.
    pub experimental: bool,
    pub remote: Remote,
    pub plugins: Plugins,
}

/// Where plugins of Docker's protocol are looked for, and how long they are waited for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Plugins {
    /// Sockets of plugins.
    pub sockets: PathBuf,
    /// Directories of files that say where plugins are.
    pub specs: Vec<PathBuf>,
    /// Seconds that an answer may take with which nothing changes.
    pub look_timeout_secs: u64,
    /// Seconds that any other may take, such as a mount.
    pub timeout_secs: u64,
}

impl Default for Plugins {
    fn default() -> Self {
        let usual = berth_plugins::Config::default();
        Self {
            sockets: usual.sockets,
            specs: usual.specs,
            look_timeout_secs: usual.look.as_secs(),
            timeout_secs: usual.change.as_secs(),
        }
    }
}

impl Plugins {
    pub fn config(&self) -> berth_plugins::Config {
        berth_plugins::Config {
            sockets: self.sockets.clone(),
            specs: self.specs.clone(),
            look: Duration::from_secs(self.look_timeout_secs),
            change: Duration::from_secs(self.timeout_secs),
        }
    }
}

/// A range that is cut into subnets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AddressPool {
    pub base: String,
    /// Bits of each subnet's prefix.
    pub size: u8,
}

/// Where the API is served to other machines.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Remote {
    /// `address:port`; empty means nowhere.
    pub address: String,
    /// PEM files: the daemon's certificate and key, and the authorities that vouch for clients.
    pub tls_cert: PathBuf,
    pub tls_key: PathBuf,
    pub tls_client_ca: PathBuf,
}

impl Docker {
    pub(super) fn check(&self) -> Result<()> {
        for (key, seconds) in [
            ("look-timeout-secs", self.plugins.look_timeout_secs),
            ("timeout-secs", self.plugins.timeout_secs),
        ] {
            if seconds == 0 {
                bail!("docker.plugins.{key} is 0: no plugin answers at once, set it to 1 or more");
            }
        }
        self.remote.socket_address().map(drop)
    }
}

impl Remote {
    /// Refused without TLS both ways: whoever reaches the API owns the node.
    pub fn socket_address(&self) -> Result<Option<SocketAddr>> {
        if self.address.is_empty() {
            return Ok(None);
        }
        let address = self.address.parse().with_context(|| {
            format!(
                "docker.remote.address {:?} is not ADDRESS:PORT: write it like 192.0.2.1:2376",
                self.address
            )
        })?;
        for (name, path) in [
            ("tls-cert", &self.tls_cert),
            ("tls-key", &self.tls_key),
            ("tls-client-ca", &self.tls_client_ca),
        ] {
            if path == Path::new("") {
                bail!(
                    "docker.remote.address is served with TLS and to known clients only: set \
                     docker.remote.{name}"
                );
            }
        }
        Ok(Some(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_both_ways_nobody_is_served() {
        let mut remote = Remote::default();
        assert_eq!(remote.socket_address().unwrap(), None);
        remote.address = "127.0.0.1:2376".into();
        let said = |remote: &Remote| remote.socket_address().unwrap_err().to_string();
        assert!(said(&remote).contains("tls-cert"));
        remote.tls_cert = "/c".into();
        remote.tls_key = "/k".into();
        assert!(said(&remote).contains("tls-client-ca"));
        remote.tls_client_ca = "/a".into();
        assert!(remote.socket_address().unwrap().is_some());
        remote.address = "2376".into();
        assert!(said(&remote).contains("192.0.2.1:2376"));
    }
}
