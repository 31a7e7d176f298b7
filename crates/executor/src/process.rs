//! One process of a container: what its spec asks for, and the last steps in
//! the child, which are the same for the first process and for later ones.

use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::hooks::{HookPoint, Hooks};
use crate::identity::IdentityPlan;
use crate::limits::{Invalid, LimitsPlan};
use crate::options::ProcessOptions;
use crate::procfs::Procfs;
use crate::program::ProgramPlan;
use crate::report::{Failure, Reporter};
use crate::stdio::{self, Streams};
use crate::step::Step;
use berth_kernel::rustix::fs::{CWD, Mode, OFlags};
use berth_kernel::rustix::process::{Signal, set_parent_process_death_signal};
use berth_kernel::{Errno, WindowSize};
use oci_spec::runtime::{LinuxPersonality, LinuxPersonalityDomain, Process};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

#[derive(Debug)]
pub(crate) struct ProcessPlan {
    program: ProgramPlan,
    cwd: PathBuf,
    pub(crate) identity: IdentityPlan,
    pub(crate) limits: LimitsPlan,
    no_new_privileges: bool,
    filter: Option<Rc<Filter>>,
    personality: Option<u64>,
    /// Where in procfs the security label for the exec goes, and the label.
    label: Option<(&'static str, String)>,
    pub(crate) window: Option<WindowSize>,
    options: ProcessOptions,
}

/// What a process waits for before its program runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Gate<'a> {
    Open,
    /// The runtime's word, or one that comes over the listening socket once
    /// the runtime has let go.
    Closed {
        start_socket: Option<BorrowedFd<'a>>,
        hooks: &'a Hooks,
    },
}

impl ProcessPlan {
    pub(crate) fn new(id: &str, process: &Process, filter: Option<Rc<Filter>>) -> Result<Self> {
        let invalid = |(field, value, problem): Invalid| Error::InvalidSpec {
            id: id.to_owned(),
            field,
            value,
            problem,
        };
        let arguments = process.args().as_deref().unwrap_or_default();
        let environment = process.env().as_deref().unwrap_or_default();
        let name = arguments
            .first()
            .ok_or_else(|| invalid(("process.args", String::new(), "is empty")))?;
        let program = ProgramPlan::new(name, arguments, environment)
            .map_err(|_| invalid(("process.args", name.clone(), "or env has a NUL byte")))?;
        let cwd = process.cwd().clone();
        if !cwd.is_absolute() {
            let value = cwd.display().to_string();
            return Err(invalid(("process.cwd", value, "is not absolute")));
        }
        if process.exec_cpu_affinity().is_some() {
            return Err(Error::Unsupported {
                id: id.to_owned(),
                feature: "process.execCPUAffinity",
            });
        }
        let identity = IdentityPlan::new(process.user(), process.capabilities().as_ref());
        if let Some((field, id)) = identity.nobodys_id() {
            return Err(invalid((field, id.to_string(), "is not an id")));
        }
        Ok(Self {
            program,
            cwd,
            identity,
            limits: LimitsPlan::new(process).map_err(invalid)?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            filter,
            personality: None,
            label: label(process),
            window: window(process),
            options: ProcessOptions::default(),
        })
    }

    pub(crate) fn set_options(&mut self, options: ProcessOptions) {
        self.options = options;
    }

    pub(crate) fn forbids_new_privileges(&self) -> bool {
        self.no_new_privileges
    }

    /// The security label that the process is to have, as the kernel shows it.
    pub(crate) fn wanted_label(&self) -> Option<&str> {
        let (_, label) = self.label.as_ref()?;
        Some(label.strip_prefix("exec ").unwrap_or(label))
    }

