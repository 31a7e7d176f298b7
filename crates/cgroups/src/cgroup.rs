//! One cgroup: the same path in every hierarchy.

use crate::blkio;
use crate::control::ControlDir;
use crate::cpu;
use crate::cpuset;
use crate::create;
use crate::devices::{self, DevicePrograms};
use crate::error::{Error, Result};
use crate::host::Topology;
use crate::hugetlb;
use crate::layout::{Controller, Hierarchy, HierarchyKind, Layout};
use crate::memory;
use crate::network;
use crate::path::CgroupPath;
use crate::pids;
use crate::rdma;
use crate::remove;
use crate::stats::{self, CgroupStats};
use crate::systemd;
use crate::unified;
use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long systemd may take to notice that a scope is empty.
const SCOPE_PATIENCE: Duration = Duration::from_secs(1);
const SCOPE_PAUSE: Duration = Duration::from_millis(2);

/// A cgroup of the host. Dropping the value leaves the cgroup alone;
/// [`Cgroup::remove`] ends it.
#[derive(Debug)]
pub struct Cgroup {
    topology: Arc<Topology>,
    path: CgroupPath,
    /// One per hierarchy, in the topology's order.
    directories: Vec<ControlDir>,
    unified_fd: Option<OwnedFd>,
    created: Vec<CgroupPath>,
}

/// Where a controller of one cgroup lives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Home<'a> {
    V1(&'a ControlDir),
    V2(&'a ControlDir),
}

/// One hierarchy's view of a cgroup, for mounting `/sys/fs/cgroup` into a
/// container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HierarchyPath {
    /// Directory name that the hierarchy is known by, such as `cpu,cpuacct`,
    /// `systemd` or `unified`; empty if the unified tree is the mount itself.
    pub name: String,
    /// The cgroup's directory on the host.
    pub directory: PathBuf,
    /// Where the hierarchy is mounted on the host.
    pub mount_point: PathBuf,
    /// True for the unified tree (`cgroup2`), false for v1 (`cgroup`).
    pub unified: bool,
    /// Data for a fresh v1 mount inside a cgroup namespace, such as
    /// `cpu,cpuacct` or `none,name=systemd`; empty for the unified tree.
    pub mount_options: String,
}

