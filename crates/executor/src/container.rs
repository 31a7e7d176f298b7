//! A container from create to delete.
//!
//! ```text
//!            create                start              (exits)
//! (nothing) ───────▶ created ─────────────▶ running ───────────▶ stopped
//!                       │                    │  ▲ pause/resume      │
//!                       └──────── delete(force) ──┴──── delete ─────┘
//! ```

use crate::error::{Error, Result};
use crate::exec::{ExecDefaults, Process};
use crate::hooks::{HookPoint, Hooks};
use crate::init::Init;
use crate::notify::Handover;
use crate::options::{CreateOptions, ProcessOptions};
use crate::plan::InitPlan;
use crate::report::{Listener, Progress};
use crate::resources::{
    CgroupPlace, DeviceLoader, cgroup_place, unit_properties, with_device_rules,
};
use crate::restore::Held;
use crate::spawn::{Child, Spawn};
use berth_cgroups::{Cgroup, CgroupHost, CgroupStats, JoinHandles};
use berth_kernel::rustix::event::{PollFd, PollFlags, Timespec, poll};
use berth_kernel::{Errno, Namespace, NamespaceHolder, NamespaceSet};
use oci_spec::runtime::{LinuxResources, Spec};
use std::cell::OnceCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

const SIGKILL: i32 = 9;
/// How long a killed process may take to end before delete gives up.
const END_SECONDS: i64 = 10;

/// A container to be made.
#[derive(Debug)]
pub struct Create<'a> {
    /// Names the container in errors, and its cgroup if the spec does not.
    pub id: &'a str,
    /// Directory that relative paths of the spec start from.
    pub bundle: &'a Path,
    pub spec: &'a Spec,
    /// What the root is made of, bottom first; the directory `root.path`
    /// itself when empty. Mounted in the container's namespace only.
    pub rootfs: &'a [RootfsMount],
    pub stdio: ProcessStdio,
    pub cgroups: &'a CgroupHost,
    pub options: CreateOptions,
}

/// One mount of the root, as in the Task API's create request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsMount {
    /// `overlay`, `bind` or another file system type.
    pub kind: String,
    pub source: String,
    /// Below the root; empty for the root itself.
    pub target: String,
    pub options: Vec<String>,
}

/// Standard streams of a process.
#[derive(Debug)]
pub enum ProcessStdio {
    /// Open files; a missing one is the container's `/dev/null`. Pipes,
    /// sockets and terminals are given to the process's user.
    Files {
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    },
    /// A terminal of the container's own devpts, whose master the executor
    /// answers with.
    Terminal,
}

impl ProcessStdio {
    /// Input, output and error output, where they are files.
    pub(crate) fn files(&self) -> [Option<&OwnedFd>; 3] {
        match self {
            Self::Files {
                stdin,
                stdout,
                stderr,
            } => [stdin.as_ref(), stdout.as_ref(), stderr.as_ref()],
            Self::Terminal => [None; 3],
        }
    }
}

/// A container that was created. Dropping the value leaves the container
/// alone, except that one that was not started ends.
#[derive(Debug)]
pub struct Container {
    pub(crate) id: String,
    pub(crate) child: Child,
    pub(crate) cgroup: Cgroup,
    /// Opened by the first who needs them.
    pub(crate) join: OnceCell<JoinHandles>,
    /// Below the container's own cgroup, for later processes.
    pub(crate) exec_in: Option<Cgroup>,
    pub(crate) defaults: ExecDefaults,
    pub(crate) gate: Option<Listener>,
    /// What holds processes that were restored, until they are started.
    pub(crate) held: Option<Held>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) notices: Vec<String>,
    pub(crate) device_programs: DeviceLoader,
    /// Those that are still to be run; only who made the container has them.
    pub(crate) hooks: Option<Hooks>,
}

