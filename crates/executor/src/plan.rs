//! From an OCI spec to what the child has to do: every decision that needs
//! no child is made, and every refusal spoken, before anything exists.

use crate::container::Create;
use crate::devices::{self, DevicePlan};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::hooks::Hooks;
use crate::mount_options::parse_propagation;
use crate::mounts::{self, MountKind, MountPlan};
use crate::namespaces::NamespacePlan;
use crate::process::ProcessPlan;
use crate::refuse::Refuse;
use crate::rootfs::RootPlan;
use crate::shared_mounts;
use crate::user_namespace::{self, UserNamespace};
use berth_kernel::rustix::fs::{CWD, Mode};
use berth_kernel::{Errno, Namespace, NamespaceSet, NodeKind, Propagation, sysctl};
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, LinuxIdMapping, Mount, Spec};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

#[derive(Debug)]
pub(crate) struct InitPlan {
    pub(crate) namespaces: NamespacePlan,
    pub(crate) root: RootPlan,
    pub(crate) read_only_root: bool,
    /// How the container's root propagates in the end.
    pub(crate) root_propagation: Option<Propagation>,
    pub(crate) mounts: Vec<MountPlan>,
    /// Empty when the host's `/dev` is bound.
    pub(crate) devices: Vec<DevicePlan>,
    pub(crate) link_devices: bool,
    pub(crate) masked: Vec<PathBuf>,
    pub(crate) read_only: Vec<PathBuf>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    /// File below `/proc`, and value.
    pub(crate) sysctls: Vec<(PathBuf, String)>,
    pub(crate) process: ProcessPlan,
    pub(crate) filter: Option<Rc<Filter>>,
    pub(crate) hooks: Hooks,
}

impl InitPlan {
    pub(crate) fn new(create: &Create<'_>) -> Result<Self> {
        let refuse = Refuse { id: create.id };
        let spec = create.spec;
        let linux = spec
            .linux()
            .as_ref()
            .ok_or_else(|| refuse.invalid("linux", "", "is missing"))?;
        refuse_unsupported(&refuse, linux)?;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| refuse.invalid("process", "", "is missing"))?;
        let filter = match linux.seccomp() {
            Some(profile) => Some(Rc::new(Filter::compile(create, profile)?)),
            None => None,
        };
        let mut process = ProcessPlan::new(create.id, process, filter.clone())?;
        if let Some(personality) = linux.personality() {
            process.set_personality(personality);
        }
        let namespaces = NamespacePlan::new(refuse, linux)?;
        let mounts = mounts(&refuse, spec, create.bundle, namespaces.user.as_ref())?;
        shared_mounts::check(refuse, &namespaces, linux, &mounts)?;
        if let Some(user) = &namespaces.user {
            process.identity.check(refuse, user)?;
        }
        let host_dev = mounts.iter().any(|mount| {
            mount.destination == Path::new("/dev") && matches!(mount.kind, MountKind::Bind { .. })
        });
        let new_uts = namespaces.new.contains(Namespace::Uts);
        // An empty name asks for none, and not to be nameless.
        let name = |name: &Option<String>| {
            let wanted = name.clone().filter(|name| !name.is_empty());
            wanted.filter(|_| new_uts)
        };
        let paths = |list: &Option<Vec<String>>| {
            list.iter().flatten().map(PathBuf::from).collect::<Vec<_>>()
        };
        Ok(Self {
            root: root(&refuse, create, linux, namespaces.user.is_some())?,
            read_only_root: spec.root().as_ref().and_then(|root| root.readonly()) == Some(true),
            root_propagation: root_propagation(&refuse, linux)?,
            devices: if host_dev {
                Vec::new()
            } else {
                device_plans(&refuse, linux)?
            },
            link_devices: !host_dev,
            masked: paths(linux.masked_paths()),
            read_only: paths(linux.readonly_paths()),
            // A joined namespace has its name already.
            hostname: name(spec.hostname()),
            domainname: name(spec.domainname()),
            sysctls: sysctls(&refuse, linux, namespaces.own())?,
            namespaces,
            mounts,
            process,
            filter,
            hooks: Hooks::new(create.id, create.bundle, spec)
                .map_err(|(value, problem)| refuse.invalid("hooks", value, problem))?,
        })
    }
}

