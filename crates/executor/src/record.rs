//! A container as another process of the runtime finds it again.
//!
//! [`Record`] holds what a container consists of beside the kernel's objects:
//! saved after create, it gives [`Container::load`] the same container in
//! another process. A process is known by its id *and* start time, because
//! ids are used again.

use crate::container::{Container, cgroup_error};
use crate::error::{Error, Result};
use crate::exec::ExecDefaults;
use crate::filter::FilterRecord;
use crate::hooks::{HookFailure, HookPoint, Hooks};
use crate::report::Listener;
use crate::resources::DeviceLoader;
use crate::spawn::Child;
use berth_cgroups::{Cgroup, CgroupHost, CgroupPath};
use berth_kernel::rustix::process::Pid;
use berth_kernel::{Errno, Namespace, NamespaceSet};
use oci_spec::runtime::{LinuxCapabilities, LinuxPersonality};
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

const SIGKILL: i32 = 9;

/// What has to be remembered of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// In the PID namespace of the runtime.
    pub pid: i32,
    /// Of that process: clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub start_time: u64,
    /// Path in every hierarchy.
    pub cgroup: String,
    /// Kinds that are not the runtime's, by their names in `/proc/<pid>/ns`.
    namespaces: Vec<String>,
    /// Its root is not that of its mount namespace.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shares_mounts: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<FilterRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<LinuxCapabilities>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oom_score_adj: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    personality: Option<LinuxPersonality>,
    /// Those that are still to be run when it starts and when it is gone.
    #[serde(default)]
    hooks: Hooks,
}

/// What a record led to.
#[derive(Debug)]
pub enum Found {
    Alive(Box<Container>),
    /// The first process has ended.
    Ended(Remains),
}

/// What a container leaves when its first process has ended.
#[derive(Debug)]
pub struct Remains {
    id: String,
    cgroup: Cgroup,
    hooks: Hooks,
}

impl Remains {
    /// Ends processes that outlived the first one and removes the cgroup.
    /// Doing it twice is harmless. Hooks that fail keep nothing from ending.
    pub fn remove(&self) -> Result<()> {
        self.cgroup
            .kill_all(SIGKILL)
            .map_err(cgroup_error(&self.id, "signal its processes"))?;
        self.cgroup
            .remove()
            .map_err(cgroup_error(&self.id, "remove its cgroup"))?;
        self.hooks.run_all(HookPoint::Poststop, 0);
        Ok(())
    }

    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }
}

impl Record {
    /// Whether the first process lives, frozen or not; a zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        berth_kernel::process_start(self.pid) == Some(self.start_time)
    }

    /// Runs what is to be run when the program runs; tells what failed, which
    /// stops nothing.
    #[must_use]
    pub fn run_poststart(&self) -> Vec<HookFailure> {
        self.hooks.run_all(HookPoint::Poststart, self.pid)
    }

    /// Whether the container is in a mount namespace with others, so that its
    /// root is not where joining that namespace leads.
    #[must_use]
    pub fn shares_mounts(&self) -> bool {
        self.shares_mounts
    }

    fn open_process(&self) -> Option<Child> {
        let pid = Pid::from_raw(self.pid)?;
        // The descriptor first: if the process is the right one afterwards,
        // the descriptor cannot be of an earlier or later one.
        let pidfd = berth_kernel::pidfd_open(pid).ok()?;
        self.is_alive().then_some(Child { pid, pidfd })
    }

    fn defaults(&self) -> ExecDefaults {
        let namespaces = Namespace::ALL
            .into_iter()
            .filter(|kind| self.namespaces.iter().any(|name| name == kind.file_name()))
            .fold(NamespaceSet::EMPTY, NamespaceSet::with);
        ExecDefaults {
            namespaces,
            shares_mounts: self.shares_mounts,
            filter: self.filter.as_ref().map(|record| Rc::new(record.filter())),
            capabilities: self.capabilities.clone(),
            oom_score_adj: self.oom_score_adj,
            personality: self.personality.clone(),
        }
    }
}

