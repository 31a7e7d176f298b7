//! The first process of a container, between clone and exec.
//!
//! ```text
//! join cgroups ▸ namespaces ▸ limits ▸ root and host mounts
//!   ▸ (in a user or new time namespace: a second clone, see `enter`)
//!   ▸ session ▸ attach root ▸ mounts ▸ devices ▸ streams ▸ hooks
//!   ▸ masks ▸ names and sysctls ▸ change root ▸ process (see `process`)
//!
//! Where the mount namespace is not the container's own, this happens in a
//! copy of it (see `shared_mounts`).
//! ```

use crate::ProcessStdio;
use crate::devices;
use crate::hooks::HookPoint;
use crate::masks::{self, Masks};
use crate::mounts::{self, Made};
use crate::plan::InitPlan;
use crate::process::Gate;
use crate::procfs::Procfs;
use crate::report::{Failure, Reporter};
use crate::rootfs;
use crate::shared_mounts;
use crate::stdio::{self, Streams};
use crate::step::Step;
use crate::user_namespace;
use berth_cgroups::{HierarchyPath, JoinHandles};
use berth_kernel::rustix::fs::Mode;
use berth_kernel::{AttributeChange, Clone3, Cloned, Errno, Namespace, NamespaceSet, exit_now};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What the child takes over from the runtime's memory.
#[derive(Debug)]
pub(crate) struct Init<'a> {
    pub(crate) plan: &'a InitPlan,
    pub(crate) stdio: &'a ProcessStdio,
    pub(crate) join: &'a JoinHandles,
    pub(crate) cgroups: &'a [HierarchyPath],
    pub(crate) no_pivot: bool,
    pub(crate) start_socket: Option<BorrowedFd<'a>>,
}

/// What was made with the host's rights, attached nowhere.
struct HostMade {
    root: rootfs::Detached,
    /// In the order of the plan; what is missing is made where it goes.
    mounts: Vec<Option<Made>>,
    /// Only where the container could not make them itself.
    devices: Option<Vec<OwnedFd>>,
}