/// What is not done is refused: a container must not run with less than it
/// asked for without anyone knowing.
fn refuse_unsupported(refuse: &Refuse<'_>, linux: &Linux) -> Result<()> {
    let some = |list: bool, feature| {
        if list {
            Err(refuse.unsupported(feature))
        } else {
            Ok(())
        }
    };
    let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    some(linux.intel_rdt().is_some(), "linux.intelRdt")?;
    let selinux = Path::new("/sys/fs/selinux/enforce").exists();
    some(filled(linux.mount_label()) && !selinux, "linux.mountLabel")?;
    some(linux.memory_policy().is_some(), "linux.memoryPolicy")?;
    let devices = linux.net_devices().as_ref();
    some(
        devices.is_some_and(|devices| !devices.is_empty()),
        "linux.netDevices",
    )?;
    Ok(())
}

fn root(
    refuse: &Refuse<'_>,
    create: &Create<'_>,
    linux: &Linux,
    in_user_namespace: bool,
) -> Result<RootPlan> {
    let path = create
        .spec
        .root()
        .as_ref()
        .map(|root| root.path().as_path());
    let path = path
        .filter(|path| !path.as_os_str().is_empty())
        .ok_or_else(|| refuse.invalid("root.path", "", "is missing"))?;
    let directory = create.bundle.join(path);
    if !create.rootfs.is_empty() {
        match berth_kernel::rustix::fs::mkdirat(CWD, &directory, Mode::from_raw_mode(0o711)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(source) => {
                return Err(Error::Host {
                    id: refuse.id.to_owned(),
                    operation: "make root directory",
                    path: Some(directory),
                    source,
                });
            }
        }
    }
    // A container that mounts for the host needs its source mounts shared
    // with the host; any other must not even be able to.
    let shared = linux.rootfs_propagation().as_deref().map(parse_propagation);
    let propagation = match shared.flatten() {
        // The kernel makes slaves of what another user namespace copies.
        Some((Propagation::Shared, _)) if in_user_namespace => {
            return Err(refuse.unsupported("mounting for the host from a user namespace"));
        }
        Some((Propagation::Shared, _)) => Propagation::Shared,
        Some((Propagation::Private | Propagation::Unbindable, _)) => Propagation::Private,
        Some((Propagation::Slave, _)) | None => Propagation::Slave,
    };
    Ok(RootPlan {
        directory,
        mounts: create.rootfs.to_vec(),
        propagation,
    })
}

fn root_propagation(refuse: &Refuse<'_>, linux: &Linux) -> Result<Option<Propagation>> {
    let word = linux.rootfs_propagation().as_deref().unwrap_or_default();
    if word.is_empty() {
        return Ok(None);
    }
    match parse_propagation(word) {
        Some((propagation, _)) => Ok(Some(propagation)),
        None => Err(refuse.invalid("linux.rootfsPropagation", word, "is not a propagation")),
    }
}

fn mounts(
    refuse: &Refuse<'_>,
    spec: &Spec,
    bundle: &Path,
    user: Option<&UserNamespace>,
) -> Result<Vec<MountPlan>> {
    let mut plans = Vec::new();
    let label = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.mount_label().as_ref());
    let label = label.filter(|label| !label.is_empty());
    let mut shifts: Vec<UserNamespace> = user.into_iter().cloned().collect();
    for mount in spec.mounts().iter().flatten() {
        let destination = mount.destination();
        if !destination.is_absolute() {
            let value = destination.display();
            return Err(refuse.invalid("mounts.destination", value, "is not absolute"));
        }
        let mut plan = mounts::plan(
            destination,
            mount.typ().as_deref(),
            mount.source().as_deref(),
            mount.options().as_deref().unwrap_or_default(),
            bundle,
        )
        .map_err(|value| refuse.invalid("mounts", value, "does not describe a mount"))?;
        plan.label(label.map(String::as_str));
        plan.shift = shift(refuse, mount, &plan, user.is_some(), &mut shifts)?;
        plans.push(plan);
    }
    Ok(plans)
}

