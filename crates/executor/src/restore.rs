//! A container that comes back from the images of criu.
//!
//! ```text
//! cgroup ▸ child: root mounted where only it sees it ▸ criu, in its place (see `stage`)
//!   ▸ namespaces ▸ (hooks) ▸ processes, memory, files ▸ credentials
//!   ▸ looked at (see `check`) ▸ the start gate ▸ they run
//! ```
//!
//! The images may come from anywhere. What the container is follows from the spec alone: criu is
//! given the spec's root, mounts and namespaces, and before anything runs, what the kernel shows of
//! the restored processes is held against the spec. Images that say otherwise end here.

mod check;
mod stage;

use crate::container::{Container, Create, ProcessStdio, cgroup_error, limit, take_back};
use crate::error::{Error, Result, chain};
use crate::exec::ExecDefaults;
use crate::hooks::HookPoint;
use crate::mounts::{MountKind, MountPlan};
use crate::plan::InitPlan;
use crate::report::Progress;
use crate::resources::DeviceLoader;
use crate::spawn::{Child, Spawn};
use berth_cgroups::{Cgroup, JoinHandles};
use berth_criu::{Conversation, Event, Failure, images, log, outside};
use berth_kernel::rustix::fs::{CWD, Mode, OFlags, openat};
use berth_kernel::rustix::process::{Pid, WaitOptions, waitpid};
use berth_kernel::{Errno, Namespace, NamespaceSet};
use stage::Stage;
use std::cell::OnceCell;
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

const LOG: &str = "restore.log";
/// How long criu may be silent, in seconds: between two of its steps it reads all memory.
const PATIENCE: i64 = 300;
const SIGKILL: i32 = 9;
/// The list of standard streams is three short names.
const MOST_DESCRIPTORS: u64 = 64 << 10;

/// A container to be restored.
#[derive(Debug)]
pub struct Restore<'a> {
    /// As for a container that is made anew; its process is only for later ones.
    pub create: Create<'a>,
    pub criu: &'a Path,
    /// Directories of the images and of the log.
    pub images: &'a Path,
    pub work: &'a Path,
    pub options: RestoreOptions,
}

/// How what hangs on the processes comes back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    pub tcp_established: bool,
    /// Connections come back closed.
    pub tcp_close: bool,
    pub ext_unix_sk: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub auto_dedup: bool,
    /// As `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    pub lsm_mount_context: Option<String>,
}

/// A criu that holds the processes until the start gate opens. They end with it, if it does not.
#[derive(Debug)]
pub(crate) struct Held {
    conversation: Conversation,
    criu: Child,
    log: PathBuf,
}

impl Container {
    /// Restores the container, its processes waiting at the start gate. As [`Container::create`].
    pub fn restore(restore: Restore<'_>) -> Result<Self> {
        let create = &restore.create;
        let id = create.id;
        let plan = InitPlan::new(create)?;
        if plan.namespaces.user.is_some() {
            let id = id.to_owned();
            let feature = "restoring into a user namespace";
            return Err(Error::Unsupported { id, feature });
        }
        if plan.namespaces.shared_mounts().is_some() {
            let id = id.to_owned();
            let feature = "restoring without a mount namespace of the container's own";
            return Err(Error::Unsupported { id, feature });
        }
        images::check(restore.images).map_err(|problem| Error::Restore {
            id: id.to_owned(),
            reason: chain(&problem),
        })?;
        let (cgroup, holder) = Self::make_cgroup(create)?;
        let hooks = plan.hooks.clone();
        let restored = restore.restore_in(plan, &cgroup);
        drop(holder);
        match restored {
            Ok((restored, join, device_programs, defaults)) => Ok(Self {
                id: id.to_owned(),
                child: restored.init,
                cgroup,
                join: OnceCell::from(join),
                exec_in: None,
                defaults,
                gate: None,
                held: Some(restored.held),
                terminal: restored.terminal,
                notices: Vec::new(),
                device_programs,
                hooks: Some(hooks),
            }),
            Err(error) => {
                take_back(&cgroup, &hooks, &error);
                Err(error)
            }
        }
    }

