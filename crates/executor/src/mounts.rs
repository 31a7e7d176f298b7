//! The mounts of the spec, in its order.

use crate::cgroup_mount;
use crate::id_map;
use crate::mount_options::MountOptions;
use crate::namespaces::NamespacePlan;
use crate::places::{self, PlaceKind};
use crate::report::Failure;
use crate::step::Step;
use berth_cgroups::HierarchyPath;
use berth_kernel::rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, openat};
use berth_kernel::{AttributeChange, Errno, FilesystemContext, MountFlags, Namespace, Propagation};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// One mount, ready to be made.
#[derive(Debug)]
pub(crate) struct MountPlan {
    pub(crate) destination: PathBuf,
    pub(crate) kind: MountKind,
    pub(crate) options: MountOptions,
    /// A user namespace whose ids the mount shows.
    pub(crate) shift: Option<Rc<OwnedFd>>,
}

/// A mount that is made but attached nowhere.
#[derive(Debug)]
pub(crate) enum Made {
    Mount(OwnedFd),
    /// One for each hierarchy, to be put together where they go.
    Cgroups(Vec<OwnedFd>),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MountKind {
    Bind {
        source: PathBuf,
        recursive: bool,
    },
    /// The container's own cgroups.
    Cgroup,
    /// A new instance of a file system type.
    Filesystem {
        kind: String,
        source: String,
    },
}

impl MountPlan {
    /// Whether it is made with the host's rights, though the container has a
    /// user namespace: what is bound, and file systems that the kernel lets
    /// nobody else mount or that belong to a namespace of the host's. Any
    /// other is to belong to the container's root.
    pub(crate) fn needs_host(&self, namespaces: &NamespacePlan) -> bool {
        let host = |kind| !namespaces.own().contains(kind);
        match &self.kind {
            MountKind::Bind { .. } | MountKind::Cgroup => true,
            MountKind::Filesystem { kind, .. } => match kind.as_str() {
                "proc" => host(Namespace::Pid),
                "mqueue" => host(Namespace::Ipc),
                // The namespace that is joined has an owner already, and
                // without one this is the host's.
                "sysfs" => !namespaces.new.contains(Namespace::Network),
                "tmpfs" | "ramfs" | "devpts" | "overlay" | "fuse" => false,
                _ => true,
            },
        }
    }

    /// SELinux's label of the container's files, for file systems that begin without any. Others have
    /// their own, or are labelled by the kernel's policy.
    pub(crate) fn label(&mut self, label: Option<&str>) {
        let MountKind::Filesystem { kind, .. } = &self.kind else {
            return;
        };
        if matches!(kind.as_str(), "tmpfs" | "ramfs" | "devpts") && !self.options.tells("context") {
            let label = label.map(|label| ("context".to_owned(), Some(label.to_owned())));
            self.options.data.extend(label);
        }
    }

