//! The host's hierarchies, and cgroups made and found in them.

use crate::cgroup::Cgroup;
use crate::create;
use crate::error::{Error, Result};
use crate::hugetlb;
use crate::layout::{self, Hierarchy, Layout};
use crate::memory;
use crate::path::CgroupPath;
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
}

impl CgroupHost {
    /// Finds the hierarchies that this process sees, in
    /// `/proc/self/mountinfo`.
    pub fn detect() -> Result<Self> {
        let table = Path::new(MOUNT_TABLE);
        Self::new(layout::from_mount_table(table)?, table)
    }

    /// Finds hierarchies by the directories below `mount_root`, which need
    /// not be a cgroup file system at all: `cgroup.controllers` marks a
    /// unified tree, other directories are v1 hierarchies named for their
    /// controllers.
    pub fn detect_at(mount_root: &Path) -> Result<Self> {
        Self::new(layout::from_directory(mount_root)?, mount_root)
    }

    fn new(hierarchies: Vec<Hierarchy>, looked_in: &Path) -> Result<Self> {
        let layout = layout::classify(&hierarchies).ok_or_else(|| Error::NoHierarchy {
            looked_in: looked_in.to_owned(),
        })?;
        Ok(Self {
            topology: Arc::new(Topology {
                layout,
                hierarchies,
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

    /// Makes the cgroup in every hierarchy, with the parents that it lacks.
    ///
    /// A cgroup that exists is taken as it is ([`Cgroup::created`] tells).
    /// After a failure, the directories that this call made are gone again.
    pub fn create(&self, path: &CgroupPath) -> Result<Cgroup> {
        let made = create::directories(&self.topology, path)?;
        Ok(Cgroup::new(Arc::clone(&self.topology), path.clone(), made))
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
