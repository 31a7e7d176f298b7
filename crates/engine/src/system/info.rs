//! `/info`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use berth_lifecycle::CgroupDriver;
use berth_names::Digest;
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{host, version};
use crate::{Engine, Json, containers};

/// Where short names of images lead.
const HUB: &str = "https://index.docker.io/v1/";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    #[serde(rename = "ID")]
    id: String,
    containers: usize,
    containers_running: usize,
    containers_paused: usize,
    containers_stopped: usize,
    images: usize,
    driver: &'static str,
    driver_status: Vec<[String; 2]>,
    plugins: Plugins,
    memory_limit: bool,
    swap_limit: bool,
    cpu_cfs_period: bool,
    cpu_cfs_quota: bool,
    #[serde(rename = "CPUShares")]
    cpu_shares: bool,
    #[serde(rename = "CPUSet")]
    cpu_set: bool,
    pids_limit: bool,
    #[serde(rename = "IPv4Forwarding")]
    ipv4_forwarding: bool,
    debug: bool,
    n_fd: usize,
    oom_kill_disable: bool,
    n_goroutines: usize,
    system_time: String,
    logging_driver: &'static str,
    cgroup_driver: &'static str,
    cgroup_version: &'static str,
    n_events_listener: usize,
    kernel_version: String,
    operating_system: String,
    #[serde(rename = "OSVersion")]
    os_version: String,
    #[serde(rename = "OSType")]
    os_type: &'static str,
    architecture: String,
    index_server_address: &'static str,
    registry_config: Value,
    #[serde(rename = "NCPU")]
    processors: usize,
    mem_total: u64,
    generic_resources: Option<()>,
    docker_root_dir: String,
    http_proxy: String,
    https_proxy: String,
    no_proxy: String,
    name: String,
    labels: Vec<String>,
    experimental_build: bool,
    server_version: &'static str,
    runtimes: BTreeMap<String, Value>,
    default_runtime: String,
    swarm: Value,
    live_restore_enabled: bool,
    isolation: &'static str,
    init_binary: &'static str,
    containerd_commit: Commit,
    runc_commit: Commit,
    init_commit: Commit,
    security_options: Vec<String>,
    #[serde(rename = "CDISpecDirs")]
    cdi_spec_dirs: Vec<String>,
    warnings: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Plugins {
    volume: Vec<String>,
    network: Vec<String>,
    authorization: Option<()>,
    log: Vec<String>,
}

/// Of a program that Docker is made of, and Berth is not.
#[derive(Serialize)]
struct Commit {
    #[serde(rename = "ID")]
    id: &'static str,
}

const NO_COMMIT: Commit = Commit { id: "" };