impl Container {
    /// Makes the container with its process waiting at the start gate.
    ///
    /// The caller has one thread (`EBUSY` otherwise), and reaps the process:
    /// it is a child. After an error nothing is left.
    pub fn create(create: Create<'_>) -> Result<Self> {
        let mut plan = InitPlan::new(&create)?;
        plan.process.set_options(create.options.process);
        let hooks = plan.hooks.clone();
        let (cgroup, holder) = Self::make_cgroup(&create)?;
        let made = Self::create_in(&create, plan, &cgroup);
        // The container's own process keeps a scope from here on.
        drop(holder);
        match made {
            Ok((child, mut listener, join, device_programs, defaults)) => Ok(Self {
                id: create.id.to_owned(),
                child,
                cgroup,
                join: OnceCell::from(join),
                exec_in: None,
                defaults,
                terminal: listener.terminal.take(),
                notices: std::mem::take(&mut listener.notices),
                gate: Some(listener),
                held: None,
                device_programs,
                hooks: Some(hooks),
            }),
            Err(error) => {
                take_back(&cgroup, &hooks, &error);
                Err(error)
            }
        }
    }

    /// systemd wants a process for a scope before the container has one that
    /// could be cloned into it: another stands in, for as long as it is kept.
    pub(crate) fn make_cgroup(create: &Create<'_>) -> Result<(Cgroup, Option<NamespaceHolder>)> {
        let id = create.id;
        let linux = create.spec.linux().as_ref();
        let made = cgroup_error(id, "make its cgroup");
        let scope = match cgroup_place(id, linux, create.options.systemd_cgroup)? {
            CgroupPlace::Path(path) => {
                return create
                    .cgroups
                    .create(&path)
                    .map_err(made)
                    .map(|it| (it, None));
            }
            CgroupPlace::Unit(scope) => scope,
        };
        let properties = unit_properties(id, create.spec)?;
        let holder =
            NamespaceHolder::new(NamespaceSet::EMPTY).map_err(Error::host(id, "keep its scope"))?;
        let resources = linux.and_then(|linux| linux.resources().clone());
        let cgroup = create
            .cgroups
            .start_scope(
                &scope,
                holder.pid(),
                &resources.unwrap_or_default(),
                &properties,
            )
            .map_err(made)?;
        Ok((cgroup, Some(holder)))
    }

    fn create_in(
        create: &Create<'_>,
        plan: InitPlan,
        cgroup: &Cgroup,
    ) -> Result<(Child, Listener, JoinHandles, DeviceLoader, ExecDefaults)> {
        let id = create.id;
        let (device_programs, join) = limit(create, cgroup)?;
        let cgroups = cgroup.paths();
        let namespaces = &plan.namespaces;
        let first = if namespaces.staged() {
            // The rest is for the process that this one clones.
            (NamespaceSet::EMPTY.with(Namespace::Mount), None)
        } else {
            (namespaces.new, namespaces.joined(Namespace::Pid))
        };
        let spawn = Spawn {
            id,
            new: first.0,
            pid_namespace: first.1.map(AsFd::as_fd),
            cgroup: cgroup.unified_dir(),
        };
        let init = Init {
            plan: &plan,
            stdio: &create.stdio,
            join: &join,
            cgroups: &cgroups,
            no_pivot: create.options.no_pivot,
            start_socket: create.options.start_socket.as_ref().map(AsFd::as_fd),
        };
        let (child, mut listener) =
            spawn.run(|reporter, in_unified| init.run(reporter, in_unified))?;
        if let Some(filter) = &plan.filter {
            listener.expect_filter(Handover {
                filter: Rc::clone(filter),
                pid: child.pid,
                init: None,
            });
        }
        let mut progress = listener.wait(id);
        let child = child.succeeded_by(listener.moved.take());
        if let Ok(Progress::Hooks) = progress {
            progress = Self::run_hooks(id, &plan.hooks, &child, &mut listener);
        }
        match progress {
            Ok(Progress::Ready) => {
                let defaults = ExecDefaults::new(create.spec, plan);
                Ok((child, listener, join, device_programs, defaults))
            }
            Ok(Progress::Hooks | Progress::End) => {
                child.abandon();
                Err(Error::ChildDied { id: id.to_owned() })
            }
            Err(error) => {
                child.abandon();
                Err(error)
            }
        }
    }

