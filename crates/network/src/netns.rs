//! Namespaces that outlive every process in them: made by a thread, kept by bind mounts.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use berth_kernel::IdMapping;
use berth_kernel::{Namespace, NamespaceHolder, NamespaceSet};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::UnshareFlags;

use crate::error::{Error, Result};
use crate::netlink::Route;
use crate::sysctl::{Owned, Sysctl};
use crate::threads;

/// The namespaces to make. What is not named stays shared with the host.
#[derive(Debug, Clone, Default)]
pub struct PinRequest {
    /// Where the network namespace is pinned. It comes with loopback up.
    pub net: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    /// Where the UTS namespace is pinned, and the hostname in it.
    pub uts: Option<(PathBuf, String)>,
    /// The user namespace that owns the others.
    pub user: Option<UserPin>,
    /// Name and value; only those of the namespaces named above are taken.
    pub sysctls: Vec<(String, String)>,
}

/// A user namespace to make, where it is pinned, and its ids.
#[derive(Debug, Clone)]
pub struct UserPin {
    pub path: PathBuf,
    pub uids: Vec<IdMapping>,
    pub gids: Vec<IdMapping>,
}

impl UserPin {
    /// What the host calls its root; the host's own where it maps none.
    fn root(&self) -> (u32, u32) {
        let first = |ranges: &[IdMapping]| {
            let range = ranges.iter().find(|range| range.inside == 0);
            range.map_or(0, |range| range.outside)
        };
        (first(&self.uids), first(&self.gids))
    }
}

/// What is left to do once the pod has its interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Sysctls of interfaces that do not exist yet: hand them to `apply_sysctls` after the setup.
    pub deferred_sysctls: Vec<(String, String)>,
}

/// Loopback's index in every network namespace.
const LOOPBACK: u32 = 1;

/// Makes the namespaces and pins them; on failure nothing stays. Parent directories must exist; a
/// pin that an earlier attempt left is replaced.
///
/// Blocking, for about a millisecond: the work is done on a thread that ends with it.
pub fn create_pinned(request: PinRequest) -> Result<Pinned> {
    let owned = Owned {
        net: request.net.is_some(),
        ipc: request.ipc.is_some(),
        uts: request.uts.is_some(),
    };
    let sysctls = request
        .sysctls
        .iter()
        .map(|(name, value)| Sysctl::check(name, value, owned))
        .collect::<Result<Vec<_>>>()?;
    threads::run("berth-pin", move || {
        let result = fill(&request, &sysctls);
        if result.is_err() {
            for path in pins(&request).map(|(_, path)| path) {
                // The first failure is the one worth telling.
                let _ = unpin(path);
            }
        }
        result
    })
}

fn fill(request: &PinRequest, sysctls: &[Sysctl]) -> Result<Pinned> {
    // A thread cannot enter a user namespace: a process that waits in it has
    // the namespaces made, and this thread uses them with the host's rights.
    let holder = request
        .user
        .as_ref()
        .map(|user| hold(request, user))
        .transpose()?;
    if holder.is_none() {
        unshare(request)?;
    }
    if let Some((path, hostname)) = &request.uts {
        rustix::system::sethostname(hostname.as_bytes()).map_err(|errno| Error::Io {
            operation: "set the hostname of",
            path: path.clone(),
            source: errno.into(),
        })?;
    }
    if request.net.is_some() {
        bring_loopback_up()?;
    }
    let mut pinned = Pinned::default();
    for sysctl in sysctls {
        if sysctl.deferred {
            pinned
                .deferred_sysctls
                .push((sysctl.name.clone(), sysctl.value.clone()));
        } else {
            write(sysctl, request.user.as_ref())?;
        }
    }
    for (kind, path) in pins(request) {
        let source = match (&holder, kind) {
            (Some(holder), "user") => holder.namespace(Namespace::User),
            _ => Path::new("/proc/thread-self/ns").join(kind),
        };
        pin(&source, path)?;
    }
    Ok(pinned)
}

/// Has the namespaces made inside the user namespace, and joins all but that.
fn hold(request: &PinRequest, user: &UserPin) -> Result<NamespaceHolder> {
    let failed = |source: berth_kernel::Errno| Error::Unshare {
        namespaces: names(request),
        source: source.into(),
    };
    let others = [
        (Namespace::Network, request.net.is_some()),
        (Namespace::Ipc, request.ipc.is_some()),
        (Namespace::Uts, request.uts.is_some()),
    ];
    let others = others
        .into_iter()
        .filter_map(|(kind, wanted)| wanted.then_some(kind));
    let kinds = others.clone().fold(
        NamespaceSet::EMPTY.with(Namespace::User),
        NamespaceSet::with,
    );
    let holder = NamespaceHolder::new(kinds).map_err(failed)?;
    holder.map_ids(&user.uids, &user.gids).map_err(failed)?;
    for kind in others {
        let file = berth_kernel::open_namespace(&holder.namespace(kind)).map_err(failed)?;
        berth_kernel::join(&file, NamespaceSet::EMPTY.with(kind)).map_err(failed)?;
    }
    Ok(holder)
}