/// The user namespace whose ids a mount is to show. `shifts` has those that
/// exist already, the container's first.
fn shift(
    refuse: &Refuse<'_>,
    mount: &Mount,
    plan: &MountPlan,
    in_user_namespace: bool,
    shifts: &mut Vec<UserNamespace>,
) -> Result<Option<Rc<OwnedFd>>> {
    let ranges = |list: &Option<Vec<LinuxIdMapping>>| {
        user_namespace::ranges(list.as_ref())
            .map_err(|(value, problem)| refuse.invalid("mounts.uidMappings", value, problem))
    };
    let (uids, gids) = (ranges(mount.uid_mappings())?, ranges(mount.gid_mappings())?);
    let place = plan.destination.display();
    let given = !uids.is_empty() || !gids.is_empty();
    if !given && plan.options.id_map.is_none() {
        return Ok(None);
    }
    if !matches!(plan.kind, MountKind::Bind { .. }) {
        let problem = "is not a bind mount: only those can map ids";
        return Err(refuse.invalid("mounts", place, problem));
    }
    if !given {
        return match shifts.first().filter(|_| in_user_namespace) {
            Some(own) => Ok(Some(Rc::clone(&own.fd))),
            None => {
                let problem = "is to map ids, but gives none, and there is no user namespace";
                Err(refuse.invalid("mounts", place, problem))
            }
        };
    }
    if uids.is_empty() || gids.is_empty() {
        let problem = "maps only one of user and group ids";
        return Err(refuse.invalid("mounts", place, problem));
    }
    if let Some(known) = shifts.iter().find(|known| known.maps(&uids, &gids)) {
        return Ok(Some(Rc::clone(&known.fd)));
    }
    let made =
        UserNamespace::new(uids, gids).map_err(|errno| match user_namespace::describe(errno) {
            Some(problem) => refuse.invalid("mounts.uidMappings", place, problem),
            None => Error::host(refuse.id, "make a user namespace")(errno),
        })?;
    let fd = Rc::clone(&made.fd);
    shifts.push(made);
    Ok(Some(fd))
}

fn device_plans(refuse: &Refuse<'_>, linux: &Linux) -> Result<Vec<DevicePlan>> {
    let mut plans = devices::defaults();
    for device in linux.devices().iter().flatten() {
        let plan = device_plan(refuse, device)?;
        // The spec's own wish for a default device wins.
        plans.retain(|known| known.path != plan.path);
        plans.push(plan);
    }
    Ok(plans)
}

fn device_plan(refuse: &Refuse<'_>, device: &LinuxDevice) -> Result<DevicePlan> {
    let number = |value: i64| {
        u32::try_from(value)
            .map_err(|_| refuse.invalid("linux.devices", value, "is not a device number"))
    };
    let (major, minor) = (number(device.major())?, number(device.minor())?);
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => NodeKind::Character { major, minor },
        LinuxDeviceType::B => NodeKind::Block { major, minor },
        LinuxDeviceType::P => NodeKind::Fifo,
        LinuxDeviceType::A => {
            return Err(refuse.invalid("linux.devices", "a", "is not a kind of device"));
        }
    };
    let path = device.path();
    if !path.is_absolute() || path.file_name().is_none() {
        let value = path.display();
        return Err(refuse.invalid("linux.devices", value, "is not an absolute path"));
    }
    Ok(DevicePlan {
        path: path.clone(),
        kind,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

fn sysctls(
    refuse: &Refuse<'_>,
    linux: &Linux,
    own: NamespaceSet,
) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        let kind = match sysctl::scope(name) {
            Some(sysctl::Scope::Ipc) => Namespace::Ipc,
            Some(sysctl::Scope::Network) => Namespace::Network,
            Some(sysctl::Scope::Uts) => Namespace::Uts,
            None => {
                let problem = "is a setting of the whole machine";
                return Err(refuse.invalid("linux.sysctl", name, problem));
            }
        };
        if !own.contains(kind) {
            let problem = "needs a namespace of the container's own";
            return Err(refuse.invalid("linux.sysctl", name, problem));
        }
        let path = sysctl::path(name)
            .ok_or_else(|| refuse.invalid("linux.sysctl", name, "is not a setting's name"))?;
        found.push((path, value.clone()));
    }
    found.sort();
    Ok(found)
}