    fn run_hooks(
        id: &str,
        hooks: &Hooks,
        child: &Child,
        listener: &mut Listener,
    ) -> Result<Progress> {
        let pid = child.pid.as_raw_pid();
        for point in [HookPoint::Prestart, HookPoint::CreateRuntime] {
            hooks.run(point, pid).map_err(|failure| Error::Hook {
                id: id.to_owned(),
                failure,
            })?;
        }
        match listener.open_gate() {
            Ok(()) | Err(Errno::PIPE) => listener.wait(id),
            Err(errno) => Err(Error::host(id, "let its process go on")(errno)),
        }
    }

    /// Opens the start gate and returns when the program runs, or
    /// [`Error::ExecFailed`], after which the process ends by itself.
    pub fn start(&mut self) -> Result<()> {
        match (self.held.take(), self.gate.take()) {
            (Some(held), _) => self.let_go(held)?,
            (None, Some(listener)) => self.open_gate(listener)?,
            (None, None) => {
                return Err(Error::AlreadyStarted {
                    id: self.id.clone(),
                });
            }
        }
        let pid = self.pid();
        if let Some(hooks) = &self.hooks {
            let failures = hooks.run_all(HookPoint::Poststart, pid);
            self.notices
                .extend(failures.iter().map(ToString::to_string));
        }
        Ok(())
    }

    fn open_gate(&self, mut listener: Listener) -> Result<()> {
        match listener.open_gate() {
            Ok(()) => {}
            Err(Errno::PIPE) => {
                return Err(Error::ChildDied {
                    id: self.id.clone(),
                });
            }
            Err(errno) => return Err(Error::host(&self.id, "open the start gate")(errno)),
        }
        listener.wait(&self.id).map(drop)
    }

    /// Runs another process in the container and returns when its program
    /// runs. The caller reaps it: it is a child of the caller.
    pub fn exec(
        &self,
        process: &oci_spec::runtime::Process,
        stdio: ProcessStdio,
    ) -> Result<Process> {
        self.exec_with(process, stdio, ProcessOptions::default())
    }

    /// [`Container::exec`] with what the spec of a process cannot say.
    pub fn exec_with(
        &self,
        process: &oci_spec::runtime::Process,
        stdio: ProcessStdio,
        options: ProcessOptions,
    ) -> Result<Process> {
        crate::exec::exec(self, process, &stdio, options)
    }

    pub(crate) fn join_handles(&self) -> Result<&JoinHandles> {
        if let Some(join) = self.join.get() {
            return Ok(join);
        }
        let join = self
            .cgroup
            .prepare_join()
            .map_err(cgroup_error(&self.id, "open its cgroup"))?;
        Ok(self.join.get_or_init(|| join))
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The process's id in the caller's PID namespace.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.pid.as_raw_pid()
    }

