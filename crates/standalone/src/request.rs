//! From a record to what the core is asked for, for one run.

use std::path::{Path, PathBuf};

use berth_images::Image;
use berth_lifecycle::request::{
    AppArmor, ContainerRequest, Dns, MountRequest, Namespaces, Owner, PodRequest, RunAs, Scope,
    Seccomp, Security, Shm,
};

use crate::config::{Config, HostConfig};
use crate::error::{Error, Result};
use crate::files::{Files, LOG};
use crate::links::Link;
use crate::record::Record;
use crate::sharing::{Sharing, of_container, pid_scope};
use crate::{limits, mounts};

/// Where an init is in containers that ask for one.
const INIT: &str = "/sbin/docker-init";

/// What a container must not see of the host's /proc and /sys, and must not write to, unless it is
/// privileged.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MASKED_MORE: [&str; 1] = ["/sys/devices/virtual/powercap"];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Whose network a container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// An interface on a bridge, of the network of this name or id.
    Joined(String),
    Host,
    /// Loopback alone.
    None,
    /// That of the container of this id.
    Shared(String),
}

pub(crate) fn network(host: &HostConfig) -> Result<Network> {
    match host.network_mode.as_str() {
        "" | "default" => Ok(Network::Joined("bridge".to_owned())),
        "host" => Ok(Network::Host),
        "none" => Ok(Network::None),
        name => Ok(match of_container(name) {
            Some(id) => Network::Shared(id.to_owned()),
            None => Network::Joined(name.to_owned()),
        }),
    }
}

/// The program and its arguments. An entrypoint of the request does without the image's command.
pub(crate) fn command(config: &Config, image: &Image) -> Result<Vec<String>> {
    let own = config.entrypoint.as_ref().filter(|words| !words.is_empty());
    let mut line: Vec<String> = match own {
        // One empty word takes the image's entrypoint away.
        Some(words) if words.iter().all(String::is_empty) => Vec::new(),
        Some(words) => words.clone(),
        None => image.config.entrypoint().to_vec(),
    };
    match &config.cmd {
        Some(words) if !words.is_empty() => line.extend(words.iter().cloned()),
        _ if own.is_none() => line.extend(image.config.cmd().iter().cloned()),
        _ => {}
    }
    match line.first() {
        None => Err(Error::invalid("no command specified")),
        Some(program) if program.is_empty() => Err(Error::invalid("no command specified")),
        Some(_) => Ok(line),
    }
}

pub(crate) fn hostname(record: &Record) -> String {
    match (
        record.config.hostname.as_str(),
        record.host.network_mode.as_str(),
    ) {
        ("", "host") => String::new(),
        ("", _) => berth_names::short(record.id.as_str()).to_owned(),
        (name, _) => name.to_owned(),
    }
}

pub(crate) fn pod(record: &Record, files: &Files, sharing: &Sharing) -> Result<PodRequest> {
    let host = &record.host;
    let network = network(host)?;
    let on_host = network == Network::Host || sharing.host_network;
    Ok(PodRequest {
        name: record.name.clone(),
        uid: record.id.to_string(),
        namespace: "docker".to_owned(),
        attempt: u32::try_from(record.ends % u64::from(u32::MAX)).unwrap_or(0),
        // Who shares a network goes by its name.
        hostname: hostname(sharing.network.as_deref().unwrap_or(record)),
        log_directory: files.dir().display().to_string(),
        dns: dns(host),
        labels: record.config.labels.clone(),
        sysctls: host.sysctls.clone(),
        cgroup_parent: host.cgroup_parent.clone(),
        namespaces: Namespaces {
            network: if on_host { Scope::Node } else { Scope::Pod },
            pid: Scope::Container,
            ipc: match sharing.host_ipc {
                true => Scope::Node,
                false => ipc_scope(&host.ipc_mode)?,
            },
            user: None,
        },
        privileged: host.privileged,
        runtime_handler: runtime(host),
        owner: Owner::Docker,
        // Its networks are not the pods'.
        unattached: !on_host,
        joined: sharing.joined.clone(),
        shm: shm(host),
        ..PodRequest::default()
    })
}