    /// Lets the restored processes go on.
    pub(crate) fn let_go(&mut self, held: Held) -> Result<()> {
        let done = held.conversation.acknowledge(true).and_then(|()| {
            while !matches!(held.conversation.next()?, Event::Done) {
                held.conversation.acknowledge(true)?;
            }
            Ok(())
        });
        let failed = done.map_err(|failure| told(&self.id, &failure, &held.log));
        drop(held.conversation);
        while let Err(Errno::INTR) = waitpid(Some(held.criu.pid), WaitOptions::empty()) {}
        failed
    }
}

/// What a restore led to.
struct Restored {
    init: Child,
    held: Held,
    terminal: Option<OwnedFd>,
}

type Made = (Restored, JoinHandles, DeviceLoader, ExecDefaults);

impl Restore<'_> {
    fn restore_in(&self, plan: InitPlan, cgroup: &Cgroup) -> Result<Made> {
        let (device_programs, join) = limit(&self.create, cgroup)?;
        let restored = self.converse(&plan, cgroup, &join)?;
        let mut defaults = ExecDefaults::new(self.create.spec, plan);
        // criu gives the processes clocks of their own.
        let pid = restored.init.pid.as_raw_pid();
        if !check::shares(pid, Namespace::Time) {
            defaults.namespaces = defaults.namespaces.with(Namespace::Time);
        }
        Ok((restored, join, device_programs, defaults))
    }

    fn converse(&self, plan: &InitPlan, cgroup: &Cgroup, join: &JoinHandles) -> Result<Restored> {
        let id = self.create.id;
        let host = |operation| Error::host(id, operation);
        let open = |path: &Path, operation| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, path, flags, Mode::empty()).map_err(host(operation))
        };
        let images = open(self.images, "open the images")?;
        let work = open(self.work, "open the work directory")?;
        let (near, far) = berth_kernel::socket_pair().map_err(host("make a socket pair"))?;
        let handed = self.handed_over(plan)?;
        let stage = Stage::new(self, plan, join, &far, &handed)?;
        let spawn = Spawn {
            id,
            new: NamespaceSet::EMPTY.with(Namespace::Mount),
            pid_namespace: None,
            cgroup: cgroup.unified_dir(),
        };
        let (criu, mut listener) = spawn.run(|reporter, in_unified| {
            let _ = reporter;
            stage.run(in_unified)
        })?;
        drop(far);
        match listener.wait(id) {
            Ok(Progress::End) => {}
            Ok(Progress::Ready | Progress::Hooks) => {
                criu.abandon();
                return Err(Error::ChildDied { id: id.to_owned() });
            }
            Err(error) => {
                criu.abandon();
                return Err(error);
            }
        }
        let places = Places::find(plan, criu.pid.as_raw_pid());
        let mut asked = self.message(plan, cgroup, &places, &handed);
        (asked.images, asked.work) = (images.as_raw_fd(), work.as_raw_fd());
        let held = Held {
            conversation: Conversation::new(near, PATIENCE),
            criu,
            log: self.work.join(LOG),
        };
        match self.talk(&asked, plan, cgroup, &places, &held) {
            Ok((init, terminal)) => Ok(Restored {
                init,
                held,
                terminal,
            }),
            Err(error) => {
                // Without criu nobody resumes what is there; the cgroup is killed next.
                let _ = cgroup.kill_all(SIGKILL);
                held.criu.abandon();
                Err(error)
            }
        }
    }

    /// From the request to the moment at which everything is there and nothing runs.
    fn talk(
        &self,
        asked: &berth_criu::Restore,
        plan: &InitPlan,
        cgroup: &Cgroup,
        places: &Places,
        held: &Held,
    ) -> Result<(Child, Option<OwnedFd>)> {
        let id = self.create.id;
        let told = |failure: Failure| told(id, &failure, &held.log);
        let conversation = &held.conversation;
        conversation.begin(asked).map_err(told)?;
        let (mut init, mut terminal) = (None, None);
        loop {
            match conversation.next().map_err(told)? {
                Event::Namespaces { pid } => {
                    init = Some(pid);
                    for point in [HookPoint::Prestart, HookPoint::CreateRuntime] {
                        plan.hooks.run(point, pid).map_err(|failure| Error::Hook {
                            id: id.to_owned(),
                            failure,
                        })?;
                    }
                }
                Event::Made { pid } => init = Some(pid),
                Event::Terminal(master) => terminal = Some(master),
                Event::Restored => break,
                Event::Step => {}
                Event::Done => return Err(refused(id, "criu let the processes go unseen")),
            }
            conversation.acknowledge(true).map_err(told)?;
        }
        let init = init.and_then(Pid::from_raw);
        let init = init.ok_or_else(|| refused(id, "criu names no first process"))?;
        let pidfd = berth_kernel::pidfd_open(init).map_err(Error::host(id, "open its process"))?;
        let others = cgroup
            .pids()
            .map_err(cgroup_error(id, "list its processes"))?;
        let criu = held.criu.pid.as_raw_pid();
        let pids: Vec<i32> = others.into_iter().filter(|pid| *pid != criu).collect();
        let checked = check::Check {
            plan,
            places,
            init: init.as_raw_pid(),
        };
        checked
            .all(&pids)
            .map_err(|problem| refused(id, &problem))?;
        checked.set_oom_scores(&pids, self.create.spec)?;
        Ok((Child { pid: init, pidfd }, terminal))
    }

    /// Descriptors that criu gives to the processes, with the names that the images have for them.
    fn handed_over(&self, plan: &InitPlan) -> Result<Vec<(String, i32)>> {
        let mut handed = Vec::new();
        for (kind, _, fd) in &plan.namespaces.joined {
            let keys = &outside::NAMESPACE_KEYS;
            if let Some((_, key)) = keys.iter().find(|(name, _)| *name == kind.file_name()) {
                handed.push(((*key).to_owned(), fd.as_raw_fd()));
            }
        }
        let ProcessStdio::Files {
            stdin,
            stdout,
            stderr,
        } = &self.create.stdio
        else {
            return Ok(handed);
        };
        let names = self.stream_names()?;
        for (name, file) in names.into_iter().zip([stdin, stdout, stderr]) {
            let known = handed.iter().any(|(key, _)| *key == name);
            let outside = name.starts_with("pipe:[") || name.starts_with("file[");
            if let (Some(file), true, false) = (file, outside, known) {
                handed.push((name, file.as_raw_fd()));
            }
        }
        Ok(handed)
    }

    fn stream_names(&self) -> Result<Vec<String>> {
        let path = self.images.join(outside::DESCRIPTORS);
        let mut text = String::new();
        let read = fs::File::open(&path)
            .and_then(|file| file.take(MOST_DESCRIPTORS).read_to_string(&mut text));
        let names = read
            .map_err(|error| error.to_string())
            .and_then(|_| serde_json::from_str(&text).map_err(|error| error.to_string()));
        names.map_err(|problem| {
            let name = outside::DESCRIPTORS;
            refused(self.create.id, &format!("{name} of the images: {problem}"))
        })
    }

    fn message(
        &self,
        plan: &InitPlan,
        cgroup: &Cgroup,
        places: &Places,
        handed: &[(String, i32)],
    ) -> berth_criu::Restore {
        let options = &self.options;
        let joined = plan.namespaces.joined.iter().filter(|(kind, ..)| {
            !matches!(
                kind,
                Namespace::Network | Namespace::Pid | Namespace::Cgroup
            )
        });
        berth_criu::Restore {
            images: -1,
            work: -1,
            log: LOG,
            root: plan.root.directory.display().to_string(),
            external: externals(plan, cgroup, places),
            inherited: handed.to_vec(),
            joined: joined
                .map(|(kind, path, _)| (kind.file_name(), path.display().to_string()))
                .collect(),
            terminal: matches!(self.create.stdio, ProcessStdio::Terminal),
            shell_job: options.shell_job,
            tcp_established: options.tcp_established,
            tcp_close: options.tcp_close,
            ext_unix_sk: options.ext_unix_sk,
            file_locks: options.file_locks,
            auto_dedup: options.auto_dedup,
            empty_network: plan.namespaces.new.contains(Namespace::Network),
            lsm_profile: options.lsm_profile.clone(),
            lsm_mount_context: options.lsm_mount_context.clone(),
        }
    }
}