    /// Readable when the process has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// The master of the process's terminal, handed out once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// What was asked for and could only be done in part, such as a limit
    /// that the runtime may not set, and hooks that failed: for the log. Each
    /// is told once.
    #[must_use]
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Signals the first process, or every process of the container.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        if all && self.cgroup.is_nowhere() {
            return crate::processes::signal(self.pid(), signal)
                .map_err(Error::host(&self.id, "signal its processes"));
        }
        if all {
            return self
                .cgroup
                .kill_all(signal)
                .map_err(cgroup_error(&self.id, "signal its processes"));
        }
        match berth_kernel::pidfd_send_signal(&self.child.pidfd, signal) {
            Err(Errno::SRCH) => Err(self.not_running()),
            done => done.map_err(Error::host(&self.id, "signal its process")),
        }
    }

    /// Stops every process of the container until [`Container::resume`].
    pub fn pause(&self) -> Result<()> {
        self.cgroup
            .freeze()
            .map_err(cgroup_error(&self.id, "freeze"))
    }

    pub fn resume(&self) -> Result<()> {
        self.cgroup.thaw().map_err(cgroup_error(&self.id, "thaw"))
    }

    /// Changes the resources that are given and leaves all others. After an
    /// error they are all as they were.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let complete;
        let resources = if resources.devices().is_some() {
            complete = with_device_rules(Some(resources));
            &complete
        } else {
            resources
        };
        self.cgroup
            .update_with(resources, &self.device_programs)
            .map_err(cgroup_error(&self.id, "update its resources"))
    }

    /// All processes, as ids in the caller's PID namespace.
    pub fn processes(&self) -> Result<Vec<i32>> {
        if self.cgroup.is_nowhere() {
            return Ok(crate::processes::beside(self.pid()));
        }
        self.cgroup
            .pids()
            .map_err(cgroup_error(&self.id, "list its processes"))
    }

    pub fn stats(&self) -> Result<CgroupStats> {
        self.cgroup
            .stats()
            .map_err(cgroup_error(&self.id, "read its statistics"))
    }

    /// True until the first process has ended.
    pub fn is_running(&self) -> Result<bool> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        Ok(!self.ended_within(&now)?)
    }

    /// Ends what is left of the container and removes its cgroup; mounts go
    /// with its last process. [`Error::StillRunning`] while the first process
    /// lives, unless `force` ends it. The process itself stays the caller's
    /// to reap. May be called again after an error.
    pub fn delete(&mut self, force: bool) -> Result<()> {
        if self.is_running()? {
            if !force {
                return Err(Error::StillRunning {
                    id: self.id.clone(),
                });
            }
            self.kill(SIGKILL, false).or_else(|error| match error {
                Error::NotRunning { .. } => Ok(()),
                other => Err(other),
            })?;
        }
        self.gate = None;
        self.kill(SIGKILL, true)?;
        let patience = Timespec {
            tv_sec: END_SECONDS,
            tv_nsec: 0,
        };
        if !self.ended_within(&patience)? {
            return Err(Error::StillRunning {
                id: self.id.clone(),
            });
        }
        self.cgroup
            .remove()
            .map_err(cgroup_error(&self.id, "remove its cgroup"))?;
        if let Some(hooks) = self.hooks.take() {
            let failures = hooks.run_all(HookPoint::Poststop, 0);
            self.notices
                .extend(failures.iter().map(ToString::to_string));
        }
        Ok(())
    }

    fn ended_within(&self, patience: &Timespec) -> Result<bool> {
        loop {
            let mut fds = [PollFd::new(&self.child.pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(patience)) {
                Err(Errno::INTR) => {}
                Ok(ready) => return Ok(ready > 0),
                Err(errno) => return Err(Error::host(&self.id, "wait for its process")(errno)),
            }
        }
    }

    pub(crate) fn not_running(&self) -> Error {
        Error::NotRunning {
            id: self.id.clone(),
        }
    }
}

pub(crate) fn cgroup_error(
    id: &str,
    operation: &'static str,
) -> impl FnOnce(berth_cgroups::Error) -> Error {
    move |source| Error::Cgroup {
        id: id.to_owned(),
        operation,
        source,
    }
}

/// The resources that the spec asks for, and what lets processes into the cgroup.
pub(crate) fn limit(create: &Create<'_>, cgroup: &Cgroup) -> Result<(DeviceLoader, JoinHandles)> {
    let device_programs = DeviceLoader::default();
    let linux = create.spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    cgroup
        .apply_with(&with_device_rules(resources), &device_programs)
        .map_err(cgroup_error(create.id, "set its resources"))?;
    let join = cgroup
        .prepare_join()
        .map_err(cgroup_error(create.id, "open its cgroup"))?;
    Ok((device_programs, join))
}

/// Undoes what was made of a container that failed with `error`, which stays the one to tell.
pub(crate) fn take_back(cgroup: &Cgroup, hooks: &Hooks, error: &Error) {
    if error.is_of_hook() {
        // The specification has the end of a container follow.
        hooks.run_all(HookPoint::Poststop, 0);
    }
    if cgroup.created() {
        let _ = cgroup.kill_all(SIGKILL);
        let _ = cgroup.remove();
    }
}