/// Writes a sysctl. Those of IPC are only for the root of the user namespace
/// that owns them, since Linux 6.4 knows that owner: not for the host's.
fn write(sysctl: &Sysctl, user: Option<&UserPin>) -> Result<()> {
    match (sysctl.write(), user) {
        (Err(Error::SysctlWrite { source, .. }), Some(user))
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            let failed = |errno: berth_kernel::Errno| Error::SysctlWrite {
                name: sysctl.name.clone(),
                value: sysctl.value.clone(),
                source: errno.into(),
            };
            let (uid, gid) = user.root();
            berth_kernel::set_effective_ids(uid, gid).map_err(failed)?;
            let written = sysctl.write();
            berth_kernel::set_effective_ids(0, 0).map_err(failed)?;
            written
        }
        (done, _) => done,
    }
}

fn names(request: &PinRequest) -> String {
    let kinds: Vec<_> = pins(request).map(|(kind, _)| kind).collect();
    kinds.join(", ")
}

/// The kernel's names of the namespaces, and where they are pinned.
fn pins(request: &PinRequest) -> impl Iterator<Item = (&'static str, &Path)> {
    let uts = request.uts.as_ref().map(|(path, _)| path);
    let user = request.user.as_ref().map(|user| &user.path);
    [
        ("user", user),
        ("net", request.net.as_ref()),
        ("ipc", request.ipc.as_ref()),
        ("uts", uts),
    ]
    .into_iter()
    .filter_map(|(kind, path)| Some((kind, path?.as_path())))
}

// Its danger is a file descriptor table of the thread's own (CLONE_FILES), which is not asked for.
#[expect(
    deprecated,
    reason = "the safe form; its successor is only needed for CLONE_FILES"
)]
fn unshare(request: &PinRequest) -> Result<()> {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWNET, request.net.is_some());
    flags.set(UnshareFlags::NEWIPC, request.ipc.is_some());
    flags.set(UnshareFlags::NEWUTS, request.uts.is_some());
    rustix::thread::unshare(flags).map_err(|errno| Error::Unshare {
        namespaces: names(request),
        source: errno.into(),
    })
}

fn bring_loopback_up() -> Result<()> {
    let mut route = Route::open().map_err(|source| Error::Socket {
        protocol: "route",
        source,
    })?;
    route.set_up(LOOPBACK).map_err(|source| Error::Kernel {
        operation: "bring loopback up",
        object: "lo".to_owned(),
        source,
    })
}

/// Pins a namespace, named by a path below /proc or by another pin, at `path` as well. It lives as
/// long as any of its pins.
pub fn pin(namespace: &Path, path: &Path) -> Result<()> {
    unpin(path)?;
    let failed = |source: io::Error| Error::Io {
        operation: "pin a namespace at",
        path: path.to_owned(),
        source,
    };
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    mount_bind(namespace, path).map_err(|errno| {
        // An unmounted file would look like a pin to whoever comes next.
        let _ = std::fs::remove_file(path);
        failed(errno.into())
    })
}

/// Lets a pinned namespace go; what is not there is no failure. The namespace itself dies behind
/// the answer, once nothing uses it any more.
pub fn unpin(path: &Path) -> Result<()> {
    loop {
        // Pinned twice is pinned in layers; what is not a mount point (EINVAL) has none left.
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(errno) => {
                return Err(Error::Io {
                    operation: "unmount",
                    path: path.to_owned(),
                    source: errno.into(),
                });
            }
        }
    }
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io {
            operation: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Sets `net.*` sysctls in a pod's network namespace that exists already. Blocking.
pub fn apply_sysctls(netns: &Path, sysctls: &[(String, String)]) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let owned = Owned {
        net: true,
        ..Owned::default()
    };
    let sysctls = sysctls
        .iter()
        .map(|(name, value)| Sysctl::check(name, value, owned))
        .collect::<Result<Vec<_>>>()?;
    let path = netns.to_owned();
    threads::run("berth-sysctl", move || {
        threads::enter_netns(&threads::open_netns(&path)?, &path)?;
        sysctls.iter().try_for_each(Sysctl::write)
    })
}