/// Docker's names for the default runtime.
fn runtime(host: &HostConfig) -> String {
    match host.runtime.as_str() {
        "runc" | "io.containerd.runc.v2" | "berth" => String::new(),
        other => other.to_owned(),
    }
}

pub(crate) fn dns(host: &HostConfig) -> Option<Dns> {
    let dns = Dns {
        servers: host.dns.clone(),
        searches: host.dns_search.clone(),
        options: host.dns_options.clone(),
    };
    (dns != Dns::default()).then_some(dns)
}

/// One that is joined is the pod's as well.
fn ipc_scope(mode: &str) -> Result<Scope> {
    match mode {
        "" | "private" | "shareable" | "none" => Ok(Scope::Pod),
        "host" => Ok(Scope::Node),
        mode if of_container(mode).is_some() => Ok(Scope::Pod),
        mode => Err(Error::invalid(format!("invalid IPC mode: {mode}"))),
    }
}

fn shm(host: &HostConfig) -> Shm {
    match u64::try_from(host.shm_size) {
        _ if host.ipc_mode == "none" => Shm::Missing,
        Ok(bytes) if bytes > 0 => Shm::Bytes(bytes),
        _ => Shm::Usual,
    }
}

pub(crate) fn container(
    record: &Record,
    image: &Image,
    files: &Files,
    sharing: &Sharing,
    init: &Path,
) -> Result<ContainerRequest> {
    let (config, host) = (&record.config, &record.host);
    let mut command = record.command.clone();
    let mut mounts = mounts::requests(&record.mounts);
    let taken = |mounts: &[MountRequest], path: &str| {
        mounts.iter().any(|mount| mount.container_path == path)
    };
    if !taken(&mounts, "/etc/hosts") {
        mounts.push(MountRequest {
            container_path: "/etc/hosts".to_owned(),
            host_path: (sharing.hosts.clone())
                .unwrap_or_else(|| files.hosts())
                .display()
                .to_string(),
            readonly: host.readonly_rootfs,
            ..MountRequest::default()
        });
    }
    // Only who has PIDs of its own has a process 1.
    let pid = pid_scope(&host.pid_mode)?;
    if host.init == Some(true) && pid == Scope::Container {
        command.splice(0..0, [INIT, "--"].map(str::to_owned));
        mounts.push(MountRequest {
            container_path: INIT.to_owned(),
            host_path: init.display().to_string(),
            readonly: true,
            ..MountRequest::default()
        });
    }
    Ok(ContainerRequest {
        name: record.name.clone(),
        image: record.image_id.to_string(),
        user_specified_image: config.image.clone(),
        command,
        working_dir: config.working_dir.clone(),
        envs: (sharing.links.iter().flat_map(Link::variables))
            .chain(environment(config, image))
            .collect(),
        mounts,
        devices: limits::devices(host),
        labels: config.labels.clone(),
        log_path: match record.log_path {
            Some(_) => LOG.to_owned(),
            None => String::new(),
        },
        stdin: config.open_stdin,
        // A terminal is left by its keys and come back to: its input does not end with a client.
        stdin_once: config.stdin_once && !config.tty,
        tty: config.tty,
        resources: limits::resources(host)?,
        security: security(record, files)?,
        stop_signal: Some(config.stop_signal.clone()).filter(|signal| !signal.is_empty()),
        on_layer: Some(record.id.clone()),
        rlimits: limits::rlimits(&host.limits.ulimits)?,
        ..ContainerRequest::default()
    })
}

