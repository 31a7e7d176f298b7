//! Further processes in a running container.

use crate::container::{Container, ProcessStdio, cgroup_error};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::init::join_cgroup;
use crate::notify::Handover;
use crate::options::ProcessOptions;
use crate::plan::InitPlan;
use crate::process::{Gate, ProcessPlan};
use crate::procfs::Procfs;
use crate::refuse::Refuse;
use crate::report::{Failure, Progress, Reporter};
use crate::shared_mounts;
use crate::spawn::Spawn;
use crate::stdio;
use crate::step::Step;
use crate::user_namespace::{self, UserNamespace};
use berth_cgroups::{CgroupHost, CgroupPath, JoinHandles};
use berth_kernel::rustix::fs::{Mode, OFlags};
use berth_kernel::{Errno, Namespace, NamespaceSet};
use oci_spec::runtime::{LinuxCapabilities, LinuxPersonality, Spec};
use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// A process beside the first. The caller reaps it.
#[derive(Debug)]
pub struct Process {
    /// In the caller's PID namespace.
    pub pid: i32,
    /// Readable when the process has ended.
    pub pidfd: OwnedFd,
    /// The terminal's master, if a terminal was asked for.
    pub terminal: Option<OwnedFd>,
    /// What could only be done in part, for the log.
    pub notices: Vec<String>,
}

/// What later processes take over from the container's spec.
#[derive(Debug)]
pub(crate) struct ExecDefaults {
    /// Those that differ from the runtime's.
    pub(crate) namespaces: NamespaceSet,
    /// Its root is not that of its mount namespace.
    pub(crate) shares_mounts: bool,
    pub(crate) filter: Option<Rc<Filter>>,
    pub(crate) capabilities: Option<LinuxCapabilities>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) personality: Option<LinuxPersonality>,
}

impl ExecDefaults {
    pub(crate) fn new(spec: &Spec, plan: InitPlan) -> Self {
        let process = spec.process().as_ref();
        let linux = spec.linux().as_ref();
        Self {
            namespaces: plan.namespaces.own(),
            shares_mounts: plan.namespaces.shared_mounts().is_some(),
            filter: plan.filter,
            capabilities: process.and_then(|process| process.capabilities().clone()),
            oom_score_adj: process.and_then(|process| process.oom_score_adj()),
            personality: linux.and_then(|linux| linux.personality().clone()),
        }
    }
}

pub(crate) fn exec(
    container: &Container,
    process: &oci_spec::runtime::Process,
    stdio: &ProcessStdio,
    options: ProcessOptions,
) -> Result<Process> {
    let id = container.id.as_str();
    let mut plan = plan(container, process)?;
    plan.set_options(options);
    let namespaces = container.defaults.namespaces;
    let user = namespaces.contains(Namespace::User).then(|| {
        let found = UserNamespace::of_process(container.pid());
        found.map_err(|errno| {
            container.explain(Error::host(id, "look at its user namespace")(errno))
        })
    });
    let user = user.transpose()?;
    if let Some(user) = &user {
        plan.identity.check(Refuse { id }, user)?;
    }
    let pidfd = container.child.pidfd.as_fd();
    let spawn = Spawn {
        id,
        new: NamespaceSet::EMPTY,
        pid_namespace: namespaces.contains(Namespace::Pid).then_some(pidfd),
        cgroup: container
            .exec_in
            .as_ref()
            .unwrap_or(&container.cgroup)
            .unified_dir(),
    };
    let root = container.defaults.shares_mounts.then(|| {
        let found = shared_mounts::root_of(container.pid(), pidfd);
        found
            .map_err(|errno| container.explain(Error::host(id, "find the container's root")(errno)))
    });
    let joined = Joined {
        plan: &plan,
        root: root.transpose()?,
        join: container.join_handles()?,
        container,
        pidfd,
        stdio,
        user: user.as_ref(),
    };
    let (child, mut listener) =
        spawn.run(|reporter, in_unified| joined.run(reporter, in_unified))?;
    if let Some(filter) = &container.defaults.filter {
        listener.expect_filter(Handover {
            filter: Rc::clone(filter),
            pid: child.pid,
            init: Some(container.pid()),
        });
    }
    match listener.wait(id) {
        Ok(Progress::End) => Ok(Process {
            pid: child.pid.as_raw_pid(),
            pidfd: child.pidfd,
            terminal: listener.terminal,
            notices: listener.notices,
        }),
        Ok(Progress::Hooks | Progress::Ready) => {
            child.abandon();
            Err(Error::host(id, "hear from its process")(Errno::PROTO))
        }
        Err(error) => {
            child.abandon();
            Err(container.explain(error))
        }
    }
}

