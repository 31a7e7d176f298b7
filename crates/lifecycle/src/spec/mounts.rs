//! The mounts of a container: the base set, the pod's files, the request's.
//!
//! What the request mounts wins over anything else at the same place.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount, MountBuilder};

use super::Inputs;
use crate::error::{Error, Result};
use crate::request::{IdRange, MountRequest, Propagation, Scope, Shm, UserNamespace};

pub(super) fn all(inputs: &Inputs<'_>) -> Result<Vec<Mount>> {
    let requested = inputs
        .request
        .mounts
        .iter()
        .enumerate()
        .map(|(number, mount)| {
            let volumes = inputs.volumes;
            bind(
                mount,
                volumes.images.get(&number),
                volumes.parts.get(&number),
            )
        })
        .collect::<Result<Vec<Mount>>>()?;
    let wins = |mount: &Mount| !requested.iter().any(|wish| same_place(wish, mount));
    let own_dev = requested
        .iter()
        .any(|wish| wish.destination() == Path::new("/dev"));
    let mut mounts = base(inputs)?;
    // Whoever brings a /dev of their own brings what is in it.
    mounts.retain(|base| wins(base) && !(own_dev && base.destination().starts_with("/dev")));
    let mut inner = anonymous(inputs)?;
    inner.extend(pod_files(inputs)?);
    inner.retain(wins);
    inner.extend(requested);
    // A parent must be there before what is mounted inside it; equal depths keep their order.
    inner.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(inner);
    Ok(mounts)
}

fn anonymous(inputs: &Inputs<'_>) -> Result<Vec<Mount>> {
    let volumes = inputs.volumes.anonymous.iter();
    volumes
        .map(|volume| {
            let destination = volume.destination.to_string_lossy();
            let source = volume.source.to_string_lossy();
            // Made like the container's root, and mapped like it.
            let mut options = vec!["rbind", "rprivate", "rw"];
            if inputs.pod.request.namespaces.user.is_some() {
                options.push("ridmap");
            }
            mount(&destination, "bind", &source, &options)
        })
        .collect()
}

fn same_place(a: &Mount, b: &Mount) -> bool {
    a.destination()
        .components()
        .eq(b.destination().components())
}

fn base(inputs: &Inputs<'_>) -> Result<Vec<Mount>> {
    let privileged = inputs.request.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let mqueue = if inputs.pod.request.namespaces.ipc == Scope::Node {
        mount(
            "/dev/mqueue",
            "bind",
            "/dev/mqueue",
            &["rbind", "nosuid", "noexec", "nodev"],
        )
    } else {
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        )
    }?;
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        )?,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        )?,
    ];
    if inputs.pod.request.namespaces.ipc != Scope::Node || Path::new("/dev/mqueue").exists() {
        mounts.push(mqueue);
    }
    Ok(mounts)
}

fn pod_files(inputs: &Inputs<'_>) -> Result<Vec<Mount>> {
    let files = inputs.files;
    let access = if inputs.request.security.readonly_rootfs {
        "ro"
    } else {
        "rw"
    };
    let shm = if inputs.pod.request.namespaces.ipc == Scope::Node {
        PathBuf::from("/dev/shm")
    } else {
        files.shm()
    };
    let mut mounts = Vec::new();
    if inputs.pod.request.shm != Shm::Missing {
        let options = ["rbind", "rprivate", "rw"];
        mounts.push(mount("/dev/shm", "bind", &shm.to_string_lossy(), &options)?);
    }
    for (target, source) in [
        ("/etc/resolv.conf", files.resolv_conf()),
        ("/etc/hostname", files.hostname()),
    ] {
        let options = ["rbind", "rprivate", "nosuid", "nodev", "noexec", access];
        mounts.push(mount(target, "bind", &source.to_string_lossy(), &options)?);
    }
    Ok(mounts)
}

fn bind(request: &MountRequest, image: Option<&PathBuf>, part: Option<&PathBuf>) -> Result<Mount> {
    if !request.container_path.starts_with('/') {
        let problem = format!("{:?} is not absolute", request.container_path);
        return Err(Error::invalid("mounts.container_path", problem));
    }
    let mut parts = Path::new(&request.container_path).components();
    if !parts.any(|part| matches!(part, Component::Normal(_))) {
        let problem = format!("{:?} is the root of the container", request.container_path);
        return Err(Error::invalid("mounts.container_path", problem));
    }
    if let Some(image) = image {
        // Read-only whatever the request says: the contract knows no other image volumes.
        let options = ["rbind", "rprivate", "ro", "nosuid", "nodev", "noexec"];
        let source = image.to_string_lossy();
        return mount(&request.container_path, "bind", &source, &options);
    }
    if let Some(options) = &request.tmpfs {
        let mut all = vec!["nosuid", "nodev"];
        all.extend(options.iter().map(String::as_str));
        return mount(&request.container_path, "tmpfs", "tmpfs", &all);
    }
    if !request.host_path.starts_with('/') {
        let problem = format!("{:?} is not absolute", request.host_path);
        return Err(Error::invalid("mounts.host_path", problem));
    }
    if request.recursive_read_only && !request.readonly {
        let problem = "recursive_read_only needs readonly";
        return Err(Error::invalid("mounts.recursive_read_only", problem));
    }
    if request.recursive_read_only && request.propagation != Propagation::Private {
        let problem = "recursive_read_only needs private propagation";
        return Err(Error::invalid("mounts.recursive_read_only", problem));
    }
    let propagation = match request.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (request.readonly, request.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut mount = mount(
        &request.container_path,
        "bind",
        &part.map_or(request.host_path.as_str().into(), |part| {
            part.to_string_lossy()
        }),
        &["rbind", propagation, access],
    )?;
    if let Some(ids) = &request.id_map {
        map_ids(&mut mount, ids)?;
    }
    Ok(mount)
}

/// All that is mounted inside the volume is mapped too, or the container does not start: a part
/// that shows other owners would be a surprise at best.
fn map_ids(mount: &mut Mount, ids: &UserNamespace) -> Result<()> {
    let ranges = |field: &'static str, ranges: &[IdRange]| {
        if ranges.is_empty() {
            let problem = "user and group ids are mapped together or not at all";
            return Err(Error::invalid(field, problem));
        }
        mappings(ranges)
    };
    let (uids, gids) = (
        ranges("mounts.uidMappings", &ids.uids)?,
        ranges("mounts.gidMappings", &ids.gids)?,
    );
    let mut options = mount.options().clone().unwrap_or_default();
    options.push("ridmap".to_owned());
    mount
        .set_uid_mappings(Some(uids))
        .set_gid_mappings(Some(gids))
        .set_options(Some(options));
    Ok(())
}

/// Ranges in the specification's words.
pub(super) fn mappings(ranges: &[IdRange]) -> Result<Vec<LinuxIdMapping>> {
    let range = |range: &IdRange| {
        Ok(LinuxIdMappingBuilder::default()
            .container_id(range.inside)
            .host_id(range.outside)
            .size(range.length)
            .build()?)
    };
    ranges.iter().map(range).collect()
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount> {
    Ok(MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(
            options
                .iter()
                .map(|&option| option.to_owned())
                .collect::<Vec<_>>(),
        )
        .build()?)
}
