//! What is on disk.
//!
//! ```text
//! <record_dir>/<network id>.json   a network's definition; synced, for it outlives the boot
//! <record_dir>/asked/…             what plugins were asked for: see `ledger`
//! <record_dir>/ula                 this daemon's own IPv6 range, fdxx:xxxx:xxxx::/48
//! <state_dir>/<container id>.json  a container's networks; not synced, for it dies with the boot
//! ```
//!
//! Files become visible by rename and are never changed in place. A container's is written before
//! what it describes is made and removed after the last of it is released: it may describe less
//! than it says, never more.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use berth_names::{ContainerId, NetworkId};
use serde::Deserialize;

use super::definition::NetworkDefinition;
use super::member::Membership;
use crate::error::{Error, Result};
use crate::record::{read, set_aside, write, write_durably};
use crate::subnet::Subnet;

#[derive(Debug)]
pub(super) struct Store {
    records: PathBuf,
    state: PathBuf,
}

impl Store {
    pub(super) fn open(records: &Path, state: &Path) -> Result<Self> {
        for path in [records, state] {
            make_directory(path)?;
        }
        Ok(Self {
            records: records.to_owned(),
            state: state.to_owned(),
        })
    }

    /// Every network. A file that cannot be read is set aside and told in the log.
    pub(super) fn networks(&self) -> Result<Vec<NetworkDefinition>> {
        load(&self.records)
    }

    pub(super) fn put_network(&self, network: &NetworkDefinition) -> Result<()> {
        write_durably(&self.network(&network.id), network)
    }

    /// Also one that is not served, because its definition is of no use.
    pub(super) fn has_network(&self, id: &NetworkId) -> bool {
        self.network(id).exists()
    }

    pub(super) fn remove_network(&self, id: &NetworkId) -> Result<()> {
        remove(&self.network(id))?;
        File::open(&self.records)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| failed("sync", &self.records, source))
    }

    pub(super) fn memberships(&self) -> Result<Vec<Membership>> {
        load(&self.state)
    }

    pub(super) fn put_membership(&self, membership: &Membership) -> Result<()> {
        write(&self.membership(&membership.member.id), membership)
    }

    pub(super) fn remove_membership(&self, container: &ContainerId) -> Result<()> {
        remove(&self.membership(container))
    }

    /// This daemon's IPv6 range, drawn at random when it is first asked for (RFC 4193).
    pub(super) fn unique_local(&self, draw: impl FnOnce() -> Result<[u8; 5]>) -> Result<Subnet> {
        let path = self.records.join("ula");
        if let Some(subnet) = read::<Subnet>(&path).unwrap_or_else(|error| {
            set_aside(&path, &error);
            None
        }) {
            return Ok(subnet);
        }
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&draw()?);
        let subnet = Subnet::new(octets.into(), 48).map_err(|source| Error::NetworkInvalid {
            reason: source.to_string(),
        })?;
        write_durably(&path, &subnet)?;
        Ok(subnet)
    }

    fn network(&self, id: &NetworkId) -> PathBuf {
        self.records.join(format!("{id}.json"))
    }

    fn membership(&self, id: &ContainerId) -> PathBuf {
        self.state.join(format!("{id}.json"))
    }
}

pub(super) fn make_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| failed("create", path, source))
}

pub(super) fn load<T: for<'de> Deserialize<'de>>(directory: &Path) -> Result<Vec<T>> {
    let entries = fs::read_dir(directory).map_err(|source| failed("list", directory, source))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|source| failed("list", directory, source))?
            .path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => match read(&path) {
                Ok(record) => found.extend(record),
                Err(error) => set_aside(&path, &error),
            },
            // A write that a crash cut short.
            Some("new") => _ = fs::remove_file(&path),
            _ => {}
        }
    }
    Ok(found)
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", path, source))
        }
        _ => Ok(()),
    }
}

pub(super) fn failed(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}