/// Where the spec's paths lead to in the container's root, without links on the way: so the mount
/// table calls them.
#[derive(Debug)]
pub(crate) struct Places {
    mounts: Vec<PathBuf>,
    masked: Vec<PathBuf>,
    read_only: Vec<PathBuf>,
}

impl Places {
    /// Through the eyes of the process that has the root mounted.
    fn find(plan: &InitPlan, pid: i32) -> Self {
        let directory = &plan.root.directory;
        let below = directory.strip_prefix("/").unwrap_or(directory);
        let root = PathBuf::from(format!("/proc/{pid}/root")).join(below);
        let place = |path: &PathBuf| {
            outside::resolve(&root, path, directory).unwrap_or_else(|| path.clone())
        };
        Self {
            mounts: plan
                .mounts
                .iter()
                .map(|mount| place(&mount.destination))
                .collect(),
            masked: plan.masked.iter().map(place).collect(),
            read_only: plan.read_only.iter().map(place).collect(),
        }
    }
}

/// What criu finds outside, by the keys of `berth_criu::outside`.
fn externals(plan: &InitPlan, cgroup: &Cgroup, places: &Places) -> Vec<String> {
    let mut externals = Vec::new();
    let mut map = |key: &Path, value: &Path| {
        externals.push(format!("mnt[{}]:{}", key.display(), value.display()));
    };
    for (mount, place) in plan.mounts.iter().zip(&places.mounts) {
        match &mount.kind {
            MountKind::Bind { source, .. } => map(place, source),
            MountKind::Cgroup => {
                for hierarchy in cgroup.paths() {
                    map(&cgroup_place(place, &hierarchy.name), &hierarchy.directory);
                }
            }
            MountKind::Filesystem { .. } => {}
        }
    }
    for masked in &places.masked {
        map(masked, Path::new("/dev/null"));
    }
    externals
}

/// Where a hierarchy is mounted; one without a name is the mount itself.
fn cgroup_place(mount: &Path, name: &str) -> PathBuf {
    if name.is_empty() {
        mount.to_owned()
    } else {
        mount.join(name)
    }
}

/// Whether the place of a mount comes with another mount, so that it is not in the root.
fn is_nested(mount: &MountPlan, mounts: &[MountPlan]) -> bool {
    let above = |other: &MountPlan| {
        other.destination != mount.destination
            && other.destination != Path::new("/")
            && mount.destination.starts_with(&other.destination)
    };
    mounts.iter().any(above)
}

/// A failure of criu, with what its log says about it.
fn told(id: &str, failure: &Failure, path: &Path) -> Error {
    let said = fs::read(path).unwrap_or_default();
    let said = log::errors(&String::from_utf8_lossy(&said));
    Error::Restore {
        id: id.to_owned(),
        reason: format!("{}: {said}", chain(failure)),
    }
}

fn refused(id: &str, reason: &str) -> Error {
    Error::Restore {
        id: id.to_owned(),
        reason: reason.to_owned(),
    }
}
