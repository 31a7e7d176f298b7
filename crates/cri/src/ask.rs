//! Requests: from the CRI's types to the core's.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

use berth_api::cri::v1::{
    self as cri, AuthConfig, LinuxContainerResources, LinuxContainerSecurityContext, NamespaceMode,
    security_profile::ProfileType,
};
use berth_lifecycle::request::{
    AppArmor, ContainerRequest, DeviceRequest, Dns, IdRange, ImageMount, MountRequest, Namespaces,
    PodRequest, PortMapping, Propagation, Protocol, Resources, RunAs, Scope, Seccomp, Security,
    SelinuxOptions, UserNamespace,
};
use berth_network::Subnet;
use berth_registry::Credentials;
use tonic::Status;

use crate::enums;
use crate::status::invalid;

type Result<T> = std::result::Result<T, Status>;

pub fn pod(config: Option<cri::PodSandboxConfig>, handler: String) -> Result<PodRequest> {
    let config = config.ok_or_else(|| invalid("config is missing"))?;
    enums::of_pod(&config)?;
    let metadata = config
        .metadata
        .ok_or_else(|| invalid("config.metadata is missing"))?;
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let options = security.namespace_options.clone().unwrap_or_default();
    Ok(PodRequest {
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        attempt: metadata.attempt,
        hostname: config.hostname,
        log_directory: config.log_directory,
        dns: config.dns_config.map(|dns| Dns {
            servers: dns.servers,
            searches: dns.searches,
            options: dns.options,
        }),
        port_mappings: config
            .port_mappings
            .iter()
            .map(port)
            .collect::<Result<_>>()?,
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        cgroup_parent: linux.cgroup_parent,
        sysctls: sorted(linux.sysctls),
        namespaces: Namespaces {
            network: scope(options.network, "")?,
            pid: scope(options.pid, "")?,
            ipc: scope(options.ipc, "")?,
            user: user_namespace(options.userns_options)?,
        },
        privileged: security.privileged,
        selinux: selinux(security.selinux_options),
        runtime_handler: handler,
        resources: linux.resources.map(resources).transpose()?,
        overhead: linux.overhead.map(resources).transpose()?,
    })
}

pub fn container(
    config: Option<cri::ContainerConfig>,
    seccomp_dir: &Path,
) -> Result<ContainerRequest> {
    let config = config.ok_or_else(|| invalid("config is missing"))?;
    enums::of_container(&config)?;
    let metadata = config
        .metadata
        .ok_or_else(|| invalid("config.metadata is missing"))?;
    let image = config
        .image
        .ok_or_else(|| invalid("config.image is missing"))?;
    let linux = config.linux.unwrap_or_default();
    let stop_signal = stop_signal(config.stop_signal)?;
    Ok(ContainerRequest {
        name: metadata.name,
        attempt: metadata.attempt,
        image: image.image,
        user_specified_image: image.user_specified_image,
        image_annotations: sorted(image.annotations),
        command: config.command,
        args: config.args,
        working_dir: config.working_dir,
        envs: config
            .envs
            .into_iter()
            .map(|env| (env.key, env.value))
            .collect(),
        mounts: config
            .mounts
            .into_iter()
            .map(mount)
            .collect::<Result<_>>()?,
        devices: config
            .devices
            .into_iter()
            .map(|device| DeviceRequest {
                container_path: device.container_path,
                host_path: device.host_path,
                permissions: device.permissions,
            })
            .collect(),
        cdi_devices: config
            .cdi_devices
            .into_iter()
            .map(|device| device.name)
            .collect(),
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        log_path: config.log_path,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: linux
            .resources
            .map(resources)
            .transpose()?
            .unwrap_or_default(),
        security: security(linux.security_context.unwrap_or_default(), seccomp_dir)?,
        stop_signal,
    })
}