impl Init<'_> {
    /// Becomes the container's process; returns only what failed.
    pub(crate) fn run(&self, reporter: &Reporter, in_unified: bool) -> Failure {
        match self.set_up(reporter, in_unified) {
            Ok((procfs, streams)) => {
                let gate = Gate::Closed {
                    start_socket: self.start_socket,
                    hooks: &self.plan.hooks,
                };
                self.plan.process.run(&procfs, streams, reporter, gate)
            }
            Err(failure) => failure,
        }
    }

    fn set_up(&self, reporter: &Reporter, in_unified: bool) -> Result<(Procfs, Streams), Failure> {
        let new_procfs = || Procfs::new().map_err(Failure::of(Step::MakeProcfs, ""));
        join_cgroup(self.join, in_unified)?;
        self.join_namespaces()?;
        if self.plan.namespaces.shared_mounts().is_some() {
            shared_mounts::leave(&self.plan.namespaces)?;
        }
        let mut procfs = new_procfs()?;
        self.plan.process.limits.apply_as_host(&procfs, reporter)?;
        berth_kernel::rustix::process::umask(Mode::empty());
        let made = self.make_as_host()?;
        let namespaces = &self.plan.namespaces;
        if namespaces.staged() {
            self.enter(&procfs, reporter)?;
            if namespaces.own().contains(Namespace::Pid) {
                procfs = new_procfs()?;
            }
        }
        // Only now: its root is the cgroup that the maker is in.
        if namespaces.new.contains(Namespace::Cgroup) {
            berth_kernel::unshare(NamespaceSet::EMPTY.with(Namespace::Cgroup))
                .map_err(Failure::of(Step::MakeCgroupNamespace, ""))?;
        }
        berth_kernel::rustix::process::setsid().map_err(Failure::of(Step::StartSession, ""))?;
        let streams = self.assemble(made, &procfs, reporter)?;
        Ok((procfs, streams))
    }

    /// The PID namespace is for children: the runtime cloned this process
    /// into it, or this one clones another. A mount namespace is entered when
    /// the root is ready.
    fn join_namespaces(&self) -> Result<(), Failure> {
        for (kind, path, fd) in &self.plan.namespaces.joined {
            if !matches!(kind, Namespace::Pid | Namespace::Mount) {
                berth_kernel::join(fd, NamespaceSet::EMPTY.with(*kind))
                    .map_err(Failure::at(Step::JoinNamespace, path))?;
            }
        }
        Ok(())
    }

    fn make_as_host(&self) -> Result<HostMade, Failure> {
        let plan = self.plan;
        let user = plan.namespaces.user.as_ref();
        let root = rootfs::make(&plan.root, user)?;
        let Some(user) = user else {
            return Ok(HostMade {
                root,
                mounts: Vec::new(),
                devices: None,
            });
        };
        let mounts = plan
            .mounts
            .iter()
            .map(|mount| {
                let host = mount.needs_host(&plan.namespaces);
                host.then(|| mounts::make(mount, self.cgroups)).transpose()
            })
            .collect::<Result<_, _>>()?;
        let devices = devices::make_as_host(&plan.devices, user, &plan.root.directory)?;
        stdio::give_as_host(self.stdio, user, &plan.process.identity)?;
        Ok(HostMade {
            root,
            mounts,
            devices: Some(devices),
        })
    }

    /// Goes on in another process, a child of the runtime like this one,
    /// which ends. Namespaces that the other is born in belong to the user
    /// namespace, and the mounts of the host that it still sees are locked.
    fn enter(&self, procfs: &Procfs, reporter: &Reporter) -> Result<(), Failure> {
        let namespaces = &self.plan.namespaces;
        if let Some(pid) = namespaces.joined(Namespace::Pid) {
            berth_kernel::join(pid, NamespaceSet::EMPTY.with(Namespace::Pid))
                .map_err(Failure::of(Step::JoinNamespace, "pid"))?;
        }
        if let Some(user) = &namespaces.user {
            user.enter()?;
        }
        if namespaces.new.contains(Namespace::Time) {
            let failed = || Failure::of(Step::SetClocks, &namespaces.clocks);
            berth_kernel::unshare(NamespaceSet::EMPTY.with(Namespace::Time)).map_err(failed())?;
            if !namespaces.clocks.is_empty() {
                let file = Path::new("self/timens_offsets");
                procfs.write(file, &namespaces.clocks).map_err(failed())?;
            }
        }
        if namespaces.user.is_some() {
            user_namespace::become_root()?;
        }
        let clone = Clone3 {
            namespaces: namespaces
                .new
                .without(Namespace::Cgroup)
                .without(Namespace::Time),
            cgroup: None,
            sibling: true,
        };
        match clone.run().map_err(Failure::of(Step::CloneAgain, ""))? {
            Cloned::Child => Ok(()),
            Cloned::Parent { pid, pidfd } => {
                reporter.moved(pid, &pidfd);
                exit_now(0)
            }
        }
    }

    fn assemble(
        &self,
        made: HostMade,
        procfs: &Procfs,
        reporter: &Reporter,
    ) -> Result<Streams, Failure> {
        let root = rootfs::attach(made.root)?;
        let mut ready = made.mounts.into_iter();
        for mount in &self.plan.mounts {
            let made = match ready.next().flatten() {
                Some(made) => made,
                None => mounts::make(mount, self.cgroups)?,
            };
            mounts::place(root.as_fd(), mount, made, self.cgroups)?;
        }
        self.place_devices(&root, made.devices.as_deref())?;
        let streams = self.open_streams(&root, reporter)?;
        self.run_hooks(reporter)?;
        self.hide(&root)?;
        if self.plan.read_only_root {
            rootfs::protect(&root)?;
        }
        self.set_names(procfs)?;
        self.change_root(&root)?;
        Ok(streams)
    }

    fn change_root(&self, root: &OwnedFd) -> Result<(), Failure> {
        if let Some(shared) = self.plan.namespaces.shared_mounts() {
            return shared_mounts::enter(root, shared);
        }
        let change_root = if self.no_pivot {
            berth_kernel::move_into
        } else {
            berth_kernel::pivot_into
        };
        change_root(root).map_err(Failure::of(Step::ChangeRoot, ""))?;
        self.set_propagation(root)
    }

    fn place_devices(&self, root: &OwnedFd, made: Option<&[OwnedFd]>) -> Result<(), Failure> {
        match made {
            None => self
                .plan
                .devices
                .iter()
                .try_for_each(|device| devices::make(root.as_fd(), device))?,
            Some(made) => self
                .plan
                .devices
                .iter()
                .zip(made)
                .try_for_each(|(device, made)| devices::place(root.as_fd(), device, made))?,
        }
        if self.plan.link_devices {
            devices::link(root.as_fd())?;
        }
        Ok(())
    }

    fn open_streams(&self, root: &OwnedFd, reporter: &Reporter) -> Result<Streams, Failure> {
        let window = self.plan.process.window;
        let streams = stdio::open(root.as_fd(), self.stdio, window, reporter)?;
        if let Streams::Terminal { slave } = &streams {
            stdio::attach_console(root.as_fd(), slave)?;
        }
        Ok(streams)
    }

    /// Those that find the container's root mounted but not entered.
    fn run_hooks(&self, reporter: &Reporter) -> Result<(), Failure> {
        let hooks = &self.plan.hooks;
        if hooks.any(&[HookPoint::Prestart, HookPoint::CreateRuntime]) && !reporter.wait_for_hooks()
        {
            exit_now(1);
        }
        let pid = berth_kernel::rustix::process::getpid().as_raw_pid();
        hooks
            .run(HookPoint::CreateContainer, pid)
            .map_err(Failure::of_hook)
    }

    fn hide(&self, root: &OwnedFd) -> Result<(), Failure> {
        for path in &self.plan.read_only {
            masks::protect(root.as_fd(), path)?;
        }
        let mut masks = Masks::default();
        for path in &self.plan.masked {
            masks.cover(root.as_fd(), path)?;
        }
        Ok(())
    }

    fn set_names(&self, procfs: &Procfs) -> Result<(), Failure> {
        if let Some(name) = &self.plan.hostname {
            berth_kernel::set_hostname(name).map_err(Failure::of(Step::SetHostname, name))?;
        }
        if let Some(name) = &self.plan.domainname {
            berth_kernel::set_domainname(name).map_err(Failure::of(Step::SetHostname, name))?;
        }
        for (path, value) in &self.plan.sysctls {
            procfs
                .write(path, value)
                .map_err(Failure::at(Step::SetSysctl, path))?;
        }
        Ok(())
    }

    fn set_propagation(&self, root: &OwnedFd) -> Result<(), Failure> {
        let Some(propagation) = self.plan.root_propagation else {
            return Ok(());
        };
        let change = AttributeChange {
            propagation: Some(propagation),
            ..AttributeChange::default()
        };
        berth_kernel::set_attributes(root, &change, None, false)
            .map_err(Failure::at(Step::SetPropagation, Path::new("/")))
    }
}

/// Moves the calling process into the container's cgroup: in the v1
/// hierarchies, and in the unified tree if it was not cloned into it.
pub(crate) fn join_cgroup(join: &JoinHandles, in_unified: bool) -> Result<(), Failure> {
    let mut joined = join.join_self();
    if joined.is_ok() && !in_unified {
        joined = join.join_unified();
    }
    joined.map_err(|failure| {
        let path = join.path(failure).unwrap_or(Path::new("")).to_owned();
        Failure::at(Step::JoinCgroup, &path)(Errno::from_raw_os_error(failure.errno))
    })
}