impl Cgroup {
    pub(crate) fn new(topology: Arc<Topology>, path: CgroupPath, created: Vec<CgroupPath>) -> Self {
        let directories: Vec<_> = topology
            .hierarchies
            .iter()
            .map(|h| ControlDir::new(path.below(&h.mount_point)))
            .collect();
        let mut cgroup = Self {
            topology,
            path,
            directories,
            unified_fd: None,
            created,
        };
        cgroup.unified_fd = cgroup.unified().and_then(|dir| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            rustix::fs::open(dir.path(), flags, Mode::empty()).ok()
        });
        cgroup
    }

    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// True if [`CgroupHost::create`](crate::CgroupHost::create) made it and
    /// did not find it.
    #[must_use]
    pub fn created(&self) -> bool {
        self.created.contains(&self.path)
    }

    /// What [`CgroupHost::create`](crate::CgroupHost::create) made on the way
    /// to it and did not find in any hierarchy, outermost first.
    #[must_use]
    pub fn created_levels(&self) -> &[CgroupPath] {
        &self.created
    }

    /// True if any hierarchy has a directory for it.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.directories.iter().any(ControlDir::exists)
    }

    /// True if this host has no hierarchy that it could be in: [`Layout::Absent`].
    #[must_use]
    pub fn is_nowhere(&self) -> bool {
        self.layout() == Layout::Absent
    }

    /// Its directory in every hierarchy of the host.
    #[must_use]
    pub fn paths(&self) -> Vec<HierarchyPath> {
        self.members()
            .map(|(hierarchy, directory)| HierarchyPath {
                name: match (&hierarchy.kind, self.topology.layout) {
                    (HierarchyKind::Unified, Layout::V2) => String::new(),
                    _ => hierarchy
                        .mount_point
                        .file_name()
                        .map(|name| name.to_string_lossy().into_owned())
                        .unwrap_or_default(),
                },
                directory: directory.path().to_owned(),
                mount_point: hierarchy.mount_point.clone(),
                unified: hierarchy.is_unified(),
                mount_options: mount_options(hierarchy),
            })
            .collect()
    }

    /// The directory in the unified tree, for `CLONE_INTO_CGROUP`. `None` on
    /// a host without that tree. Opened when this value was made.
    #[must_use]
    pub fn unified_dir(&self) -> Option<BorrowedFd<'_>> {
        self.unified_fd.as_ref().map(AsFd::as_fd)
    }

    /// Writes the values that `resources` asks for and nothing else; used to
    /// create and to update. The order follows the kernel's constraints, but
    /// the whole is not atomic: after an error the values before it stay.
    ///
    /// Device rules on a host without the v1 devices hierarchy need a BPF
    /// program; use [`Cgroup::apply_with`] there. Where the layout is
    /// [`Layout::Absent`], nothing is written.
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        self.apply_with(resources, &devices::NoPrograms)
    }

    /// [`Cgroup::apply`] with somebody who can load the v2 device program.
    pub fn apply_with(
        &self,
        resources: &LinuxResources,
        programs: &dyn DevicePrograms,
    ) -> Result<()> {
        if self.layout() == Layout::Absent {
            return Ok(());
        }
        if let Some(cpu) = resources.cpu() {
            cpuset::apply(self, cpu)?;
            cpu::apply(self, cpu)?;
        }
        if let Some(memory) = resources.memory() {
            memory::apply(self, memory)?;
        }
        if let Some(pids) = resources.pids() {
            pids::apply(self, pids)?;
        }
        if let Some(block_io) = resources.block_io() {
            blkio::apply(self, block_io)?;
        }
        if let Some(limits) = resources.hugepage_limits() {
            hugetlb::apply(self, limits)?;
        }
        if let Some(network) = resources.network() {
            network::apply(self, network)?;
        }
        if let Some(rdma) = resources.rdma() {
            rdma::apply(self, rdma)?;
        }
        if let Some(rules) = resources.devices() {
            devices::apply(self, rules, programs)?;
        }
        // Last, because it may refine what the sections above set.
        if let Some(files) = resources.unified() {
            unified::apply(self, files)?;
        }
        Ok(())
    }

    /// Keeps the files that [`Cgroup::stats`] reads open from the first
    /// sample on, about fifteen descriptors. A sample then costs a fraction,
    /// which pays for those who take one of many cgroups again and again.
    pub fn keep_stats_open(&mut self) {
        for directory in &mut self.directories {
            directory.keep_open();
        }
    }

    /// A sample of everything that the kernel accounts for this cgroup and
    /// its descendants.
    pub fn stats(&self) -> Result<CgroupStats> {
        if !self.exists() {
            return Err(self.not_found());
        }
        stats::collect(self)
    }

    /// Removes the cgroup from every hierarchy, with the cgroups that the
    /// container made below it, deepest first. Directories that are still
    /// busy are retried for five seconds in all. What is gone already counts
    /// as removed; parents stay.
    ///
    /// All hierarchies are attempted; the first failure is returned.
    pub fn remove(&self) -> Result<()> {
        if let Some(unit) = self.unit()
            && (systemd::is_slice(unit) || !self.vanishes())
        {
            systemd::stop(unit)?;
        }
        remove::all(self.directories.iter().map(ControlDir::path))
    }

    /// Removes the cgroup where nothing is in it, neither process nor cgroup;
    /// false if it is in use in some hierarchy, and stays there.
    pub fn remove_empty(&self) -> Result<bool> {
        if let Some(unit) = self.unit() {
            if self.exists() && !self.is_deserted()? {
                return Ok(false);
            }
            systemd::stop(unit)?;
        }
        remove::empty(self.directories.iter().map(ControlDir::path))
    }

    /// True once systemd has removed it, which it does with a scope when the last process has
    /// left; false if that does not happen. Whoever asked for a stop meanwhile may wait for an
    /// answer that never comes.
    fn vanishes(&self) -> bool {
        let begin = Instant::now();
        while self.exists() {
            if begin.elapsed() >= SCOPE_PATIENCE {
                return false;
            }
            std::thread::sleep(SCOPE_PAUSE);
        }
        true
    }

    /// The unit that it is, where systemd has the say.
    pub(crate) fn unit(&self) -> Option<&str> {
        systemd::unit_of(&self.path).filter(|_| self.topology.systemd)
    }

    /// True if there is neither a process nor a cgroup in it. systemd stops a
    /// unit with all that is in it, so one has to look first.
    fn is_deserted(&self) -> Result<bool> {
        let Some(directory) = self.unified() else {
            return Ok(false);
        };
        let mut cgroups = 0;
        let walked = remove::each_directory(directory.path(), |_| {
            cgroups += 1;
            Ok(())
        });
        match walked {
            Ok(()) => Ok(cgroups == 1 && self.pids()?.is_empty()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
            Err(source) => Err(Error::Read {
                file: directory.path().to_owned(),
                source,
            }),
        }
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&Hierarchy, &ControlDir)> {
        self.topology.hierarchies.iter().zip(&self.directories)
    }

    /// The directory in the unified tree, on v2 and hybrid hosts.
    pub(crate) fn unified(&self) -> Option<&ControlDir> {
        self.members()
            .find(|(hierarchy, _)| hierarchy.is_unified())
            .map(|(_, directory)| directory)
    }

    /// The directory in the v1 hierarchy of `controller`.
    pub(crate) fn v1(&self, controller: Controller) -> Option<&ControlDir> {
        self.members()
            .find(|(hierarchy, _)| !hierarchy.is_unified() && hierarchy.has(controller))
            .map(|(_, directory)| directory)
    }

    /// Where `controller` can be read.
    pub(crate) fn home(&self, controller: Controller) -> Option<Home<'_>> {
        if let Some(directory) = self.v1(controller) {
            return Some(Home::V1(directory));
        }
        self.members()
            .find(|(hierarchy, _)| hierarchy.is_unified() && hierarchy.has(controller))
            .map(|(_, directory)| Home::V2(directory))
    }

    /// Where `controller` can be written: on the unified tree it is passed
    /// down to this cgroup first if it is not here yet.
    pub(crate) fn require(&self, controller: Controller) -> Result<Home<'_>> {
        let missing = || Error::ControllerMissing {
            controller: controller.v1_name(),
            path: self.path.to_string(),
        };
        match self.home(controller) {
            Some(Home::V2(directory)) => {
                let here = |list: String| create::lists(&list, controller.v2_name());
                if !here(directory.read("cgroup.controllers")?) {
                    let hierarchy = self.topology.hierarchies.iter().find(|h| h.is_unified());
                    if let Some(hierarchy) = hierarchy {
                        create::enable_controllers(hierarchy, &self.path, &[controller])?;
                    }
                    if !here(directory.read("cgroup.controllers")?) {
                        return Err(missing());
                    }
                }
                Ok(Home::V2(directory))
            }
            Some(home) => Ok(home),
            None => Err(missing()),
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.topology.layout
    }

    pub(crate) fn not_found(&self) -> Error {
        Error::NotFound {
            path: self.path.to_string(),
        }
    }
}

fn mount_options(hierarchy: &Hierarchy) -> String {
    let HierarchyKind::V1 { name } = &hierarchy.kind else {
        return String::new();
    };
    let mut options: Vec<String> = hierarchy
        .controllers
        .iter()
        .map(|controller| controller.v1_name().to_owned())
        .collect();
    if options.is_empty() {
        options.push("none".to_owned());
    }
    if let Some(name) = name {
        options.push(format!("name={name}"));
    }
    options.join(",")
}