/// Limits: the contract's zero means "not set".
pub fn resources(limits: LinuxContainerResources) -> Result<Resources> {
    let memory = i64::MAX.unsigned_abs();
    let score = i32::try_from(limits.oom_score_adj)
        .ok()
        .filter(|score| (-1000..=1000).contains(score))
        .ok_or_else(|| outside("oom_score_adj", limits.oom_score_adj, -1000, 1000))?;
    Ok(Resources {
        // The kernel's bounds: kernel/sched/core.c, tg_set_cfs_bandwidth.
        cpu_period: positive("cpu_period", limits.cpu_period, 1000..=1_000_000)?,
        cpu_quota: limit("cpu_quota", limits.cpu_quota, 1000..=memory)?,
        cpu_shares: positive("cpu_shares", limits.cpu_shares, 2..=262_144)?,
        memory_limit: limit(
            "memory_limit_in_bytes",
            limits.memory_limit_in_bytes,
            1..=memory,
        )?,
        memory_swap_limit: limit(
            "memory_swap_limit_in_bytes",
            limits.memory_swap_limit_in_bytes,
            1..=memory,
        )?,
        oom_score_adj: Some(score),
        cpuset_cpus: limits.cpuset_cpus,
        cpuset_mems: limits.cpuset_mems,
        hugepage_limits: limits
            .hugepage_limits
            .into_iter()
            .map(|limit| (limit.page_size, limit.limit))
            .collect(),
        unified: sorted(limits.unified),
    })
}

fn positive(field: &str, value: i64, range: RangeInclusive<u64>) -> Result<Option<u64>> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) if range.contains(&value) => Ok(Some(value)),
        _ => Err(outside(field, value, *range.start(), *range.end())),
    }
}

/// A limit that -1 lifts.
fn limit(field: &str, value: i64, range: RangeInclusive<u64>) -> Result<Option<i64>> {
    match value {
        0 => Ok(None),
        -1 => Ok(Some(-1)),
        value if u64::try_from(value).is_ok_and(|value| range.contains(&value)) => Ok(Some(value)),
        value => Err(invalid(format!(
            "{field} is {value}: it is at least {}, or -1 for no limit",
            range.start()
        ))),
    }
}

fn outside(field: &str, value: i64, least: impl Display, most: impl Display) -> Status {
    invalid(format!("{field} is {value}: it lies in {least}..={most}"))
}

pub fn credentials(auth: Option<AuthConfig>) -> Result<Credentials> {
    let Some(auth) = auth else {
        return Ok(Credentials::None);
    };
    Credentials::from_parts(
        &auth.username,
        &auth.password,
        &auth.auth,
        &auth.identity_token,
        &auth.registry_token,
    )
    .map_err(|error| invalid(format!("auth: {error}")))
}

fn security(context: LinuxContainerSecurityContext, seccomp_dir: &Path) -> Result<Security> {
    let options = context.namespace_options.clone().unwrap_or_default();
    let apparmor = apparmor(&context)?;
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let strict = context.supplemental_groups_policy() == cri::SupplementalGroupsPolicy::Strict;
    Ok(Security {
        privileged: context.privileged,
        seccomp: seccomp(&context, seccomp_dir)?,
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        add_ambient_capabilities: capabilities.add_ambient_capabilities,
        pid: scope(options.pid, &options.target_id)?,
        user_namespace: user_namespace(options.userns_options)?,
        run_as: RunAs {
            uid: context
                .run_as_user
                .map(|uid| id("run_as_user", uid.value))
                .transpose()?,
            username: context.run_as_username,
            gid: context
                .run_as_group
                .map(|gid| id("run_as_group", gid.value))
                .transpose()?,
            supplemental_groups: context
                .supplemental_groups
                .iter()
                .map(|gid| id("supplemental_groups", *gid))
                .collect::<Result<_>>()?,
            strict_groups: strict,
        },
        readonly_rootfs: context.readonly_rootfs,
        no_new_privs: context.no_new_privs,
        masked_paths: context.masked_paths,
        readonly_paths: context.readonly_paths,
        apparmor,
        selinux: selinux(context.selinux_options),
    })
}

/// The field wins over the string that it superseded.
#[allow(deprecated)] // the string is still what some clients send
fn apparmor(context: &LinuxContainerSecurityContext) -> Result<AppArmor> {
    let local = |name: &str| match name {
        "" => Err(invalid("apparmor.localhost_ref is empty: name a profile")),
        name => Ok(AppArmor::Localhost(name.to_owned())),
    };
    if let Some(profile) = &context.apparmor {
        let reference = profile.localhost_ref.as_str();
        return match ProfileType::try_from(profile.profile_type) {
            Ok(ProfileType::RuntimeDefault) => Ok(AppArmor::RuntimeDefault),
            Ok(ProfileType::Unconfined) => Ok(AppArmor::Unconfined),
            Ok(ProfileType::Localhost) => {
                local(reference.strip_prefix("localhost/").unwrap_or(reference))
            }
            Err(_) => Err(invalid(format!(
                "apparmor.profile_type {} is not known",
                profile.profile_type
            ))),
        };
    }
    match context.apparmor_profile.as_str() {
        "" | "runtime/default" => Ok(AppArmor::RuntimeDefault),
        "unconfined" => Ok(AppArmor::Unconfined),
        profile => match profile.strip_prefix("localhost/") {
            Some(name) => local(name),
            None => Err(invalid(format!(
                "apparmor_profile {profile:?} is not a profile: use localhost/<name>"
            ))),
        },
    }
}

