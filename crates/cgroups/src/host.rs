//! The host's hierarchies, and cgroups made and found in them.

use crate::cgroup::Cgroup;
use crate::create;
use crate::error::{Error, Result};
use crate::hugetlb;
use crate::layout::{self, Hierarchy, Layout};
use crate::memory;
use crate::path::CgroupPath;
use crate::systemd::{self, Property, Scope};
use crate::unified;
use oci_spec::runtime::LinuxResources;
use std::path::Path;
use std::sync::Arc;

const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// The cgroup hierarchies of this host. Detected once and cheap to clone.
#[derive(Debug, Clone)]
pub struct CgroupHost {
    topology: Arc<Topology>,
}

#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) layout: Layout,
    pub(crate) hierarchies: Vec<Hierarchy>,
    /// Whether paths of units are units.
    pub(crate) systemd: bool,
}

impl CgroupHost {
    /// Finds the hierarchies that this process sees, in
    /// `/proc/self/mountinfo`. In a user namespace those count in which it may
    /// make cgroups; without one, the layout is [`Layout::Absent`].
    pub fn detect() -> Result<Self> {
        let table = Path::new(MOUNT_TABLE);
        let mut hierarchies = layout::from_mount_table(table)?;
        if berth_kernel::in_user_namespace() {
            layout::retain_own(&mut hierarchies);
            if hierarchies.is_empty() {
                return Ok(Self::absent());
            }
        }
        Self::new(hierarchies, table, systemd::is_running())
    }

    fn absent() -> Self {
        Self {
            topology: Arc::new(Topology {
                layout: Layout::Absent,
                hierarchies: Vec::new(),
                systemd: false,
            }),
        }
    }

    /// Finds hierarchies by the directories below `mount_root`, which need
    /// not be a cgroup file system at all: `cgroup.controllers` marks a
    /// unified tree, other directories are v1 hierarchies named for their
    /// controllers.
    pub fn detect_at(mount_root: &Path) -> Result<Self> {
        Self::new(layout::from_directory(mount_root)?, mount_root, false)
    }

    fn new(hierarchies: Vec<Hierarchy>, looked_in: &Path, systemd: bool) -> Result<Self> {
        let layout = layout::classify(&hierarchies).ok_or_else(|| Error::NoHierarchy {
            looked_in: looked_in.to_owned(),
        })?;
        Ok(Self {
            topology: Arc::new(Topology {
                layout,
                hierarchies,
                systemd: systemd && layout == Layout::V2,
            }),
        })
    }

    #[must_use]
    pub fn layout(&self) -> Layout {
        self.topology.layout
    }

    #[must_use]
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.topology.hierarchies
    }

    /// Refuses what no cgroup of this host would take, before there is one.
    /// Values that only the kernel can judge are not looked at.
    pub fn check(&self, resources: &LinuxResources) -> Result<()> {
        if let Some(memory) = resources.memory() {
            memory::check(memory)?;
        }
        if let Some(limits) = resources.hugepage_limits() {
            hugetlb::check(limits)?;
        }
        if let Some(files) = resources.unified() {
            unified::check(self.layout(), files)?;
        }
        Ok(())
    }

    /// Makes the cgroup in every hierarchy, with the parents that it lacks. A
    /// slice, where systemd runs, is made by systemd.
    ///
    /// A cgroup that exists is taken as it is ([`Cgroup::created`] tells).
    /// After a failure, the directories that this call made are gone again.
    pub fn create(&self, path: &CgroupPath) -> Result<Cgroup> {
        let mut made = Vec::new();
        if self.layout() == Layout::Absent {
            return Ok(self.at(path));
        }
        if let Some(unit) = self.unit_of(path).filter(|unit| systemd::is_slice(unit))
            && !self.at(path).exists()
        {
            made = path.levels();
            made.retain(|level| !self.at(level).exists());
            systemd::start_slice(unit, || self.at(path).exists())?;
        }
        made.extend(create::directories(&self.topology, path)?);
        Ok(Cgroup::new(Arc::clone(&self.topology), path.clone(), made))
    }

    /// True if cgroups can be units of systemd: it is PID 1, lets us speak to
    /// it, and all controllers are in the one tree.
    #[must_use]
    pub fn has_systemd(&self) -> bool {
        self.topology.systemd
    }

    /// Has systemd make a scope with `pid` in it, limited to `resources`, and
    /// with `extra` properties. It ends with the last process in it, so the
    /// process has to stay until another one has joined.
    pub fn start_scope(
        &self,
        scope: &Scope,
        pid: i32,
        resources: &LinuxResources,
        extra: &[Property],
    ) -> Result<Cgroup> {
        if !self.has_systemd() {
            return Err(Error::NoSystemd {
                unit: scope.unit().to_owned(),
            });
        }
        let is_there = || self.at(scope.path()).exists();
        systemd::start_scope(scope, pid, resources, extra, is_there)?;
        let taken = create::directories(&self.topology, scope.path());
        if let Err(error) = taken {
            // The first error is the one to tell.
            let _ = systemd::stop(scope.unit());
            return Err(error);
        }
        let made = vec![scope.path().clone()];
        Ok(Cgroup::new(
            Arc::clone(&self.topology),
            scope.path().clone(),
            made,
        ))
    }

    fn unit_of<'p>(&self, path: &'p CgroupPath) -> Option<&'p str> {
        systemd::unit_of(path).filter(|_| self.has_systemd())
    }

    /// The cgroup at `path`, whether it exists or not: for one that has to be
    /// used or removed however much of it is left.
    #[must_use]
    pub fn at(&self, path: &CgroupPath) -> Cgroup {
        Cgroup::new(Arc::clone(&self.topology), path.clone(), Vec::new())
    }

    /// The cgroup as it exists; [`Error::NotFound`] if no hierarchy has it.
    pub fn open(&self, path: &CgroupPath) -> Result<Cgroup> {
        let cgroup = Cgroup::new(Arc::clone(&self.topology), path.clone(), Vec::new());
        if cgroup.exists() {
            Ok(cgroup)
        } else {
            Err(Error::NotFound {
                path: path.to_string(),
            })
        }
    }
}
