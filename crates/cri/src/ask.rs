//! Requests: from the CRI's types to the core's.

mod mounts;
mod namespaces;
mod resources;
mod security;
mod signal;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use berth_api::cri::v1::{self as cri, AuthConfig};
use berth_lifecycle::request::{
    ContainerRequest, DeviceRequest, Dns, Namespaces, Owner, PodRequest, PortMapping, Protocol,
};
use berth_network::Subnet;
use berth_registry::Credentials;
use tonic::Status;

pub use self::resources::resources;
pub use self::signal::signal_of;

use self::mounts::mount;
use self::namespaces::{scope, user_namespace};
use self::security::{security, selinux};
use self::signal::stop_signal;
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
        owner: Owner::Kubernetes,
        ..PodRequest::default()
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
        owner: Owner::Kubernetes,
        on_layer: None,
        rlimits: Vec::new(),
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

fn sorted(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_parts_are_named() {
        let error = pod(None, String::new()).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        let error = pod(Some(Default::default()), String::new()).unwrap_err();
        assert!(error.message().contains("metadata"), "{}", error.message());
    }
}
