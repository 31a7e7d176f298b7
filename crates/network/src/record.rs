//! What is remembered of each connected pod, so that it can be disconnected by a later daemon.
//!
//! `<state_dir>/attachments/<sandbox id>.json`, one file per pod, visible by rename and never
//! changed in place. It is written before the first resource is acquired and removed after the last
//! one is released: a file may describe less than it says, never more. No fsync: after a power
//! loss there is no pod left that a lost file could matter to.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use berth_names::SandboxId;
use serde::{Deserialize, Serialize};

use crate::cni::Invocation;
use crate::error::{Error, Result};
use crate::pod::{Bandwidth, PortMapping};
use crate::subnet::Subnet;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub sandbox: SandboxId,
    pub netns: PathBuf,
    pub driver: Driver,
}

/// Who connected the pod, and what that one needs to undo it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Driver {
    Bridge(BridgeAttachment),
    Cni(Box<Invocation>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BridgeAttachment {
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<PortMapping>,
    pub bandwidth: Option<Bandwidth>,
}

/// The subnets that the bridge was given, kept in `<state_dir>/bridge.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BridgeChoice {
    pub name: String,
    pub subnets: Vec<Subnet>,
}

#[derive(Debug)]
pub(crate) struct Records {
    state: PathBuf,
    attachments: PathBuf,
}

impl Records {
    pub(crate) fn open(state: &Path) -> Result<Self> {
        let attachments = state.join("attachments");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&attachments)
            .map_err(|source| Error::Io {
                operation: "create",
                path: attachments.clone(),
                source,
            })?;
        Ok(Self {
            state: state.to_owned(),
            attachments,
        })
    }

    /// Every record. One that cannot be read is set aside as `<name>.damaged` and told in the log:
    /// it must not keep the others from being served.
    pub(crate) fn load(&self) -> Result<Vec<Record>> {
        let failed = |source| Error::Io {
            operation: "list",
            path: self.attachments.clone(),
            source,
        };
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.attachments).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => match read::<Record>(&path) {
                    Ok(record) => records.extend(record),
                    Err(error) => set_aside(&path, &error),
                },
                // A write that a crash cut short.
                Some("new") => _ = fs::remove_file(&path),
                _ => {}
            }
        }
        Ok(records)
    }

    /// A sandbox's record; one that cannot be read is set aside, as in `load`.
    pub(crate) fn get(&self, sandbox: &SandboxId) -> Result<Option<Record>> {
        let path = self.path(sandbox);
        match read(&path) {
            Err(error @ Error::RecordGarbled { .. }) => {
                set_aside(&path, &error);
                Ok(None)
            }
            other => other,
        }
    }

    pub(crate) fn put(&self, record: &Record) -> Result<()> {
        write(&self.path(&record.sandbox), record)
    }

    pub(crate) fn remove(&self, sandbox: &SandboxId) -> Result<()> {
        let path = self.path(sandbox);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io {
                operation: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn bridge_choice(&self) -> Option<BridgeChoice> {
        let path = self.state.join("bridge.json");
        read(&path).unwrap_or_else(|error| {
            set_aside(&path, &error);
            None
        })
    }

    pub(crate) fn put_bridge_choice(&self, choice: &BridgeChoice) -> Result<()> {
        write(&self.state.join("bridge.json"), choice)
    }

    /// The node's pod ranges as they were last announced, kept in `<state_dir>/pod-ranges.json`:
    /// a client does not announce them again because this daemon was restarted.
    pub(crate) fn pod_ranges(&self) -> Vec<Subnet> {
        let path = self.state.join("pod-ranges.json");
        let ranges = read(&path).unwrap_or_else(|error| {
            set_aside(&path, &error);
            None
        });
        ranges.unwrap_or_default()
    }

    pub(crate) fn put_pod_ranges(&self, ranges: &[Subnet]) -> Result<()> {
        write(&self.state.join("pod-ranges.json"), &ranges)
    }

    fn path(&self, sandbox: &SandboxId) -> PathBuf {
        self.attachments.join(format!("{sandbox}.json"))
    }
}

pub(crate) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::Io {
                operation: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| Error::RecordGarbled {
            path: path.to_owned(),
            source,
        })
}

pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write_then(path, value, |_| Ok(()))
}

/// For what outlives the boot: it is on the disk before it is visible, and visible for good.
pub(crate) fn write_durably<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write_then(path, value, |file| file.sync_all())?;
    let synced = path
        .parent()
        .map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all());
    synced.map_err(|source| Error::Io {
        operation: "sync",
        path: path.to_owned(),
        source,
    })
}

fn write_then<T: Serialize>(
    path: &Path,
    value: &T,
    settle: impl Fn(&fs::File) -> io::Result<()>,
) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|source| Error::RecordGarbled {
        path: path.to_owned(),
        source,
    })?;
    let partial = path.with_extension("new");
    let attempt = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(&bytes)?;
        settle(&file)?;
        berth_faults::passing("network.record.before-rename");
        fs::rename(&partial, path)
    };
    attempt().map_err(|source| Error::Io {
        operation: "write",
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn set_aside(path: &Path, error: &Error) {
    let aside = path.with_extension("damaged");
    let moved = fs::rename(path, &aside).is_ok();
    tracing::warn!(path = %path.display(), moved, ?error, "a network record is unreadable");
}
