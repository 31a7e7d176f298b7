//! One clone, and the first words with what came of it.

use crate::error::{Error, Result};
use crate::report::{Failure, Listener, Reporter};
use berth_kernel::rustix::process::{Pid, WaitOptions, dumpable_behavior, waitpid};
use berth_kernel::{Clone3, Cloned, ClonedWord, Errno, Namespace, NamespaceSet, exit_now};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::path::Path;

/// A child of the runtime. Dropping it lets go of the descriptor only.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

impl Child {
    /// Who speaks for the container after this one: itself, unless another
    /// has taken over, which it ends after.
    pub(crate) fn succeeded_by(self, successor: Option<(Pid, OwnedFd)>) -> Self {
        let Some((pid, pidfd)) = successor else {
            return self;
        };
        while let Err(Errno::INTR) = waitpid(Some(self.pid), WaitOptions::empty()) {}
        Self { pid, pidfd }
    }

    /// Ends and reaps a child that could not be set up.
    pub(crate) fn abandon(&self) {
        const SIGKILL: i32 = 9;
        // Both fail only if it is gone and reaped already.
        let _ = berth_kernel::pidfd_send_signal(&self.pidfd, SIGKILL);
        while let Err(Errno::INTR) = waitpid(Some(self.pid), WaitOptions::empty()) {}
    }
}

/// Which side of a clone this is, and whether it started in the unified cgroup.
type Cloning = berth_kernel::Result<(Cloned, bool)>;

/// Where a child starts.
#[derive(Debug)]
pub(crate) struct Spawn<'a> {
    pub(crate) id: &'a str,
    pub(crate) new: NamespaceSet,
    /// A namespace, or a pidfd of a process in it, that the child is cloned
    /// into.
    pub(crate) pid_namespace: Option<BorrowedFd<'a>>,
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

