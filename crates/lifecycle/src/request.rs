//! What a door asks for: pods and containers in the core's own terms.
//!
//! Doors translate their wire types into these; records keep them, so that what was asked for can
//! be shown, and enforced again, after a restart.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_names::{ContainerId, SandboxId};
use serde::{Deserialize, Serialize};

/// Whose a pod and its containers are. A kubelet removes what it does not know: it is shown its own
/// only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    #[default]
    Kubernetes,
    Docker,
}

/// A pod sandbox as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodRequest {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub attempt: u32,
    /// Empty means the host's own name where the network is the host's.
    pub hostname: String,
    /// Directory that container log paths are relative to; empty means no logs.
    pub log_directory: String,
    pub dns: Option<Dns>,
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Cgroup under which the pod's containers live; empty means one of the pod's own, below the
    /// daemon's default.
    pub cgroup_parent: String,
    pub sysctls: BTreeMap<String, String>,
    pub namespaces: Namespaces,
    /// Only then may containers be privileged.
    pub privileged: bool,
    #[serde(default)]
    pub selinux: Option<SelinuxOptions>,
    pub runtime_handler: String,
    /// What all containers may use together.
    #[serde(default)]
    pub resources: Option<Resources>,
    /// What running the pod takes besides.
    #[serde(default)]
    pub overhead: Option<Resources>,
    #[serde(default)]
    pub owner: Owner,
    /// A network of its own has no interface but loopback: its owner attaches it.
    #[serde(default)]
    pub unattached: bool,
    #[serde(default)]
    pub joined: Joined,
    #[serde(default)]
    pub shm: Shm,
}

/// Other pods whose namespaces a pod uses, where it would have its own. They have to be ready when
/// it is made, and may go before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub network: Option<SandboxId>,
    /// With what is at /dev/shm.
    pub ipc: Option<SandboxId>,
}

/// What a pod with IPC of its own has at /dev/shm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shm {
    /// 64 MiB.
    #[default]
    Usual,
    Bytes(u64),
    /// Nothing is mounted.
    Missing,
}

impl PodRequest {
    /// The identity under which a repeated request joins the first one.
    pub fn key(&self) -> String {
        format!(
            "{}_{}_{}_{}",
            self.name, self.namespace, self.uid, self.attempt
        )
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    /// Zero means that nothing is published for this port.
    pub host_port: u16,
    /// Empty means every address of the host.
    pub host_ip: String,
}

/// Whose namespace a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Shared by the containers of the pod.
    #[default]
    Pod,
    /// One of its own.
    Container,
    /// The host's.
    Node,
    /// That of another container in the pod; Docker's containers have a pod each, and join across.
    Target(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    pub network: Scope,
    pub pid: Scope,
    pub ipc: Scope,
    /// `None` means that ids are the host's.
    #[serde(default)]
    pub user: Option<UserNamespace>,
}

/// Ids inside a user namespace, and what the host calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub length: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

impl UserNamespace {
    /// The host's numbers of user and group 0 inside; root itself where they are not mapped.
    pub fn root(&self) -> (u32, u32) {
        let of = |ranges: &[IdRange]| {
            let range = ranges.iter().find(|range| range.inside == 0);
            range.map_or(0, |range| range.outside)
        };
        (of(&self.uids), of(&self.gids))
    }
}

/// A container as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerRequest {
    pub name: String,
    pub attempt: u32,
    /// Id, digest reference or tag of an image that is present.
    pub image: String,
    /// What the user wrote for the image, kept for display.
    pub user_specified_image: String,
    pub image_annotations: BTreeMap<String, String>,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    pub working_dir: String,
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<MountRequest>,
    pub devices: Vec<DeviceRequest>,
    /// CDI devices by their names, beside those that annotations name.
    #[serde(default)]
    pub cdi_devices: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Relative to the pod's log directory; empty means that output is dropped.
    pub log_path: String,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    pub security: Security,
    /// Overrides the image's stop signal; a name such as `SIGTERM`.
    pub stop_signal: Option<String>,
    /// That of the pod; what a request says is not looked at.
    #[serde(default)]
    pub owner: Owner,
    /// Chosen by who made the writable layer that the container runs on, and that stays when the
    /// container is removed: see [`crate::Runtime::make_layer`].
    #[serde(default)]
    pub on_layer: Option<ContainerId>,
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
}

/// A limit of getrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// As in `RLIMIT_NOFILE`.
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    pub container_path: String,
    pub host_path: String,
    pub readonly: bool,
    pub recursive_read_only: bool,
    pub propagation: Propagation,
    pub selinux_relabel: bool,
    /// Shows only what is there in the host's directory; links in it lead nowhere else. Empty means
    /// all of it.
    #[serde(default)]
    pub sub_path: String,
    /// How the ids of the volume are mapped; none where they are as they are.
    #[serde(default)]
    pub id_map: Option<UserNamespace>,
    /// Shows an image instead of a host path.
    #[serde(default)]
    pub image: Option<ImageMount>,
    /// A filesystem in memory instead of a host path, with these mount options.
    #[serde(default)]
    pub tmpfs: Option<Vec<String>>,
}