impl Container {
    /// What [`Container::load`] needs, in a process that did not make the
    /// container.
    pub fn record(&self) -> Result<Record> {
        let ExecDefaults {
            namespaces,
            shares_mounts,
            filter,
            capabilities,
            oom_score_adj,
            personality,
        } = &self.defaults;
        let start_time =
            berth_kernel::process_start(self.pid()).ok_or_else(|| self.not_running())?;
        let namespaces = Namespace::ALL
            .into_iter()
            .filter(|kind| namespaces.contains(*kind))
            .map(|kind| kind.file_name().to_owned())
            .collect();
        Ok(Record {
            pid: self.pid(),
            start_time,
            cgroup: self.cgroup.path().to_string(),
            namespaces,
            shares_mounts: *shares_mounts,
            filter: filter.as_deref().map(FilterRecord::new),
            capabilities: capabilities.clone(),
            oom_score_adj: *oom_score_adj,
            personality: personality.clone(),
            hooks: self.hooks.clone().unwrap_or_default(),
        })
    }

    /// Finds a container by its record. The caller is not the parent of its
    /// process, and cannot reap it.
    pub fn load(id: &str, record: &Record, cgroups: &CgroupHost) -> Result<Found> {
        let path =
            CgroupPath::parse(&record.cgroup).map_err(cgroup_error(id, "use its cgroup path"))?;
        let cgroup = cgroups.at(&path);
        Ok(match record.open_process() {
            None => Found::Ended(Remains {
                id: id.to_owned(),
                cgroup,
                hooks: record.hooks.clone(),
            }),
            Some(child) => Found::Alive(Box::new(Self {
                id: id.to_owned(),
                child,
                cgroup,
                join: OnceCell::new(),
                exec_in: None,
                defaults: record.defaults(),
                gate: None,
                held: None,
                terminal: None,
                notices: Vec::new(),
                device_programs: DeviceLoader::default(),
                hooks: Some(record.hooks.clone()),
            })),
        })
    }

    /// Leaves the start gate to [`open_start_gate`] in another process. Until
    /// then the container ends with its maker, so that one whose record was
    /// never written does not wait for ever.
    pub fn leave(&mut self) -> Result<()> {
        let Some(gate) = self.gate.take() else {
            return Err(Error::AlreadyStarted {
                id: self.id.clone(),
            });
        };
        gate.leave()
            .map_err(Error::host(&self.id, "leave the start gate"))
    }
}

/// Starts the container behind a connection to its start socket. Returns as
/// [`Container::start`] does.
pub fn open_start_gate(id: &str, connection: OwnedFd) -> Result<()> {
    let mut listener = Listener::new(connection);
    match listener.open_gate() {
        Ok(()) => {}
        Err(Errno::PIPE | Errno::CONNRESET) => {
            return Err(Error::ChildDied { id: id.to_owned() });
        }
        Err(errno) => return Err(Error::host(id, "open the start gate")(errno)),
    }
    listener.wait(id).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: i32, start_time: u64) -> Record {
        Record {
            pid,
            start_time,
            cgroup: "/berth/c".to_owned(),
            namespaces: vec!["mnt".to_owned(), "pid".to_owned()],
            shares_mounts: false,
            filter: None,
            capabilities: None,
            oom_score_adj: Some(5),
            personality: None,
            hooks: Hooks::default(),
        }
    }

    #[test]
    fn a_process_is_known_by_its_id_and_start_time() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let started = berth_kernel::process_start(pid).unwrap();
        assert!(record(pid, started).is_alive());
        assert!(!record(pid, started + 1).is_alive());
        assert!(!record(i32::MAX, started).is_alive());
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = berth_kernel::pidfd_open(Pid::from_raw(pid).unwrap()).unwrap();
        let mut fds = [berth_kernel::rustix::event::PollFd::new(
            &pidfd,
            berth_kernel::rustix::event::PollFlags::IN,
        )];
        berth_kernel::rustix::event::poll(&mut fds, None).unwrap();
        assert_eq!(berth_kernel::process_start(pid), None);
        child.wait().unwrap();
    }

    #[test]
    fn a_record_survives_its_own_json() {
        let before = record(1, 2);
        let json = serde_json::to_string(&before).unwrap();
        let after: Record = serde_json::from_str(&json).unwrap();
        assert_eq!(after, before);
        let expected = NamespaceSet::EMPTY
            .with(Namespace::Mount)
            .with(Namespace::Pid);
        assert_eq!(after.defaults().namespaces, expected);
    }
}
