//! The built-in bridge of one place's daemon: a name and addresses of its own, so that it meets
//! neither a daemon that serves this machine nor another suite.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsStr;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::{output, retry, stdout, which};

/// A namespace and the veth in it are destroyed behind the answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Bridge {
    name: String,
    /// Which of the range's subnets.
    number: u64,
}

impl Bridge {
    /// Follows from the random name of the place's directory.
    pub fn of(directory: &Path) -> Self {
        let unique = directory.file_name().unwrap_or(OsStr::new("bt-"));
        let mut hasher = DefaultHasher::new();
        unique.hash(&mut hasher);
        Self {
            name: unique.to_string_lossy().into_owned(),
            number: hasher.finish(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// That of the Docker API's default network, which stays when its daemon ends.
    pub fn of_docker(&self) -> Self {
        Self {
            name: format!("{}-d", self.name),
            number: self.number,
        }
    }

    /// Drop-in for the daemon. The ranges are for tests of networks (RFC 2544) and for private use
    /// (RFC 4193): no route of a usual host touches them.
    pub fn configuration(&self, both_families: bool) -> String {
        let (second, third) = (18 + (self.number >> 8 & 1), self.number & 0xff);
        let mut subnets = vec![format!("\"198.{second}.{third}.0/24\"")];
        if both_families {
            subnets.push(format!("\"fd00:be27:{:x}::/64\"", self.number & 0xffff));
        }
        format!(
            "[bridge]\nname = \"{}\"\nsubnets = [{}]\n",
            self.name,
            subnets.join(", ")
        )
    }

    /// After the daemon's end: takes interface and table off the host. Pods that are still
    /// connected, and what cannot be taken off, are an error.
    pub fn remove(&self) -> Result<()> {
        let unplugged = retry(PATIENCE, || {
            let ports = self.ports();
            ensure!(
                ports.is_empty(),
                "interfaces on the bridge: {}",
                ports.join(", ")
            );
            Ok(())
        });
        self.sweep();
        unplugged?;
        ensure!(
            !self.interface().exists(),
            "interface {} is left",
            self.name
        );
        let nft = which("nft").context("nft is not installed")?;
        let tables = stdout(Command::new(nft).args(["list", "tables"]))?;
        ensure!(
            !tables.lines().any(|line| line.ends_with(&self.table())),
            "nftables table {} is left",
            self.table()
        );
        Ok(())
    }

    /// Takes off what is there and says nothing; for a suite that broke off.
    pub fn sweep(&self) {
        let table = self.table();
        for (program, arguments) in [
            ("ip", ["link", "delete", self.name.as_str()].as_slice()),
            ("nft", &["delete", "table", "inet", &table]),
        ] {
            if let Some(program) = which(program) {
                let _not_there = output(Command::new(program).args(arguments));
            }
        }
    }

    fn interface(&self) -> PathBuf {
        Path::new("/sys/class/net").join(&self.name)
    }

    fn ports(&self) -> Vec<String> {
        let entries = self.interface().join("brif").read_dir();
        entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    fn table(&self) -> String {
        format!("berth_{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_get_bridges_of_their_own() {
        let [one, other] = ["/tmp/bt-aaaaaa", "/tmp/bt-bbbbbb"].map(|path| {
            let bridge = Bridge::of(Path::new(path));
            assert!(bridge.name().len() <= 15);
            bridge.configuration(true)
        });
        assert!(one.contains("bt-aaaaaa") && one.contains("198.1") && one.contains("fd00:"));
        assert_ne!(one, other);
    }
}