impl Spawn<'_> {
    /// Clones, and runs `body` in the child. It is told whether it started in
    /// the unified cgroup, and answers what failed, if it comes back at all.
    ///
    /// The child never unwinds into the caller's frames, and cannot be traced
    /// or looked into from the namespaces that it is about to enter.
    pub(crate) fn run<F>(&self, body: F) -> Result<(Child, Listener)>
    where
        F: FnOnce(&Reporter, bool) -> Failure,
    {
        let host = |operation| Error::host(self.id, operation);
        let (near, far) = berth_kernel::socket_pair().map_err(host("make a socket pair"))?;
        let before = dumpable_behavior().map_err(host("read dumpable"))?;
        berth_kernel::set_dumpable(false).map_err(host("set dumpable"))?;
        let cloned = self.in_pid_namespace();
        let (cloned, in_unified) = match cloned {
            Ok(cloned) => cloned,
            Err(error) => {
                let _ = berth_kernel::rustix::process::set_dumpable_behavior(before);
                return Err(error);
            }
        };
        match cloned {
            Cloned::Child => {
                drop(near);
                let reporter = Reporter::new(far);
                let work = AssertUnwindSafe(|| body(&reporter, in_unified));
                if let Ok(failure) = std::panic::catch_unwind(work) {
                    reporter.failed(&failure);
                }
                exit_now(1)
            }
            Cloned::Parent { pid, pidfd } => {
                let child = Child { pid, pidfd };
                if let Err(errno) = berth_kernel::rustix::process::set_dumpable_behavior(before) {
                    child.abandon();
                    return Err(host("restore dumpable")(errno));
                }
                Ok((child, Listener::new(near)))
            }
        }
    }

    /// Into the cgroup at once, or beside it when the kernel refuses that for
    /// this cgroup (threaded, or with controllers for its children).
    fn clone_once(&self, sibling: bool) -> Cloning {
        // A cgroup namespace comes after joining cgroups.
        let namespaces = self.new.without(Namespace::Cgroup);
        let clone = |cgroup| {
            Clone3 {
                namespaces,
                cgroup,
                sibling,
            }
            .run()
        };
        match (self.cgroup, clone(self.cgroup)) {
            (Some(_), Err(Errno::BUSY | Errno::OPNOTSUPP | Errno::INVAL)) => {
                clone(None).map(|cloned| (cloned, false))
            }
            (cgroup, cloned) => cloned.map(|cloned| (cloned, cgroup.is_some())),
        }
    }

    /// Clones into the wanted PID namespace: the own children go there for a moment.
    fn in_pid_namespace(&self) -> Result<(Cloned, bool)> {
        let failed = Error::host(self.id, "clone");
        let Some(wanted) = self.pid_namespace else {
            return self.clone_once(false).map_err(failed);
        };
        let kind = NamespaceSet::EMPTY.with(Namespace::Pid);
        let own = berth_kernel::open_namespace(Path::new("/proc/self/ns/pid"))
            .map_err(Error::host(self.id, "open own pid namespace"))?;
        // Where that is not permitted now it would not be afterwards: the namespace is the host's,
        // and this is a user namespace.
        if berth_kernel::join(&own, kind) == Err(Errno::PERM) {
            return self.by_helper(wanted);
        }
        berth_kernel::join(wanted, kind).map_err(|errno| self.join_error(errno))?;
        let cloned = self.clone_once(false);
        if matches!(cloned, Ok((Cloned::Child, _))) {
            return cloned.map_err(failed);
        }
        if let Err(errno) = berth_kernel::join(&own, kind) {
            if let Ok((Cloned::Parent { pid, pidfd }, _)) = cloned {
                Child { pid, pidfd }.abandon();
            }
            return Err(Error::host(self.id, "return to own pid namespace")(errno));
        }
        cloned.map_err(failed)
    }

    /// Has a child of its own join the PID namespace for good and clone. What that makes is this
    /// process's child, by CLONE_PARENT, and goes on here as such.
    fn by_helper(&self, wanted: BorrowedFd<'_>) -> Result<(Cloned, bool)> {
        let host = |operation| Error::host(self.id, operation);
        let (near, far) = berth_kernel::socket_pair().map_err(host("make a socket pair"))?;
        match Clone3::default().run().map_err(host("clone a helper"))? {
            Cloned::Child => {
                drop(near);
                let kind = NamespaceSet::EMPTY.with(Namespace::Pid);
                let outcome = match berth_kernel::join(wanted, kind) {
                    Ok(()) => self.clone_once(true),
                    Err(errno) => Err(errno),
                };
                if let Ok((Cloned::Child, in_unified)) = outcome {
                    return Ok((Cloned::Child, in_unified));
                }
                helper::tell(&far, &outcome);
                exit_now(0)
            }
            Cloned::Parent { pid, pidfd } => {
                drop(far);
                let told = helper::told(&near);
                let helper = Child { pid, pidfd };
                // It has nothing left to do, whatever it said.
                helper.abandon();
                let (pid, in_unified) = told.map_err(|errno| self.join_error(errno))?;
                let pidfd = berth_kernel::pidfd_open(pid).map_err(host("open a child"))?;
                Ok((Cloned::Parent { pid, pidfd }, in_unified))
            }
        }
    }

    fn join_error(&self, errno: Errno) -> Error {
        if errno == Errno::SRCH {
            return Error::NotRunning {
                id: self.id.to_owned(),
            };
        }
        Error::host(self.id, "join pid namespace")(errno)
    }
}

/// What the helper says.
mod helper {
    use super::{Cloned, ClonedWord, Cloning, Errno, OwnedFd, Pid};
    use berth_kernel::rustix::io::{read, write};

    pub(super) fn tell(socket: &OwnedFd, outcome: &Cloning) {
        let word = ClonedWord::new(match outcome {
            Ok((Cloned::Parent { pid, .. }, in_unified)) => Ok((*pid, i32::from(*in_unified))),
            Ok((Cloned::Child, _)) => Err(Errno::CHILD),
            Err(errno) => Err(*errno),
        });
        // Nobody to tell: then the caller sees the end.
        let _ = write(socket, &word.to_bytes());
    }

    pub(super) fn told(socket: &OwnedFd) -> berth_kernel::Result<(Pid, bool)> {
        let mut message = [0; ClonedWord::LENGTH];
        let length = loop {
            match read(socket, &mut message) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        let word = message.get(..length).and_then(ClonedWord::from_bytes);
        let (pid, in_unified) = word.ok_or(Errno::CHILD)?.outcome()?;
        Ok((pid, in_unified != 0))
    }
}
