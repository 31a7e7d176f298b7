//! Device nodes that a request asks for, and the rules of the device cgroup.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use crate::error::{Error, Result};
use crate::handlers::Handler;
use crate::request::{ContainerRequest, DeviceRequest};

/// A node to make, and what may be done with it.
pub(super) struct Requested {
    pub node: LinuxDevice,
    pub permissions: String,
}

/// In a user namespace also a privileged container gets only the devices that it names: a node
/// that its root owns would give it the host's disks.
pub(super) fn requested(
    request: &ContainerRequest,
    handler: &Handler,
    in_user_namespace: bool,
) -> Result<Vec<Requested>> {
    let mut devices = request
        .devices
        .iter()
        .map(resolve)
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    let whole_host = request.security.privileged && !in_user_namespace;
    if whole_host && !handler.privileged_without_host_devices {
        for found in under(Path::new("/dev"), Path::new("/dev"), "rwm")? {
            if !devices
                .iter()
                .any(|device| device.node.path() == found.node.path())
            {
                devices.push(found);
            }
        }
    }
    Ok(devices)
}

/// Deny everything, then allow what was asked for. What every container may use besides (null, zero,
/// terminals and their like) is the runtime's to add, as the runtime specification has it.
pub(super) fn rules(privileged: bool, devices: &[Requested]) -> Result<Vec<LinuxDeviceCgroup>> {
    if privileged {
        return Ok(vec![
            LinuxDeviceCgroupBuilder::default()
                .allow(true)
                .access("rwm")
                .build()?,
        ]);
    }
    let allow = |typ, major, minor, access: &str| {
        let mut rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(typ)
            .access(access)
            .build()?;
        rule.set_major(major).set_minor(minor);
        Ok::<_, Error>(rule)
    };
    let mut rules = vec![
        LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .access("rwm")
            .build()?,
    ];
    for device in devices {
        let node = &device.node;
        let (major, minor) = (Some(node.major()), Some(node.minor()));
        rules.push(allow(node.typ(), major, minor, &device.permissions)?);
    }
    Ok(rules)
}

/// A path that names a directory stands for every device below it. As with docker, no path in the
/// container means the same one, and no permissions mean all.
fn resolve(request: &DeviceRequest) -> Result<Vec<Requested>> {
    let mut request = request.clone();
    if request.container_path.is_empty() {
        request.container_path.clone_from(&request.host_path);
    }
    if request.permissions.is_empty() {
        request.permissions = "rwm".to_owned();
    }
    if !Path::new(&request.container_path).is_absolute() {
        let problem = format!("{:?} is not absolute", request.container_path);
        return Err(Error::invalid("devices.container_path", problem));
    }
    if let Some(bad) = request.permissions.chars().find(|c| !"rwm".contains(*c)) {
        let problem = format!("{bad:?} in {:?}: use r, w and m", request.permissions);
        return Err(Error::invalid("devices.permissions", problem));
    }
    let host = Path::new(&request.host_path);
    let metadata = fs::metadata(host).map_err(|error| {
        Error::invalid(
            "devices.host_path",
            format!("{:?}: {error}", request.host_path),
        )
    })?;
    let target = Path::new(&request.container_path);
    if metadata.is_dir() {
        let real = fs::canonicalize(host).unwrap_or_default();
        let whole = real == Path::new("/");
        if whole || real.starts_with("/proc") || real.starts_with("/sys") {
            let problem = format!("{:?} is no directory of devices", request.host_path);
            return Err(Error::invalid("devices.host_path", problem));
        }
        return under(host, target, &request.permissions);
    }
    match node(host, target)? {
        Some(node) => Ok(vec![Requested {
            node,
            permissions: request.permissions.clone(),
        }]),
        None => {
            let problem = format!("{:?} is not a device", request.host_path);
            Err(Error::invalid("devices.host_path", problem))
        }
    }
}

/// Names below /dev that a container gets from its own mounts.
const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", ".udev", "console"];

fn under(host: &Path, target: &Path, permissions: &str) -> Result<Vec<Requested>> {
    let read = |source| Error::State {
        action: "list",
        path: host.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(host).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name();
        let kind = entry.file_type().map_err(read)?;
        if OWN.iter().any(|own| name == *own) || kind.is_symlink() {
            continue;
        }
        let (from, to) = (entry.path(), target.join(&name));
        if kind.is_dir() {
            found.extend(under(&from, &to, permissions)?);
        } else if let Some(node) = node(&from, &to)? {
            found.push(Requested {
                node,
                permissions: permissions.to_owned(),
            });
        }
    }
    Ok(found)
}

fn node(host: &Path, target: &Path) -> Result<Option<LinuxDevice>> {
    // A device may go away between listing and looking; then there is nothing to make.
    let Ok(metadata) = fs::metadata(host) else {
        return Ok(None);
    };
    let typ = if metadata.file_type().is_char_device() {
        LinuxDeviceType::C
    } else if metadata.file_type().is_block_device() {
        LinuxDeviceType::B
    } else {
        return Ok(None);
    };
    let device = metadata.rdev();
    let node = LinuxDeviceBuilder::default()
        .path(target)
        .typ(typ)
        .major(i64::from(rustix::fs::major(device)))
        .minor(i64::from(rustix::fs::minor(device)))
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()?;
    Ok(Some(node))
}
