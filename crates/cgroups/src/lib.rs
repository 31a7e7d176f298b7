//! Cgroups v1, hybrid and v2, by their files or by systemd.
//!
//! A container's cgroup is one path that exists as a directory in every
//! mounted hierarchy. [`CgroupHost`] knows the hierarchies, [`Cgroup`] is the
//! path in all of them:
//!
//! ```text
//! CgroupHost::detect ── create(path) ──▶ Cgroup ── apply(resources)
//!                    └─ open(path) ────▶        ├─ update(resources): all of it or nothing
//!                                               ├─ prepare_join ─▶ JoinHandles::join_self (in the child)
//!                                               ├─ freeze / thaw / kill_all
//!                                               ├─ stats / oom_kills / kills_above
//!                                               └─ remove / remove_empty
//! ```
//!
//! Each controller lives where the host mounts it: a v1 hierarchy if there is
//! one, otherwise the unified tree. On a hybrid host both are joined, so that
//! `cgroup.kill` and pressure files work next to v1 controllers.
//!
//! Everything here is synchronous file I/O. Nothing is cached but the list of
//! hierarchies, and nothing outside the requested path is written, except
//! what the kernel demands of its parents: `cgroup.subtree_control` on v2 and
//! an empty `cpuset` on v1.

mod blkio;
mod cgroup;
mod control;
mod cpu;
mod cpuset;
mod create;
mod device_program;
mod devices;
mod error;
mod freezer;
mod host;
mod hugetlb;
mod join;
mod kill;
mod layout;
mod memory;
mod network;
mod oom;
mod path;
mod pids;
mod rdma;
mod remove;
mod stats;
mod systemd;
mod unified;
mod update;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod real_tests;

pub use cgroup::{Cgroup, HierarchyPath};
pub use cpu::shares_to_weight;
pub use device_program::{DeviceInsn, device_program};
pub use devices::{DevicePrograms, DeviceRule};
pub use error::{Blame, Error, Result};
pub use host::CgroupHost;
pub use join::{JoinFailure, JoinHandles};
pub use layout::{Controller, Hierarchy, HierarchyKind, Layout};
pub use oom::KillsAbove;
pub use path::CgroupPath;
pub use stats::{
    BlockIo, CgroupStats, CpuLimits, CpuStats, HugepageStats, IoCounter, IoTables, Limits,
    MemoryDetails, MemoryLimits, MemoryStats, PidsStats, Pressure, PressureLine,
};
pub use systemd::{Property, PropertyValue, Scope, SystemdFailure, slice_path};