/// Clients send an empty message for none.
fn selinux(options: Option<cri::SeLinuxOption>) -> Option<SelinuxOptions> {
    let options = options.map(|given| SelinuxOptions {
        user: given.user,
        role: given.role,
        kind: given.r#type,
        level: given.level,
    });
    options.filter(|options| *options != SelinuxOptions::default())
}

/// No profile means unconfined, as the contract has it.
#[allow(deprecated)] // the old path is still what some clients send
fn seccomp(context: &LinuxContainerSecurityContext, dir: &Path) -> Result<Seccomp> {
    let local = |reference: &str| {
        if reference.is_empty() {
            return Err(invalid(
                "seccomp.localhost_ref is empty: name a profile file",
            ));
        }
        // Absolute references stay; others are looked up in the configured directory.
        Ok(Seccomp::Localhost(dir.join(reference)))
    };
    if let Some(profile) = &context.seccomp {
        return match ProfileType::try_from(profile.profile_type) {
            Ok(ProfileType::RuntimeDefault) => Ok(Seccomp::RuntimeDefault),
            Ok(ProfileType::Unconfined) => Ok(Seccomp::Unconfined),
            Ok(ProfileType::Localhost) => local(&profile.localhost_ref),
            Err(_) => Err(invalid(format!(
                "seccomp.profile_type {}",
                profile.profile_type
            ))),
        };
    }
    match context.seccomp_profile_path.as_str() {
        "" | "unconfined" => Ok(Seccomp::Unconfined),
        "runtime/default" | "docker/default" => Ok(Seccomp::RuntimeDefault),
        path => match path.strip_prefix("localhost/") {
            Some(reference) => local(reference),
            None => Err(invalid(format!(
                "seccomp_profile_path {path:?} is not a profile"
            ))),
        },
    }
}

/// The mode of a message that is missing is the host's: clients that know no user namespaces leave
/// it out.
fn user_namespace(options: Option<cri::UserNamespace>) -> Result<Option<UserNamespace>> {
    let Some(options) = options else {
        return Ok(None);
    };
    let ids = UserNamespace {
        uids: ranges(&options.uids),
        gids: ranges(&options.gids),
    };
    match NamespaceMode::try_from(options.mode) {
        Ok(NamespaceMode::Pod) => Ok(Some(ids)),
        Ok(NamespaceMode::Node) if ids == UserNamespace::default() => Ok(None),
        Ok(NamespaceMode::Node) => Err(invalid(
            "userns_options: mode NODE has no mappings, the ids are the host's",
        )),
        Ok(mode) => Err(invalid(format!(
            "userns_options: mode {} is not supported, only POD and NODE",
            mode.as_str_name()
        ))),
        Err(_) => Err(invalid(format!(
            "userns_options: mode {} is not known",
            options.mode
        ))),
    }
}

fn ranges(mappings: &[cri::IdMapping]) -> Vec<IdRange> {
    let range = |mapping: &cri::IdMapping| IdRange {
        inside: mapping.container_id,
        outside: mapping.host_id,
        length: mapping.length,
    };
    mappings.iter().map(range).collect()
}

fn scope(mode: i32, target: &str) -> Result<Scope> {
    match NamespaceMode::try_from(mode) {
        Ok(NamespaceMode::Pod) => Ok(Scope::Pod),
        Ok(NamespaceMode::Container) => Ok(Scope::Container),
        Ok(NamespaceMode::Node) => Ok(Scope::Node),
        Ok(NamespaceMode::Target) if target.is_empty() => {
            Err(invalid("namespace_options.target_id is empty"))
        }
        Ok(NamespaceMode::Target) => Ok(Scope::Target(target.to_owned())),
        Err(_) => Err(invalid(format!(
            "namespace_options: mode {mode} is not known"
        ))),
    }
}

