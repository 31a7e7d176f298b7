//! What a container is asked to be, in the fields of the Engine API (v1.50, `ContainerConfig`,
//! `HostConfig`, `NetworkingConfig`). It is stored so, and shown again as it came: what is not
//! understood here is kept in `rest`.
//!
//! Clients send `null` for what they leave out: doors drop nulls before they read a request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What goes with an image wherever it runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Config {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub exposed_ports: BTreeMap<String, Value>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    /// `NAME=value`; a name alone takes the image's value away.
    pub env: Vec<String>,
    #[serde(deserialize_with = "words")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The image as the user named it.
    pub image: String,
    pub volumes: BTreeMap<String, Value>,
    pub working_dir: String,
    #[serde(deserialize_with = "words")]
    pub entrypoint: Option<Vec<String>>,
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// How to see whether a container works. Durations in nanoseconds; 0 means the default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    pub test: Vec<String>,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
}

/// What depends on the host that it runs on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HostConfig {
    pub binds: Vec<String>,
    pub mounts: Vec<Mount>,
    pub tmpfs: BTreeMap<String, String>,
    /// Of the volumes that `binds`, the image and the container's configuration name.
    pub volume_driver: String,
    pub volumes_from: Vec<String>,
    pub log_config: LogConfig,
    pub network_mode: String,
    /// By `port/protocol`.
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    pub publish_all_ports: bool,
    pub restart_policy: RestartPolicy,
    pub auto_remove: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub dns: Vec<String>,
    pub dns_options: Vec<String>,
    pub dns_search: Vec<String>,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    pub group_add: Vec<String>,
    /// `name:alias`.
    pub links: Vec<String>,
    pub ipc_mode: String,
    pub pid_mode: String,
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    pub userns_mode: String,
    pub oom_score_adj: i32,
    pub privileged: bool,
    pub readonly_rootfs: bool,
    pub security_opt: Vec<String>,
    /// Bytes; 0 means 64 MiB.
    pub shm_size: i64,
    pub sysctls: BTreeMap<String, String>,
    pub runtime: String,
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
    pub init: Option<bool>,
    pub cgroup_parent: String,
    /// Of the writable layer: `size`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub storage_opt: BTreeMap<String, String>,
    #[serde(flatten)]
    pub limits: Limits,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The part of [`HostConfig`] that can be changed while a container runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Limits {
    /// Bytes; 0 means no limit.
    pub memory: i64,
    /// Bytes of memory and swap together; -1 means no limit.
    pub memory_swap: i64,
    pub memory_reservation: i64,
    pub cpu_shares: i64,
    /// Billionths of a CPU.
    pub nano_cpus: i64,
    /// Microseconds.
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// 0 and below mean no limit.
    pub pids_limit: i64,
    pub ulimits: Vec<Ulimit>,
    pub devices: Vec<Device>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Ulimit {
    /// As in `nofile`.
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Device {
    pub path_on_host: String,
    pub path_in_container: String,
    pub cgroup_permissions: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs` or `image`.
    pub r#type: String,
    pub source: String,
    pub target: String,
    pub read_only: bool,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct LogConfig {
    pub r#type: String,
    pub config: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PortBinding {
    /// Empty means every address.
    pub host_ip: String,
    /// A port, a range, or empty for one that is free.
    pub host_port: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RestartPolicy {
    /// Empty, `no`, `on-failure`, `always` or `unless-stopped`.
    pub name: String,
    /// For `on-failure`; 0 means without end.
    pub maximum_retry_count: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkingConfig {
    /// By the network's name.
    pub endpoints_config: BTreeMap<String, Value>,
}

/// A command line is a list; old clients send one string, which a shell is not asked about.
fn words<'de, D: serde::Deserializer<'de>>(given: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        List(Vec<String>),
        One(String),
    }
    Ok(
        Option::<Words>::deserialize(given)?.map(|words| match words {
            Words::List(list) => list,
            Words::One(one) => vec![one],
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_understood_is_shown_again() {
        let given = json!({"Image": "a", "Cmd": "true", "MacAddress": "x", "Entrypoint": ["/a"]});
        let config: Config = serde_json::from_value(given).unwrap();
        assert_eq!(config.cmd, Some(vec!["true".to_owned()]));
        let shown = serde_json::to_value(&config).unwrap();
        assert_eq!(shown["MacAddress"], "x");
        assert_eq!(shown["Image"], "a");
    }

    #[test]
    fn limits_lie_among_the_other_fields_of_the_host() {
        let given = json!({"Memory": 5, "NetworkMode": "host", "Isolation": ""});
        let host: HostConfig = serde_json::from_value(given).unwrap();
        assert_eq!(host.limits.memory, 5);
        let shown = serde_json::to_value(&host).unwrap();
        assert_eq!(shown["Memory"], 5);
        assert_eq!(shown["Isolation"], "");
        assert_eq!(shown["UTSMode"], "");
    }
}