    pub(crate) fn set_personality(&mut self, personality: &LinuxPersonality) {
        self.personality = Some(match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        });
    }

    /// The rest of a child's way: everything from its limits to its exec,
    /// with the start gate in between if there is one. Returns only what
    /// failed; without a runtime behind the gate it ends the process.
    ///
    /// The calling process has the container's root as its root.
    pub(crate) fn run(
        &self,
        procfs: &Procfs,
        streams: Streams,
        reporter: &Reporter,
        gate: Gate<'_>,
    ) -> Failure {
        match self.prepare(procfs, streams, reporter) {
            Ok(program) => {
                if let Gate::Closed {
                    start_socket,
                    hooks,
                } = gate
                {
                    reporter.ready();
                    if !reporter.wait_for_gate(start_socket) {
                        berth_kernel::exit_now(1);
                    }
                    let pid = berth_kernel::rustix::process::getpid().as_raw_pid();
                    if let Err(failure) = hooks.run(HookPoint::StartContainer, pid) {
                        return Failure::of_hook(failure);
                    }
                }
                self.enter(&program, reporter)
            }
            Err(failure) => failure,
        }
    }

    fn prepare(
        &self,
        procfs: &Procfs,
        streams: Streams,
        reporter: &Reporter,
    ) -> std::result::Result<std::ffi::CString, Failure> {
        if !self.options.keep_keyring {
            make_keyring(reporter)?;
        }
        if let Some(domain) = self.personality {
            berth_kernel::set_personality(domain)
                .map_err(Failure::of(Step::SetPersonality, &domain))?;
        }
        if let Some((file, label)) = &self.label {
            procfs
                .write(Path::new(file), label)
                .map_err(Failure::of(Step::SetLabel, label))?;
        }
        self.limits.apply(reporter)?;
        let reached = self.make_and_enter_directory()?;
        stdio::connect(streams, self.identity.uid)?;
        let first = self.options.first_closed();
        berth_kernel::close_on_exec_from(first).map_err(Failure::of(Step::CloseDescriptors, ""))?;
        berth_kernel::reset_signals().map_err(Failure::of(Step::CloseDescriptors, "signals"))?;
        if !self.no_new_privileges {
            // After the user has changed it would be too late: loading needs
            // either no_new_privs or CAP_SYS_ADMIN.
            self.load_filter(reporter)?;
        }
        self.identity.apply(reporter)?;
        if !reached {
            // A directory that only the user may enter, as on NFS.
            self.enter_directory()?;
        }
        check_directory(&self.cwd)?;
        if self.options.ends_with_caller {
            // After the user has changed, which would forget it.
            set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(Failure::of(Step::EndWithCaller, ""))?;
        }
        if self.no_new_privileges {
            berth_kernel::no_new_privileges().map_err(Failure::of(Step::SetNoNewPrivileges, ""))?;
        }
        berth_kernel::rustix::process::umask(Mode::from_bits_truncate(self.identity.umask));
        let program = self.program.find().cloned()?;
        if self.no_new_privileges && self.notifies() {
            // While the runtime is there to tell the agent: behind the gate it may be another.
            self.load_filter(reporter)?;
        }
        Ok(program)
    }

    fn enter(&self, program: &std::ffi::CString, reporter: &Reporter) -> Failure {
        if self.no_new_privileges
            && !self.notifies()
            && let Err(failure) = self.load_filter(reporter)
        {
            return failure;
        }
        self.program.execute(program)
    }

    fn notifies(&self) -> bool {
        let filter = self.filter.as_ref();
        filter.is_some_and(|filter| filter.agent.is_some())
    }

    fn load_filter(&self, reporter: &Reporter) -> std::result::Result<(), Failure> {
        let Some(filter) = &self.filter else {
            return Ok(());
        };
        match filter.load()? {
            // The runtime knows why, or is gone.
            Some(listener) if !reporter.filtered(listener.as_fd()) => berth_kernel::exit_now(1),
            _ => Ok(()),
        }
    }

    /// Enters the working directory, which is made when missing. False if
    /// root may not enter it.
    fn make_and_enter_directory(&self) -> std::result::Result<bool, Failure> {
        match self.enter_directory() {
            Err(failure) if failure.errno == Errno::NOENT => {
                let root =
                    open_root().map_err(Failure::at(Step::OpenWorkingDirectory, &self.cwd))?;
                let kind = crate::places::PlaceKind::Directory;
                let root = root.as_fd();
                crate::places::find_or_make(root, &self.cwd, kind)
                    .map_err(Failure::at(Step::OpenWorkingDirectory, &self.cwd))?;
                self.enter_directory().map(|()| true)
            }
            Err(failure) if failure.errno == Errno::ACCESS => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// No link of the proc file system on the way: `/proc/self/fd/7` would
    /// be a directory of the host.
    fn enter_directory(&self) -> std::result::Result<(), Failure> {
        let enter = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let root = open_root()?;
            let place = berth_kernel::open_in_root(&root, &self.cwd, flags, Mode::empty())?;
            berth_kernel::rustix::process::fchdir(&place)
        };
        enter().map_err(Failure::at(Step::OpenWorkingDirectory, &self.cwd))
    }
}

fn open_root() -> berth_kernel::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    berth_kernel::rustix::fs::openat(CWD, c"/", flags, Mode::empty())
}

/// The kernel marks a directory outside of the process's root.
fn check_directory(wanted: &Path) -> std::result::Result<(), Failure> {
    let failed = || Failure::at(Step::OpenWorkingDirectory, wanted);
    let here = berth_kernel::rustix::process::getcwd(Vec::new()).map_err(failed())?;
    if here.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(failed()(Errno::XDEV))
    }
}

/// Keys of the runtime are not for the container; a kernel without keyrings,
/// or a user whose quota is spent, has none to give either.
fn make_keyring(reporter: &Reporter) -> std::result::Result<(), Failure> {
    match berth_kernel::session_keyring(c"berth") {
        Ok(()) | Err(Errno::NOSYS) => Ok(()),
        Err(errno @ (Errno::DQUOT | Errno::PERM | Errno::ACCESS)) => {
            let reason = std::io::Error::from(errno);
            reporter.notice(Step::MakeKeyring, &reason.to_string());
            Ok(())
        }
        Err(errno) => Err(Failure::of(Step::MakeKeyring, "")(errno)),
    }
}

fn window(process: &Process) -> Option<WindowSize> {
    let size = process.console_size()?;
    let fit = |value| u16::try_from(value).unwrap_or(u16::MAX);
    Some(WindowSize {
        rows: fit(size.height()),
        columns: fit(size.width()),
    })
}

fn label(process: &Process) -> Option<(&'static str, String)> {
    let filled = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
    if let Some(profile) = filled(process.apparmor_profile()) {
        return Some(("self/attr/apparmor/exec", format!("exec {profile}")));
    }
    filled(process.selinux_label()).map(|label| ("self/attr/exec", label))
}