impl Container {
    /// Has later processes go to a cgroup below the container's, which is there already.
    pub fn exec_below(&mut self, below: &str, cgroups: &CgroupHost) -> Result<()> {
        let below = below.trim_matches('/');
        if below.is_empty() {
            return Ok(());
        }
        let path = CgroupPath::parse(&format!("{}/{below}", self.cgroup.path()));
        let cgroup = path.and_then(|path| cgroups.open(&path));
        let cgroup = cgroup.map_err(cgroup_error(&self.id, "find the cgroup of a process"))?;
        let join = cgroup
            .prepare_join()
            .map_err(cgroup_error(&self.id, "open the cgroup of a process"))?;
        self.join = OnceCell::from(join);
        self.exec_in = Some(cgroup);
        Ok(())
    }

    /// A namespace that could not be joined because the process that keeps it
    /// has ended.
    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Setup {
                step: Step::JoinNamespace,
                source: Errno::SRCH,
                ..
            }
            | Error::Host {
                source: Errno::SRCH | Errno::NOENT,
                ..
            } => self.not_running(),
            other => other,
        }
    }
}

fn plan(container: &Container, process: &oci_spec::runtime::Process) -> Result<ProcessPlan> {
    let defaults = &container.defaults;
    let mut process = process.clone();
    if process.capabilities().is_none() {
        process.set_capabilities(defaults.capabilities.clone());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(defaults.oom_score_adj);
    }
    let mut plan = ProcessPlan::new(&container.id, &process, defaults.filter.clone())?;
    if let Some(personality) = &defaults.personality {
        plan.set_personality(personality);
    }
    Ok(plan)
}

/// The child's side.
struct Joined<'a> {
    plan: &'a ProcessPlan,
    join: &'a JoinHandles,
    container: &'a Container,
    pidfd: BorrowedFd<'a>,
    stdio: &'a ProcessStdio,
    user: Option<&'a UserNamespace>,
    /// Where joining the namespaces does not lead to it.
    root: Option<OwnedFd>,
}

impl Joined<'_> {
    fn run(&self, reporter: &Reporter, in_unified: bool) -> Failure {
        match self.set_up(reporter, in_unified) {
            Ok((procfs, streams)) => self.plan.run(&procfs, streams, reporter, Gate::Open),
            Err(failure) => failure,
        }
    }

    fn set_up(
        &self,
        reporter: &Reporter,
        in_unified: bool,
    ) -> std::result::Result<(Procfs, stdio::Streams), Failure> {
        join_cgroup(self.join, in_unified)?;
        // While the host's mounts are seen: where parts of /proc are masked,
        // the kernel lets a user namespace make no other.
        let procfs = Procfs::new().map_err(Failure::of(Step::MakeProcfs, ""))?;
        self.plan.limits.apply_as_host(&procfs, reporter)?;
        if let Some(user) = self.user {
            stdio::give_as_host(self.stdio, user, &self.plan.identity)?;
        }
        // All at once. The PID namespace was entered by the clone.
        let kinds = self.container.defaults.namespaces.without(Namespace::Pid);
        berth_kernel::join(self.pidfd, kinds).map_err(Failure::of(Step::JoinNamespace, ""))?;
        if self.user.is_some() {
            user_namespace::become_root()?;
        }
        if let Some(root) = &self.root {
            berth_kernel::enter_root(root).map_err(Failure::of(Step::ChangeRoot, ""))?;
        }
        berth_kernel::rustix::process::setsid().map_err(Failure::of(Step::StartSession, ""))?;
        berth_kernel::rustix::process::umask(Mode::empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = berth_kernel::rustix::fs::open(c"/", flags, Mode::empty())
            .map_err(Failure::of(Step::ChangeRoot, ""))?;
        let streams = stdio::open(root.as_fd(), self.stdio, self.plan.window, reporter)?;
        Ok((procfs, streams))
    }
}