/// Ids are 32 bits wide in the kernel and 64 on the wire: what does not fit is refused, because
/// what is cut off could be root (CVE-2024-40635).
fn id(field: &str, value: i64) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| {
            invalid(format!(
                "{field} {value} is not an id: 0 to {}",
                u32::MAX - 1
            ))
        })
}

/// The node's pod CIDR, one of each family, separated by a comma.
pub fn pod_ranges(cidr: &str) -> Result<Vec<Subnet>> {
    let ranges = cidr
        .split(',')
        .map(|text| text.trim().parse::<Subnet>())
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| invalid(format!("pod_cidr: {error}")))?;
    for ipv4 in [true, false] {
        if ranges
            .iter()
            .filter(|range| range.is_ipv4() == ipv4)
            .count()
            > 1
        {
            return Err(invalid(format!("pod_cidr {cidr:?} has two of one family")));
        }
    }
    Ok(ranges)
}

fn port(mapping: &cri::PortMapping) -> Result<PortMapping> {
    let number = |field: &str, value: i32| {
        u16::try_from(value)
            .map_err(|_| invalid(format!("port_mappings.{field} {value} is not a port")))
    };
    Ok(PortMapping {
        protocol: match mapping.protocol() {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: number("container_port", mapping.container_port)?,
        host_port: number("host_port", mapping.host_port)?,
        host_ip: mapping.host_ip.clone(),
    })
}

fn mount(mount: cri::Mount) -> Result<MountRequest> {
    let image = image_mount(&mount)?;
    let id_map = UserNamespace {
        uids: ranges(&mount.uid_mappings),
        gids: ranges(&mount.gid_mappings),
    };
    let propagation = match mount.propagation() {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    Ok(MountRequest {
        container_path: mount.container_path,
        host_path: mount.host_path,
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation,
        selinux_relabel: mount.selinux_relabel,
        image,
        id_map: (id_map != UserNamespace::default()).then_some(id_map),
    })
}

fn image_mount(mount: &cri::Mount) -> Result<Option<ImageMount>> {
    let image = mount.image.as_ref().filter(|image| !image.image.is_empty());
    let Some(image) = image else {
        return match mount.image_sub_path.as_str() {
            "" => Ok(None),
            path => Err(invalid(format!(
                "mounts.image_sub_path is {path:?} without an image"
            ))),
        };
    };
    if !mount.host_path.is_empty() {
        return Err(invalid(format!(
            "mounts: host_path {:?} and image {:?} exclude each other",
            mount.host_path, image.image
        )));
    }
    Ok(Some(ImageMount {
        image: image.image.clone(),
        user_specified_image: image.user_specified_image.clone(),
        annotations: sorted(image.annotations.clone()),
        sub_path: mount.image_sub_path.clone(),
        image_id: String::new(),
    }))
}

fn stop_signal(signal: i32) -> Result<Option<String>> {
    match cri::Signal::try_from(signal) {
        Ok(cri::Signal::RuntimeDefault) => Ok(None),
        Ok(signal) => Ok(Some(signal_name(signal))),
        Err(_) => Err(invalid(format!("stop_signal {signal} is not known"))),
    }
}

/// The contract spells `SIGRTMIN+1` as `SIGRTMINPLUS1`.
fn signal_name(signal: cri::Signal) -> String {
    signal
        .as_str_name()
        .replace("PLUS", "+")
        .replace("MINUS", "-")
}

/// The contract's signal for a name as records keep it.
pub fn signal_of(name: &str) -> cri::Signal {
    let wire = name
        .to_ascii_uppercase()
        .replace('+', "PLUS")
        .replace('-', "MINUS");
    let wire = if wire.starts_with("SIG") {
        wire
    } else {
        format!("SIG{wire}")
    };
    cri::Signal::from_str_name(&wire).unwrap_or(cri::Signal::RuntimeDefault)
}

fn sorted(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_be_cut_to_root_are_refused() {
        for value in [-1, 1 << 32, (1 << 32) + 1, i64::from(u32::MAX), i64::MAX] {
            assert!(id("run_as_user", value).is_err(), "{value} was taken");
        }
        assert_eq!(id("run_as_user", 1 << 31).unwrap(), 1 << 31);
    }

    #[test]
    fn every_stop_signal_of_the_contract_has_a_number_and_a_way_back() {
        for value in 1..=65 {
            let name = stop_signal(value).unwrap().unwrap();
            assert!(berth_lifecycle::signal::parse(&name).is_some(), "{name}");
            assert_eq!(signal_of(&name) as i32, value, "{name}");
        }
        assert_eq!(stop_signal(0).unwrap(), None);
        assert!(stop_signal(66).is_err());
    }

    #[test]
    fn limits_outside_of_what_a_kernel_takes_are_refused_by_name() {
        let refused = |field: &str, limits: LinuxContainerResources| {
            let error = resources(limits).unwrap_err();
            assert!(error.message().starts_with(field), "{}", error.message());
        };
        for value in [-1, 1, 262_145] {
            let limits = LinuxContainerResources {
                cpu_shares: value,
                ..Default::default()
            };
            refused("cpu_shares", limits);
        }
        for value in [-2, i64::MIN, 999] {
            let limits = LinuxContainerResources {
                cpu_quota: value,
                ..Default::default()
            };
            refused("cpu_quota", limits);
        }
        for value in [-2, i64::MIN] {
            let limits = LinuxContainerResources {
                memory_limit_in_bytes: value,
                ..Default::default()
            };
            refused("memory_limit_in_bytes", limits);
        }
        for value in [-1001, 1001, i64::MAX] {
            let limits = LinuxContainerResources {
                oom_score_adj: value,
                ..Default::default()
            };
            refused("oom_score_adj", limits);
        }
        let lifted = LinuxContainerResources {
            cpu_quota: -1,
            memory_limit_in_bytes: -1,
            ..Default::default()
        };
        let lifted = resources(lifted).unwrap();
        assert_eq!(
            (lifted.cpu_quota, lifted.memory_limit),
            (Some(-1), Some(-1))
        );
    }

    #[test]
    #[allow(deprecated)]
    fn an_apparmor_profile_is_read_from_the_field_or_else_from_the_old_string() {
        let profile = |kind: ProfileType, name: &str| {
            Some(cri::SecurityProfile {
                profile_type: kind as i32,
                localhost_ref: name.to_owned(),
            })
        };
        let of = |field, old: &str| {
            apparmor(&LinuxContainerSecurityContext {
                apparmor: field,
                apparmor_profile: old.to_owned(),
                ..Default::default()
            })
        };
        let named = AppArmor::Localhost("p".to_owned());
        assert_eq!(of(None, "").unwrap(), AppArmor::RuntimeDefault);
        assert_eq!(of(None, "localhost/p").unwrap(), named);
        assert_eq!(of(None, "unconfined").unwrap(), AppArmor::Unconfined);
        assert!(of(None, "p").is_err());
        let field = profile(ProfileType::Localhost, "p");
        assert_eq!(of(field, "localhost/other").unwrap(), named);
        assert!(of(profile(ProfileType::Localhost, ""), "").is_err());
        let field = profile(ProfileType::Unconfined, "");
        assert_eq!(of(field, "localhost/p").unwrap(), AppArmor::Unconfined);
    }

    #[test]
    fn a_user_namespace_is_the_pod_s_or_the_host_s() {
        let mapping = cri::IdMapping {
            host_id: 70_000,
            container_id: 0,
            length: 10,
        };
        let options = |mode: i32, mapped: bool| cri::UserNamespace {
            mode,
            uids: if mapped { vec![mapping] } else { vec![] },
            gids: if mapped { vec![mapping] } else { vec![] },
        };
        assert_eq!(user_namespace(None).unwrap(), None);
        let node = NamespaceMode::Node as i32;
        assert_eq!(user_namespace(Some(options(node, false))).unwrap(), None);
        let pod = user_namespace(Some(options(NamespaceMode::Pod as i32, true)));
        assert_eq!(pod.unwrap().unwrap().root(), (70_000, 70_000));
        for (mode, mapped) in [
            (node, true),
            (NamespaceMode::Container as i32, true),
            (NamespaceMode::Target as i32, false),
            (77, false),
        ] {
            assert!(user_namespace(Some(options(mode, mapped))).is_err());
        }
    }

    #[test]
    fn missing_parts_are_named() {
        let error = pod(None, String::new()).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        let error = pod(Some(Default::default()), String::new()).unwrap_err();
        assert!(error.message().contains("metadata"), "{}", error.message());
    }
}
