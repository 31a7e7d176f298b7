//! From a record to what the core is asked for, for one run.

use std::path::PathBuf;

use berth_images::Image;
use berth_lifecycle::request::{
    AppArmor, ContainerRequest, Dns, MountRequest, Namespaces, Owner, PodRequest, RunAs, Scope,
    Seccomp, Security,
};

use crate::config::{Config, HostConfig};
use crate::error::{Error, Result};
use crate::files::{Files, LOG};
use crate::record::Record;
use crate::{limits, mounts};

/// Bytes of /dev/shm where nothing else is asked for: 64 MiB.
const SHM: i64 = 64 << 20;

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
}

pub(crate) fn network(host: &HostConfig) -> Result<Network> {
    match host.network_mode.as_str() {
        "" | "default" => Ok(Network::Joined("bridge".to_owned())),
        "host" => Ok(Network::Host),
        "none" => Ok(Network::None),
        shared if shared.starts_with("container:") => Err(Error::invalid(format!(
            "network mode {shared:?} is not supported: a container's network is its own"
        ))),
        name => Ok(Network::Joined(name.to_owned())),
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

pub(crate) fn pod(record: &Record, files: &Files) -> Result<PodRequest> {
    let host = &record.host;
    let network = network(host)?;
    Ok(PodRequest {
        name: record.name.clone(),
        uid: record.id.to_string(),
        namespace: "docker".to_owned(),
        attempt: u32::try_from(record.ends % u64::from(u32::MAX)).unwrap_or(0),
        hostname: hostname(record),
        log_directory: files.dir().display().to_string(),
        dns: dns(host),
        labels: record.config.labels.clone(),
        sysctls: host.sysctls.clone(),
        cgroup_parent: host.cgroup_parent.clone(),
        namespaces: Namespaces {
            network: match network {
                Network::Host => Scope::Node,
                Network::Joined(_) | Network::None => Scope::Pod,
            },
            pid: Scope::Container,
            ipc: scope("ipc", &host.ipc_mode, Scope::Pod)?,
            user: None,
        },
        privileged: host.privileged,
        runtime_handler: runtime(host),
        owner: Owner::Docker,
        // Its networks are not the pods'.
        unattached: network != Network::Host,
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

fn scope(field: &str, mode: &str, own: Scope) -> Result<Scope> {
    match mode {
        "" | "private" | "shareable" => Ok(own),
        "host" => Ok(Scope::Node),
        other => Err(Error::invalid(format!(
            "{field} mode {other:?} is not supported: use private or host"
        ))),
    }
}

pub(crate) fn container(record: &Record, image: &Image, files: &Files) -> Result<ContainerRequest> {
    let (config, host) = (&record.config, &record.host);
    let mut mounts = mounts::requests(&record.mounts);
    let taken = |mounts: &[MountRequest], path: &str| {
        mounts.iter().any(|mount| mount.container_path == path)
    };
    if !taken(&mounts, "/etc/hosts") {
        mounts.push(MountRequest {
            container_path: "/etc/hosts".to_owned(),
            host_path: files.hosts().display().to_string(),
            readonly: host.readonly_rootfs,
            ..MountRequest::default()
        });
    }
    let shm = if host.shm_size > 0 {
        host.shm_size
    } else {
        SHM
    };
    if shm != SHM && host.ipc_mode != "host" && !taken(&mounts, "/dev/shm") {
        mounts.push(MountRequest {
            container_path: "/dev/shm".to_owned(),
            tmpfs: Some(vec![
                "noexec".into(),
                "mode=1777".into(),
                format!("size={shm}"),
            ]),
            ..MountRequest::default()
        });
    }
    Ok(ContainerRequest {
        name: record.name.clone(),
        image: record.image_id.to_string(),
        user_specified_image: config.image.clone(),
        command: record.command.clone(),
        working_dir: config.working_dir.clone(),
        envs: environment(config, image),
        mounts,
        devices: limits::devices(host),
        labels: config.labels.clone(),
        log_path: match record.log_path {
            Some(_) => LOG.to_owned(),
            None => String::new(),
        },
        stdin: config.open_stdin,
        stdin_once: config.stdin_once,
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
    let mut security = Security {
        privileged: host.privileged,
        add_capabilities: host.cap_add.iter().map(|name| capability(name)).collect(),
        drop_capabilities: host.cap_drop.iter().map(|name| capability(name)).collect(),
        pid: scope("pid", &host.pid_mode, Scope::Container)?,
        run_as: run_as(record)?,
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
    for option in &host.security_opt {
        apply(&mut security, option, files)?;
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

fn run_as(record: &Record) -> Result<RunAs> {
    let mut groups = Vec::new();
    for group in &record.host.group_add {
        let number = group.parse().map_err(|_| {
            Error::invalid(format!("group {group:?} has to be given by its number"))
        })?;
        groups.push(number);
    }
    let (user, group) = match record.config.user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (record.config.user.as_str(), None),
    };
    let uid: Option<u32> = user.parse().ok();
    let gid = match group {
        None => None,
        Some(group) => Some(group.parse().map_err(|_| {
            Error::invalid(format!("group {group:?} has to be given by its number"))
        })?),
    };
    Ok(RunAs {
        uid,
        username: match uid {
            Some(_) => String::new(),
            None => user.to_owned(),
        },
        gid,
        supplemental_groups: groups,
        strict_groups: false,
    })
}