fn environment(config: &Config, image: &Image) -> Vec<(String, String)> {
    let given = config
        .env
        .iter()
        .filter_map(|entry| match entry.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), value.to_owned())),
            None => {
                let of_image = image.config.env().iter();
                let mut named = of_image.filter_map(|entry| entry.split_once('='));
                let value = named.find(|(name, _)| name == entry)?.1;
                Some((entry.clone(), value.to_owned()))
            }
        });
    given.collect()
}

fn security(record: &Record, files: &Files) -> Result<Security> {
    let host = &record.host;
    let mut security = confined(host)?;
    security.run_as = run_as(record)?;
    for option in &host.security_opt {
        apply(&mut security, option, files)?;
    }
    Ok(security)
}

/// What keeps a container apart from the host, without who it runs as.
pub(crate) fn confined(host: &HostConfig) -> Result<Security> {
    let mut security = Security {
        privileged: host.privileged,
        add_capabilities: host.cap_add.iter().map(|name| capability(name)).collect(),
        drop_capabilities: host.cap_drop.iter().map(|name| capability(name)).collect(),
        pid: pid_scope(&host.pid_mode)?,
        readonly_rootfs: host.readonly_rootfs,
        seccomp: match host.privileged {
            true => Seccomp::Unconfined,
            false => Seccomp::RuntimeDefault,
        },
        ..Security::default()
    };
    if !host.privileged {
        let all = |paths: &[&str]| {
            paths
                .iter()
                .map(|&path| path.to_owned())
                .collect::<Vec<_>>()
        };
        let masked = || [all(&MASKED), all(&MASKED_MORE)].concat();
        security.masked_paths = host.masked_paths.clone().unwrap_or_else(masked);
        security.readonly_paths = host
            .readonly_paths
            .clone()
            .unwrap_or_else(|| all(&READ_ONLY));
    }
    Ok(security)
}

/// Without the prefix, in capitals, as the core takes them.
fn capability(name: &str) -> String {
    let name = name.to_uppercase();
    name.strip_prefix("CAP_").unwrap_or(&name).to_owned()
}

fn apply(security: &mut Security, option: &str, files: &Files) -> Result<()> {
    let (key, value) = option
        .split_once('=')
        .or_else(|| option.split_once(':'))
        .unwrap_or((option, ""));
    match (key, value) {
        ("no-new-privileges", "" | "true") => security.no_new_privs = true,
        ("no-new-privileges", "false") => security.no_new_privs = false,
        ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
        ("seccomp", "builtin") => security.seccomp = Seccomp::RuntimeDefault,
        // Clients send the profile itself.
        ("seccomp", profile) => {
            let path: PathBuf = files.seccomp();
            std::fs::write(&path, profile).map_err(Error::file("write", &path))?;
            security.seccomp = Seccomp::Localhost(path);
        }
        ("apparmor", "unconfined") => security.apparmor = AppArmor::Unconfined,
        ("apparmor", profile) => security.apparmor = AppArmor::Localhost(profile.to_owned()),
        ("systempaths", "unconfined") => {
            security.masked_paths.clear();
            security.readonly_paths.clear();
        }
        ("label", _) | ("writable-cgroups", _) => {}
        _ => {
            return Err(Error::invalid(format!(
                "invalid --security-opt 2: {option:?}"
            )));
        }
    }
    Ok(())
}

/// Numbers and names of `user:group` alike: who has the name is looked up in the image.
fn run_as(record: &Record) -> Result<RunAs> {
    let (user, group) = match record.config.user.split_once(':') {
        Some((user, group)) => (user, group),
        None => (record.config.user.as_str(), ""),
    };
    let (user, uid) = match (user, group) {
        ("", "") => ("", None),
        ("", _) => ("", Some(0)),
        (user, _) => (user, user.parse().ok()),
    };
    Ok(RunAs {
        uid,
        username: match uid {
            Some(_) => String::new(),
            None => user.to_owned(),
        },
        groupname: group.to_owned(),
        supplemental_names: record.host.group_add.clone(),
        ..RunAs::default()
    })
}