pub async fn info(State(engine): State<Arc<Engine>>) -> Json<Info> {
    let facts = &engine.facts;
    let limits = engine.runtime.has_cgroups();
    let (operating_system, os_version) = host::distribution();
    let census = containers::census(&engine);
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let runtimes = facts.runtimes.iter();
    let dirs = facts.cdi_dirs.iter();
    Json(Info {
        id: own_id(&engine),
        containers: census.running + census.paused + census.stopped,
        containers_running: census.running,
        containers_paused: census.paused,
        containers_stopped: census.stopped,
        images: engine.images.list().len(),
        driver: "overlay2",
        driver_status: driver_status(&engine),
        plugins: plugins(&engine).await,
        memory_limit: limits,
        swap_limit: limits,
        cpu_cfs_period: limits,
        cpu_cfs_quota: limits,
        cpu_shares: limits,
        cpu_set: limits,
        pids_limit: limits,
        ipv4_forwarding: host::forwards(),
        debug: false,
        n_fd: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        oom_kill_disable: !host::is_cgroup_v2(),
        n_goroutines: 0,
        system_time: OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .unwrap_or_default(),
        logging_driver: "json-file",
        cgroup_driver: match engine.runtime.cgroup_driver() {
            _ if !limits => "none",
            CgroupDriver::Cgroupfs => "cgroupfs",
            CgroupDriver::Systemd => "systemd",
        },
        cgroup_version: if host::is_cgroup_v2() { "2" } else { "1" },
        n_events_listener: engine.events.listeners(),
        kernel_version: host::kernel(),
        operating_system,
        os_version,
        os_type: "linux",
        architecture: host::machine(),
        index_server_address: HUB,
        registry_config: registries(),
        processors: host::processors(),
        mem_total: host::memory(),
        generic_resources: None,
        docker_root_dir: facts.root.display().to_string(),
        http_proxy: variable("HTTP_PROXY"),
        https_proxy: variable("HTTPS_PROXY"),
        no_proxy: variable("NO_PROXY"),
        name: host::name(),
        labels: Vec::new(),
        experimental_build: facts.experimental,
        server_version: version::DOCKER,
        runtimes: runtimes
            .map(|name| (name.clone(), json!({ "path": name })))
            .collect(),
        default_runtime: facts.default_runtime.clone(),
        swarm: json!({
            "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive",
            "ControlAvailable": false, "Error": "", "RemoteManagers": null,
        }),
        live_restore_enabled: true,
        isolation: "",
        init_binary: "berth-pod-init",
        containerd_commit: NO_COMMIT,
        runc_commit: NO_COMMIT,
        init_commit: NO_COMMIT,
        security_options: security_options(),
        cdi_spec_dirs: dirs.map(|dir| dir.display().to_string()).collect(),
        warnings: None,
    })
}

/// How layers are stacked and kept, and whether a container's can be limited.
fn driver_status(engine: &Engine) -> Vec<[String; 2]> {
    let truth = |it: bool| it.to_string();
    let limits = engine.runtime.can_limit_layers().is_ok();
    let status = [
        (
            "Backing Filesystem",
            host::filesystem(&engine.facts.root).to_owned(),
        ),
        ("Supports d_type", truth(true)),
        ("Using metacopy", truth(false)),
        ("Native Overlay Diff", truth(true)),
        ("userxattr", truth(berth_kernel::in_user_namespace())),
        ("Project Quotas", truth(limits)),
    ];
    status
        .map(|(name, value)| [name.to_owned(), value])
        .to_vec()
}

/// What is built in, and what is plugged in.
async fn plugins(engine: &Engine) -> Plugins {
    let drivers = async |built_in: &[&str], interface: &'static str| {
        let found = engine.facts.plugins.all(interface).await.plugins;
        let built_in = built_in.iter().map(|name| (*name).to_owned());
        let others = found.iter().map(|plugin| plugin.name().to_owned());
        built_in.chain(others).collect::<Vec<String>>()
    };
    Plugins {
        volume: drivers(&["local"], "VolumeDriver").await,
        network: drivers(&["bridge", "host", "null"], "NetworkDriver").await,
        authorization: None,
        log: drivers(&["json-file", "local", "none"], "LogDriver").await,
    }
}

/// Plain HTTP is spoken to registries of this machine alone, unless configured.
fn registries() -> Value {
    json!({
        "IndexConfigs": {
            "docker.io": {
                "Mirrors": [], "Name": "docker.io", "Official": true, "Secure": true,
            },
        },
        "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"],
        "Mirrors": null,
    })
}

fn security_options() -> Vec<String> {
    let mut options = vec!["name=seccomp,profile=builtin".to_owned()];
    if berth_kernel::in_user_namespace() {
        options.push("name=rootless".to_owned());
    }
    if std::fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false) {
        options.push("name=cgroupns".to_owned());
    }
    options
}

/// The same after every start, another for each daemon of a machine.
fn own_id(engine: &Engine) -> String {
    let root = engine.facts.root.display();
    let text = format!("{} {root}", host::machine_id());
    let digest = Digest::sha256_of(text.as_bytes());
    let hex = digest.hex();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    let parts = [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ];
    parts.join("-")
}
