//! Which namespaces a container gets: new ones, and those that it joins.

use crate::error::{Error, Result};
use crate::refuse::Refuse;
use crate::user_namespace::{self, UserNamespace};
use berth_kernel::{Namespace, NamespaceSet};
use oci_spec::runtime::{Linux, LinuxNamespaceType};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Namespaces of a container.
#[derive(Debug, Default)]
pub(crate) struct NamespacePlan {
    /// Made by the clone; a user namespace is not among them.
    pub(crate) new: NamespaceSet,
    /// Of the runtime, where the spec names no mount namespace.
    runtime_mounts: Option<OwnedFd>,
    pub(crate) joined: Vec<(Namespace, PathBuf, OwnedFd)>,
    /// New or not, it exists before the container's process does.
    pub(crate) user: Option<UserNamespace>,
    /// For a new time namespace: lines for `timens_offsets`.
    pub(crate) clocks: String,
}

impl NamespacePlan {
    pub(crate) fn joined(&self, kind: Namespace) -> Option<&OwnedFd> {
        self.joined
            .iter()
            .find_map(|(joined, _, fd)| (*joined == kind).then_some(fd))
    }

    /// A mount namespace in which the container is not alone.
    pub(crate) fn shared_mounts(&self) -> Option<&OwnedFd> {
        let runtime = self.runtime_mounts.as_ref();
        runtime.or_else(|| self.joined(Namespace::Mount))
    }

    /// Those that are not the host's, as far as the spec tells.
    pub(crate) fn own(&self) -> NamespaceSet {
        let set = self
            .joined
            .iter()
            .fold(self.new, |set, (kind, ..)| set.with(*kind));
        match self.user {
            Some(_) => set.with(Namespace::User),
            None => set,
        }
    }

    /// Whether the container's process is cloned by one that prepares what
    /// needs the host's rights, and then enters what it cannot come back
    /// from. A user namespace owns what is made inside it; a time namespace
    /// is for the children of who made it.
    pub(crate) fn staged(&self) -> bool {
        self.user.is_some() || self.new.contains(Namespace::Time)
    }

    pub(crate) fn new(refuse: Refuse<'_>, linux: &Linux) -> Result<Self> {
        let mut plan = Self::default();
        for namespace in linux.namespaces().iter().flatten() {
            let kind = kind(namespace.typ());
            if plan.own().contains(kind) {
                let name = kind.file_name();
                return Err(refuse.invalid("linux.namespaces", name, "is given twice"));
            }
            let path = namespace.path().as_ref();
            match path.filter(|path| !path.as_os_str().is_empty()) {
                None if kind == Namespace::User => plan.user = Some(new_user(refuse, linux)?),
                None => plan.new = plan.new.with(kind),
                Some(path) => plan.join(refuse, kind, path)?,
            }
        }
        if !plan.own().contains(Namespace::Mount) {
            let path = Path::new("/proc/thread-self/ns/mnt");
            let failed = |source| refuse.host("open namespace", path, source);
            plan.runtime_mounts = Some(berth_kernel::open_namespace(path).map_err(failed)?);
        }
        plan.check_user(refuse, linux)?;
        plan.clocks = clocks(refuse, linux, plan.new.contains(Namespace::Time))?;
        Ok(plan)
    }

    fn join(&mut self, refuse: Refuse<'_>, kind: Namespace, path: &Path) -> Result<()> {
        let failed = |source| refuse.host("open namespace", path, source);
        if kind == Namespace::User {
            self.user = Some(UserNamespace::open(path).map_err(failed)?);
        } else {
            let fd = berth_kernel::open_namespace(path).map_err(failed)?;
            self.joined.push((kind, path.to_owned(), fd));
        }
        Ok(())
    }

    fn check_user(&self, refuse: Refuse<'_>, linux: &Linux) -> Result<()> {
        let mapped = [linux.uid_mappings(), linux.gid_mappings()]
            .into_iter()
            .flatten()
            .any(|mappings| !mappings.is_empty());
        match &self.user {
            None if mapped => {
                let problem = "needs a user namespace in linux.namespaces";
                Err(refuse.invalid("linux.uidMappings", "", problem))
            }
            Some(user) if !user.has_root() => {
                let problem = "does not map user and group 0, which set the container up";
                Err(refuse.invalid("linux.uidMappings", "", problem))
            }
            _ => Ok(()),
        }
    }
}

fn kind(kind: LinuxNamespaceType) -> Namespace {
    match kind {
        LinuxNamespaceType::Mount => Namespace::Mount,
        LinuxNamespaceType::Cgroup => Namespace::Cgroup,
        LinuxNamespaceType::Uts => Namespace::Uts,
        LinuxNamespaceType::Ipc => Namespace::Ipc,
        LinuxNamespaceType::Pid => Namespace::Pid,
        LinuxNamespaceType::Network => Namespace::Network,
        LinuxNamespaceType::User => Namespace::User,
        LinuxNamespaceType::Time => Namespace::Time,
    }
}

fn new_user(refuse: Refuse<'_>, linux: &Linux) -> Result<UserNamespace> {
    let ranges = |field, list: &Option<Vec<_>>| {
        let ranges = user_namespace::ranges(list.as_ref())
            .map_err(|(value, problem)| refuse.invalid(field, value, problem))?;
        if ranges.is_empty() {
            return Err(refuse.invalid(field, "", "is missing: a user namespace needs ids"));
        }
        Ok(ranges)
    };
    let uids = ranges("linux.uidMappings", linux.uid_mappings())?;
    let gids = ranges("linux.gidMappings", linux.gid_mappings())?;
    UserNamespace::new(uids, gids).map_err(|errno| match user_namespace::describe(errno) {
        Some(problem) => refuse.invalid("linux.uidMappings", "", problem),
        None => Error::host(refuse.id, "make a user namespace")(errno),
    })
}

/// time_namespaces(7): one line for each clock, seconds and nanoseconds.
fn clocks(refuse: Refuse<'_>, linux: &Linux, new: bool) -> Result<String> {
    let mut lines: Vec<String> = Vec::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            let problem = "is not a clock that a time namespace has";
            return Err(refuse.invalid("linux.timeOffsets", clock, problem));
        }
        if !new {
            let problem = "needs a new time namespace";
            return Err(refuse.invalid("linux.timeOffsets", clock, problem));
        }
        let (seconds, nanoseconds) = (offset.secs(), offset.nanosecs());
        lines.push(format!(
            "{clock} {} {}\n",
            seconds.unwrap_or(0),
            nanoseconds.unwrap_or(0)
        ));
    }
    lines.sort();
    Ok(lines.concat())
}
