//! What is written down about each pod and container, and how.
//!
//! Two copies are kept. The one in the runtime directory (tmpfs) is written by rename before a
//! transition is acknowledged: it survives the daemon. Only a start is acknowledged first, since the
//! shim that runs it tells the next daemon the same. The copy in the metadata store is written
//! behind: it survives the host, so that a kubelet sees after a reboot what used to run.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_names::{ContainerId, Digest, SandboxId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};
use crate::private;
use crate::request::{ContainerRequest, PodRequest};

/// Nanoseconds since the Unix epoch, as the CRI counts time.
pub type Nanos = i64;

/// The present wall-clock time.
pub fn now() -> Nanos {
    nanos(SystemTime::now())
}

/// When the process `pid` came into being; the present time where it is not there any more.
pub fn began(pid: Option<u32>) -> Nanos {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok());
    let age = pid.and_then(berth_kernel::process_age).unwrap_or_default();
    nanos(SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH))
}

/// `time` in nanoseconds since the epoch; zero for times before it.
pub fn nanos(time: SystemTime) -> Nanos {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodState {
    /// Being made; found after a restart, it is undone.
    Creating,
    Ready,
    NotReady,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodRecord {
    pub id: SandboxId,
    pub request: PodRequest,
    /// Which runtime handler was chosen, also where the request names none.
    #[serde(default)]
    pub handler: String,
    pub state: PodState,
    pub created_at: Nanos,
    /// In the order in which the network gave them; empty on the host's network.
    pub ips: Vec<IpAddr>,
    /// Cgroup parent of the containers, resolved.
    pub cgroup_parent: String,
    /// Whether that was made for this pod, and is limited as the request says.
    #[serde(default)]
    pub cgroup_made: bool,
    /// Whether the network still holds something for this pod.
    pub network_held: bool,
    /// Init of the shared PID namespace, where the pod has one.
    pub init_pid: Option<u32>,
    /// SELinux's level of its containers; empty where the kernel has none.
    #[serde(default)]
    pub selinux_level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Being made; found after a restart, it is undone.
    Creating,
    Created,
    Running,
    Exited,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub code: i32,
    pub reason: String,
    pub message: String,
    pub finished_at: Nanos,
}

impl Exit {
    /// An exit by the process itself, with the reason that the kubelet expects for it.
    pub fn of_process(code: u32, oom_killed: bool, finished_at: Nanos) -> Self {
        let reason = match (oom_killed, code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            (false, _) => "Error",
        };
        Self {
            code: i32::try_from(code).unwrap_or(255),
            reason: reason.to_owned(),
            message: String::new(),
            finished_at,
        }
    }

    /// A start that failed: the process never ran.
    pub fn start_failed(code: i32, message: String) -> Self {
        Self {
            code,
            reason: "StartError".to_owned(),
            message,
            finished_at: now(),
        }
    }

    /// Nobody saw how it ended.
    pub fn unknown(message: &str) -> Self {
        Self {
            code: 255,
            reason: "Unknown".to_owned(),
            message: message.to_owned(),
            finished_at: now(),
        }
    }
}

/// Numeric identity that the process was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: ContainerId,
    pub pod: SandboxId,
    pub request: ContainerRequest,
    pub state: ContainerState,
    pub created_at: Nanos,
    pub started_at: Nanos,
    pub exit: Option<Exit>,
    pub pid: Option<u32>,
    pub image_id: Digest,
    /// Absolute; `None` where output is dropped.
    pub log_path: Option<PathBuf>,
    pub cgroup: String,
    pub stop_signal: String,
    pub user: Identity,
    /// Snapshots that are volumes of this container.
    #[serde(default)]
    pub volumes: Vec<String>,
}

impl ContainerRecord {
    /// The image that the container runs from, and those that it mounts.
    pub fn images(&self) -> impl Iterator<Item = Digest> {
        let mounted = self.request.mounts.iter().filter_map(|m| m.image.as_ref());
        let mounted = mounted.filter_map(|image| Digest::parse(&image.image_id).ok());
        std::iter::once(self.image_id.clone()).chain(mounted)
    }

    /// Whether the container runs from this image, or mounts it.
    pub fn uses(&self, image: &Digest) -> bool {
        self.images().any(|used| used == *image)
    }
}

/// Writes `record` under `path` so that a reader sees the old or the new one, never half of it.
pub fn write(path: &Path, record: &impl Serialize) -> Result<()> {
    let failed = |source| Error::State {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let bytes = serde_json::to_vec(record).map_err(|e| failed(e.into()))?;
    let temporary = path.with_extension("tmp");
    private::write(&temporary, &bytes)
        .inspect(|()| berth_faults::passing("record.write.before-rename"))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(failed)
}

/// Reads a record; `None` where there is no file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let failed = |source| Error::State {
        action: "read",
        path: path.to_owned(),
        source,
    };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| failed(e.into())),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_began_when_it_was_made() {
        let before = now();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        let began = began(Some(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        // The kernel counts this in hundredths of a second.
        let tick = 20_000_000;
        assert!(
            (before - tick..before + 150_000_000).contains(&began),
            "{before} {began}"
        );
        assert!(super::began(None) > began);
    }

    #[test]
    fn the_reason_of_an_exit_is_what_kubelets_expect() {
        let cases = [
            (0, false, "Completed"),
            (1, false, "Error"),
            (137, false, "Error"),
            (137, true, "OOMKilled"),
        ];
        for (code, oom, reason) in cases {
            assert_eq!(
                Exit::of_process(code, oom, 1).reason,
                reason,
                "{code} {oom}"
            );
        }
    }

    #[test]
    fn a_half_written_record_is_an_error_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pod.json");
        assert!(read::<PodRecord>(&path).unwrap().is_none());
        fs::write(&path, b"{\"id\":").unwrap();
        assert!(
            read::<PodRecord>(&path)
                .unwrap_err()
                .to_string()
                .contains("pod.json")
        );
    }
}