    /// These are looked at by masks, sysctls and devices, and by what runs in
    /// the container with trust in them: an image must not redirect them.
    fn wants_ordinary_directory(&self) -> bool {
        match &self.kind {
            MountKind::Cgroup => true,
            MountKind::Filesystem { kind, .. } => {
                matches!(kind.as_str(), "proc" | "sysfs" | "devpts" | "mqueue")
                    || self.destination.starts_with("/dev")
            }
            MountKind::Bind { .. } => false,
        }
    }
}

/// Makes one mount.
pub(crate) fn make(plan: &MountPlan, cgroups: &[HierarchyPath]) -> Result<Made, Failure> {
    let mount = match &plan.kind {
        MountKind::Cgroup if cgroups.iter().any(|path| path.name.is_empty()) => {
            cgroup_mount::single(cgroups)?
        }
        MountKind::Cgroup => {
            return cgroup_mount::hierarchies(plan, cgroups).map(Made::Cgroups);
        }
        MountKind::Bind { source, recursive } => bind(source, *recursive, plan)?,
        MountKind::Filesystem { kind, source } => filesystem(kind, source, plan)?,
    };
    change(&mount, plan)?;
    Ok(Made::Mount(mount))
}

/// Attaches what was made for `plan` inside the root.
pub(crate) fn place(
    root: BorrowedFd<'_>,
    plan: &MountPlan,
    made: Made,
    cgroups: &[HierarchyPath],
) -> Result<(), Failure> {
    let mount = match made {
        Made::Mount(mount) => mount,
        // A tree of mounts cannot be put together while it is detached.
        Made::Cgroups(mounts) => {
            let place = find_place(root, plan, PlaceKind::Directory)?;
            return cgroup_mount::tree(root, &place, plan, cgroups, &mounts);
        }
    };
    let kind = match places::is_directory(&mount) {
        Ok(true) => PlaceKind::Directory,
        Ok(false) => PlaceKind::File,
        Err(errno) => return Err(Failure::at(Step::OpenMountSource, &plan.destination)(errno)),
    };
    let place = find_place(root, plan, kind)?;
    guard_procfs(&mount, &place, plan)?;
    if plan.options.copy_up {
        copy_up(&place, &mount, plan)?;
    }
    attach(&mount, &place, &plan.destination)
}

/// Fills a tmpfs with what it is to cover, and gives it the looks of it, except those that options
/// ask for. Both are reached by descriptor only: no link of an image leads anywhere.
fn copy_up(place: &OwnedFd, mount: &OwnedFd, plan: &MountPlan) -> Result<(), Failure> {
    let destination = &plan.destination;
    let failed = || Failure::at(Step::CopyUp, destination);
    let writable = AttributeChange {
        clear: MountFlags::MOUNT_ATTR_RDONLY,
        ..AttributeChange::default()
    };
    berth_kernel::set_attributes(mount, &writable, None, false).map_err(failed())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |place: &OwnedFd| openat(place, c".", flags, Mode::empty());
    let (from, to) = (
        open(place).map_err(failed())?,
        open(mount).map_err(failed())?,
    );
    let asked = fstat(&to).map_err(failed())?;
    berth_copytree::copy(from.as_fd(), to.as_fd()).map_err(|failure| {
        let subject = destination.join(&failure.path);
        Failure::at(Step::CopyUp, &subject)(failure.errno)
    })?;
    let tells = |key| plan.options.tells(key);
    let uid = tells("uid").then_some(Uid::from_raw(asked.st_uid));
    let gid = tells("gid").then_some(Gid::from_raw(asked.st_gid));
    fchown(&to, uid, gid).map_err(failed())?;
    if tells("mode") {
        fchmod(&to, Mode::from_raw_mode(asked.st_mode)).map_err(failed())?;
    }
    change(mount, plan)
}

/// Nothing but a procfs may stand at `/proc`, and nothing may cover a file
/// in it, except those that resource views such as lxcfs are made for: else
/// masks and labels would be written into something that only looks like it.
fn guard_procfs(mount: &OwnedFd, place: &OwnedFd, plan: &MountPlan) -> Result<(), Failure> {
    const VIEWS: [&str; 10] = [
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "slabinfo",
        "stat",
        "swaps",
        "uptime",
        "net/dev",
        "sys/crypto/fips_enabled",
    ];
    let failed = || Failure::at(Step::Attach, &plan.destination);
    let below = plan.destination.strip_prefix("/proc").ok();
    if below.is_some_and(|below| VIEWS.iter().any(|view| below == Path::new(view))) {
        return Ok(());
    }
    let whole = below.is_some_and(|below| below.as_os_str().is_empty());
    if whole && places::is_procfs(mount).map_err(failed())? {
        return Ok(());
    }
    if below.is_some() || places::is_procfs(place).map_err(failed())? {
        return Err(failed()(Errno::PERM));
    }
    Ok(())
}

pub(crate) fn attach<M: AsFd>(
    mount: M,
    place: &OwnedFd,
    destination: &Path,
) -> Result<(), Failure> {
    berth_kernel::attach(mount, place).map_err(Failure::at(Step::Attach, destination))
}

fn find_place(root: BorrowedFd<'_>, plan: &MountPlan, kind: PlaceKind) -> Result<OwnedFd, Failure> {
    if plan.wants_ordinary_directory() {
        let failed = Failure::at(Step::MountOrdinaryDirectory, &plan.destination);
        return places::ordinary_directory(root, &plan.destination).map_err(failed);
    }
    places::find_or_make(root, &plan.destination, kind)
        .map_err(Failure::at(Step::MakeMountPoint, &plan.destination))
}

fn bind(source: &Path, recursive: bool, plan: &MountPlan) -> Result<OwnedFd, Failure> {
    let failed = || Failure::at(Step::OpenMountSource, source);
    let mount = berth_kernel::clone_tree(CWD, source, recursive).map_err(failed())?;
    let (propagation, all) = plan
        .options
        .propagation
        .unwrap_or((Propagation::Private, true));
    let change = AttributeChange {
        propagation: Some(propagation),
        ..AttributeChange::default()
    };
    berth_kernel::set_attributes(&mount, &change, None, all).map_err(failed())?;
    if let Some(shift) = &plan.shift {
        let all = plan.options.id_map == Some(true);
        id_map::apply(&mount, shift, all, source)?;
    }
    Ok(mount)
}

fn filesystem(kind: &str, source: &str, plan: &MountPlan) -> Result<OwnedFd, Failure> {
    let subject = || format!("{kind} for {}", plan.destination.display());
    let context = FilesystemContext::open(kind)
        .map_err(|errno| Failure::of(Step::MakeFilesystem, &subject())(errno))?;
    let complain = |errno| {
        let subject = format!("{} {}", subject(), context.complaint());
        Failure::of(Step::MakeFilesystem, subject.trim_end())(errno)
    };
    if !source.is_empty() {
        context.set("source", source).map_err(complain)?;
    }
    for (key, value) in &plan.options.data {
        match value {
            Some(value) => context.set(key, value),
            // Every devpts is an instance of its own since Linux 4.7.
            None if kind == "devpts" && key == "newinstance" => Ok(()),
            None => context.set_flag(key),
        }
        .map_err(complain)?;
    }
    let mount = context.mount(plan.options.set).map_err(complain)?;
    if let Some((propagation, all)) = plan.options.propagation {
        let change = AttributeChange {
            propagation: Some(propagation),
            ..AttributeChange::default()
        };
        berth_kernel::set_attributes(&mount, &change, None, all)
            .map_err(Failure::at(Step::SetPropagation, &plan.destination))?;
    }
    Ok(mount)
}

fn change(mount: &OwnedFd, plan: &MountPlan) -> Result<(), Failure> {
    let changes = [
        (plan.options.change(), false),
        (plan.options.recursive_change(), true),
    ];
    for (change, recursive) in changes {
        if let Some(change) = change {
            berth_kernel::set_attributes(mount, &change, None, recursive)
                .map_err(Failure::at(Step::SetMountFlags, &plan.destination))?;
        }
    }
    Ok(())
}

/// A small read-only directory with nothing in it, to clone from.
pub(crate) fn empty_directory() -> berth_kernel::Result<OwnedFd> {
    let context = FilesystemContext::open("tmpfs")?;
    context.set("mode", "0555")?;
    context.set("size", "4k")?;
    context.set("nr_inodes", "2")?;
    context.mount(
        MountFlags::MOUNT_ATTR_RDONLY
            | MountFlags::MOUNT_ATTR_NOSUID
            | MountFlags::MOUNT_ATTR_NODEV
            | MountFlags::MOUNT_ATTR_NOEXEC,
    )
}

/// The error is what makes no sense.
pub(crate) fn plan(
    destination: &Path,
    kind: Option<&str>,
    source: Option<&Path>,
    options: &[String],
    bundle: &Path,
) -> Result<MountPlan, String> {
    let options = MountOptions::parse(options);
    let kind = kind.unwrap_or_default();
    let recursive = options.bind.or((kind == "bind").then_some(false));
    let kind = match (kind, recursive) {
        (_, Some(recursive)) => MountKind::Bind {
            source: bundle.join(source.ok_or("bind without source")?),
            recursive,
        },
        ("cgroup" | "cgroup2", None) => MountKind::Cgroup,
        ("", None) => return Err("no type".to_owned()),
        (kind, None) => MountKind::Filesystem {
            kind: kind.to_owned(),
            source: source
                .map(|source| source.to_string_lossy().into_owned())
                .unwrap_or_default(),
        },
    };
    let on_tmpfs = matches!(&kind, MountKind::Filesystem { kind, .. } if kind == "tmpfs");
    if options.copy_up && !on_tmpfs {
        return Err("tmpcopyup without tmpfs".to_owned());
    }
    Ok(MountPlan {
        destination: destination.to_owned(),
        kind,
        options,
        shift: None,
    })
}