/// An image, or a part of it, as a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// Id, digest reference or tag of an image that is present.
    pub image: String,
    /// What the user wrote for the image, kept for display.
    pub user_specified_image: String,
    pub annotations: BTreeMap<String, String>,
    /// Relative to the image's root; empty means all of it.
    pub sub_path: String,
    /// What `image` meant when the container was created; empty before.
    pub image_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    pub container_path: String,
    pub host_path: String,
    /// Any of `r`, `w` and `m`.
    pub permissions: String,
}

/// Limits; a field that is `None` (or an empty string) leaves the kernel's value alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds per period; negative lifts the limit.
    pub cpu_quota: Option<i64>,
    pub cpu_shares: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; -1 means no limit.
    pub memory_swap_limit: Option<i64>,
    pub oom_score_adj: Option<i32>,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// Page size such as `2MB`, and bytes.
    pub hugepage_limits: Vec<(String, u64)>,
    /// Processes and threads.
    #[serde(default)]
    pub pids_limit: Option<i64>,
    /// Files of the v2 hierarchy, written as they are.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    /// Takes every value that `update` sets over the present one.
    pub fn merge(&mut self, update: &Resources) {
        macro_rules! take {
            ($($field:ident),*) => { $( if update.$field.is_some() { self.$field = update.$field; } )* };
        }
        take!(
            cpu_period,
            cpu_quota,
            cpu_shares,
            memory_limit,
            memory_swap_limit,
            oom_score_adj,
            pids_limit
        );
        if !update.cpuset_cpus.is_empty() {
            self.cpuset_cpus.clone_from(&update.cpuset_cpus);
        }
        if !update.cpuset_mems.is_empty() {
            self.cpuset_mems.clone_from(&update.cpuset_mems);
        }
        for (size, bytes) in &update.hugepage_limits {
            self.hugepage_limits.retain(|(present, _)| present != size);
            self.hugepage_limits.push((size.clone(), *bytes));
        }
        self.unified
            .extend(update.unified.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
}

impl Resources {
    /// What is to be written where these are the result of `update`: its own values, and those
    /// that hang on them. The limit on swap includes memory, and follows it unless it was set.
    pub fn changed_by(&self, update: &Resources) -> Resources {
        let mut changed = update.clone();
        if update.memory_limit.is_some() || update.memory_swap_limit.is_some() {
            changed.memory_limit = self.memory_limit;
            changed.memory_swap_limit = self.memory_swap_limit;
        }
        changed
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// A profile file on the host.
    Localhost(PathBuf),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppArmor {
    /// Berth's own profile, where it could be loaded.
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A profile that is loaded in the kernel.
    Localhost(String),
}

/// Parts of a label; empty ones are the usual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxOptions {
    pub user: String,
    pub role: String,
    pub kind: String,
    pub level: String,
}

/// Who the process runs as, in the order in which they win.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    pub uid: Option<u32>,
    pub username: String,
    /// Only valid beside `uid` or `username`.
    pub gid: Option<u32>,
    /// Instead of `gid`: a name of the image's, or a number.
    #[serde(default)]
    pub groupname: String,
    pub supplemental_groups: Vec<u32>,
    /// Further ones by names of the image's, or numbers.
    #[serde(default)]
    pub supplemental_names: Vec<String>,
    /// Leaves out the groups that the image's group file lists for the user.
    pub strict_groups: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    pub privileged: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub add_ambient_capabilities: Vec<String>,
    /// Pid scope as the container asks for it; network and IPC are the pod's.
    pub pid: Scope,
    /// Has to be the pod's, if it is given.
    #[serde(default)]
    pub user_namespace: Option<UserNamespace>,
    pub run_as: RunAs,
    pub readonly_rootfs: bool,
    pub no_new_privs: bool,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub seccomp: Seccomp,
    #[serde(default)]
    pub apparmor: AppArmor,
    #[serde(default)]
    pub selinux: Option<SelinuxOptions>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_on_swap_that_was_set_outlives_a_change_of_memory() {
        let mut present = Resources {
            memory_limit: Some(100),
            memory_swap_limit: Some(300),
            cpu_shares: Some(5),
            ..Resources::default()
        };
        let update = Resources {
            memory_limit: Some(200),
            ..Resources::default()
        };
        present.merge(&update);
        let changed = present.changed_by(&update);
        assert_eq!(changed.memory_limit, Some(200));
        assert_eq!(changed.memory_swap_limit, Some(300));
        assert_eq!(changed.cpu_shares, None);
    }

    #[test]
    fn an_update_changes_only_what_it_names() {
        let mut present = Resources {
            cpu_shares: Some(512),
            memory_limit: Some(1 << 20),
            cpuset_cpus: "0".into(),
            hugepage_limits: vec![("2MB".into(), 1)],
            ..Resources::default()
        };
        present.merge(&Resources {
            memory_limit: Some(2 << 20),
            hugepage_limits: vec![("2MB".into(), 2), ("1GB".into(), 3)],
            ..Resources::default()
        });
        assert_eq!(present.cpu_shares, Some(512));
        assert_eq!(present.memory_limit, Some(2 << 20));
        assert_eq!(present.cpuset_cpus, "0");
        assert_eq!(
            present.hugepage_limits,
            [("2MB".into(), 2), ("1GB".into(), 3)]
        );
    }
}
