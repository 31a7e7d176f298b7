//! Limits on what is written to snapshots, by the project quotas of the file system.
//!
//! ```text
//! drafts/<instance>/{upper,work}   of a free project, which is limited then
//!        └─ rename ─► active/<key> limited again at each open, as its record says
//!                └─ the limit is lifted ─► trash/<instance>   the id is free when this is deleted
//! ```
//!
//! A project's id is on the directories and nowhere else: it is in use for as long as an inode has it,
//! which the file system counts. So no id is given twice, whoever else gives ids on this file system,
//! and a crash leaves at most a limit on nothing, which is lifted at the next open.
//!
//! `work` is of the project, too: what is copied up is made there and renamed into `upper`, and nothing
//! is renamed into the directory of another project.

use std::os::fd::BorrowedFd;

use berth_kernel::ProjectUsage;

use super::layout::{Dir, Layout};
use super::*;

/// Ours. Administrators count from 1, the kubelet from 2^20 + 1 for its volumes.
const FIRST: u32 = 1 << 21;
const LAST: u32 = (1 << 22) - 1;

/// More than two directories take, with what XFS sets aside while it makes them.
const ROOM: u64 = 1 << 20;

/// The calls on the file system; `root` is any descriptor on it.
pub(super) trait Projects: Send + Sync {
    fn are_enforced(&self, root: BorrowedFd<'_>) -> rustix::io::Result<bool>;
    fn usage(&self, root: BorrowedFd<'_>, project: u32) -> rustix::io::Result<ProjectUsage>;
    /// The first from `from` on that takes something or is limited.
    fn next(
        &self,
        root: BorrowedFd<'_>,
        from: u32,
    ) -> rustix::io::Result<Option<(u32, ProjectUsage)>>;
    /// 0 lifts the limit.
    fn limit(&self, root: BorrowedFd<'_>, project: u32, bytes: u64) -> rustix::io::Result<()>;
    fn of(&self, dir: BorrowedFd<'_>) -> rustix::io::Result<Option<u32>>;
    /// Of an empty directory; 0 means none.
    fn set(&self, dir: BorrowedFd<'_>, project: u32) -> rustix::io::Result<()>;
}

pub(super) struct Kernel;

impl Projects for Kernel {
    fn are_enforced(&self, root: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        berth_kernel::project_quotas_enforced(root)
    }

    fn usage(&self, root: BorrowedFd<'_>, project: u32) -> rustix::io::Result<ProjectUsage> {
        berth_kernel::project_usage(root, project)
    }

    fn next(
        &self,
        root: BorrowedFd<'_>,
        from: u32,
    ) -> rustix::io::Result<Option<(u32, ProjectUsage)>> {
        berth_kernel::next_project(root, from)
    }

    fn limit(&self, root: BorrowedFd<'_>, project: u32, bytes: u64) -> rustix::io::Result<()> {
        berth_kernel::limit_project(root, project, bytes)
    }

    fn of(&self, dir: BorrowedFd<'_>) -> rustix::io::Result<Option<u32>> {
        berth_kernel::inherited_project(dir)
    }

    fn set(&self, dir: BorrowedFd<'_>, project: u32) -> rustix::io::Result<()> {
        berth_kernel::set_inherited_project(dir, project)
    }
}

pub(super) struct Quotas {
    projects: Box<dyn Projects>,
    /// Where the search for a free id goes on.
    next: Mutex<u32>,
}

impl Quotas {
    pub fn new(projects: Box<dyn Projects>) -> Self {
        Self {
            projects,
            next: Mutex::new(FIRST),
        }
    }

    /// Asked each time: an administrator turns them on and off at any time.
    pub fn check(&self, layout: &Layout) -> Result<()> {
        let root = layout.root.fd();
        if self.projects.are_enforced(root) == Ok(true) && !berth_kernel::in_user_namespace() {
            return Ok(());
        }
        let kind = rustix::fs::fstatfs(root).map_or(0, |found| found.f_type);
        let (filesystem, remedy) = match kind {
            _ if berth_kernel::in_user_namespace() => (
                "a file system",
                "an ordinary user's daemon may not set any: limits need root's daemon",
            ),
            EXT4 => (
                "ext4",
                "run 'tune2fs -O project -Q prjquota' on its device while it is not mounted, and mount \
                 it with -o prjquota (the kernel needs CONFIG_QFMT_V2)",
            ),
            XFS => (
                "xfs",
                "mount it with -o prjquota, or with rootflags=prjquota on the kernel's command line if \
                 it is the root (the kernel needs CONFIG_XFS_QUOTA)",
            ),
            _ => (
                "a file system",
                "put the daemon's root directory on xfs or ext4 mounted with -o prjquota",
            ),
        };
        Err(Error::NoQuotas {
            root: layout.root.path(""),
            filesystem,
            remedy,
        })
    }

    /// Gives the empty directories of a draft a project of their own, and limits it.
    pub fn limit_draft(&self, layout: &Layout, name: &str, bytes: u64) -> Result<()> {
        let [upper, work] = [format!("{name}/upper"), format!("{name}/work")];
        let project = self.take(layout, &upper)?;
        let dir = layout.drafts.open(&work)?;
        self.projects
            .set(dir.as_fd(), project)
            .attempt("setting the project of", layout.drafts.path(&work))?;
        self.projects
            .limit(layout.root.fd(), project, bytes)
            .attempt("limiting", layout.drafts.path(name))
    }

    /// Makes a draft's directory the first inode of a free project.
    fn take(&self, layout: &Layout, upper: &str) -> Result<u32> {
        let (root, path) = (layout.root.fd(), layout.drafts.path(upper));
        let dir = layout.drafts.open(upper)?;
        let set = |project| {
            self.projects
                .set(dir.as_fd(), project)
                .attempt("setting the project of", path.clone())
        };
        let usage = |project| {
            self.projects
                .usage(root, project)
                .attempt("asking for the quota of", path.clone())
        };
        let mut next = self.next.lock();
        for _ in FIRST..=LAST {
            let project = *next;
            *next = following(project);
            if usage(project)? != ProjectUsage::default() {
                continue;
            }
            set(project)?;
            // Another daemon on this file system may have taken it in the same moment.
            if usage(project)?.inodes <= 1 {
                return Ok(project);
            }
            set(0)?;
        }
        Err(Error::NoProject {
            root: layout.root.path(""),
        })
    }

    /// Leaves room for the kernel's own directories, however full it is.
    pub fn ease(&self, layout: &Layout, key: &str, bytes: u64) -> Result<()> {
        let taken = self.usage(layout, key).map_or(0, |usage| usage.bytes);
        self.limit_again(layout, key, bytes.max(taken).saturating_add(ROOM))
    }

    /// Limits a snapshot as it was.
    pub fn limit_again(&self, layout: &Layout, key: &str, bytes: u64) -> Result<()> {
        let path = || layout.active.path(key);
        let project = self.project(&layout.active, key);
        let project = project.ok_or(Errno::NOENT).attempt("limiting", path())?;
        self.projects
            .limit(layout.root.fd(), project, bytes)
            .attempt("limiting", path())
    }

    /// Lifts the limit of a snapshot or draft that goes, if it has one. What cannot be lifted now is
    /// found at an open, when the files are gone.
    pub fn lift(&self, layout: &Layout, from: &Dir, name: &str) {
        if let Some(project) = self.project(from, name) {
            let _ = self.projects.limit(layout.root.fd(), project, 0);
        }
    }

    /// What a limited snapshot takes, without the directories that are the kernel's.
    pub fn usage(&self, layout: &Layout, key: &str) -> Option<Usage> {
        let project = self.project(&layout.active, key)?;
        let known = self.projects.usage(layout.root.fd(), project).ok()?;
        let mut usage = Usage {
            bytes: known.bytes,
            inodes: known.inodes,
        };
        for work in ["work", "work/work"] {
            if let Ok(dir) = layout.active.open(&format!("{key}/{work}"))
                && let Ok(own) = tree::alone(&dir)
            {
                usage.bytes = usage.bytes.saturating_sub(own.bytes);
                usage.inodes = usage.inodes.saturating_sub(own.inodes);
            }
        }
        Some(usage)
    }

    /// Limits what is to be limited and lifts limits on nothing. Answers with the keys of those that
    /// could not be limited.
    pub fn recover<'a>(
        &self,
        layout: &Layout,
        snapshots: impl Iterator<Item = &'a Snapshot>,
    ) -> Vec<String> {
        let limited = snapshots.filter_map(|snapshot| Some((&snapshot.key, snapshot.limit?)));
        let enforced = self.check(layout).is_ok();
        let unlimited = limited
            .filter(|(key, bytes)| !enforced || self.limit_again(layout, key, *bytes).is_err());
        let unlimited = unlimited.map(|(key, _)| key.clone()).collect();
        if enforced {
            self.sweep(layout);
        }
        unlimited
    }

    /// A project that takes nothing is nobody's: directories are of it before it is limited.
    fn sweep(&self, layout: &Layout) {
        let root = layout.root.fd();
        let mut from = FIRST;
        while let Ok(Some((project, usage))) = self.projects.next(root, from)
            && (from..=LAST).contains(&project)
        {
            if usage.inodes == 0 && usage.bytes == 0 && usage.limit > 0 {
                let _ = self.projects.limit(root, project, 0);
            }
            from = project + 1;
        }
    }

    /// Of a snapshot or draft, if it is one of ours: a directory above it may be of somebody's project.
    fn project(&self, from: &Dir, name: &str) -> Option<u32> {
        let upper = from.open(&format!("{name}/upper")).ok()?;
        let project = self.projects.of(upper.as_fd()).ok()??;
        (FIRST..=LAST).contains(&project).then_some(project)
    }
}

/// `f_type` of ext2, ext3 and ext4.
const EXT4: rustix::fs::FsWord = 0xef53;
const XFS: rustix::fs::FsWord = 0x5846_5342;

fn following(project: u32) -> u32 {
    match project {
        LAST => FIRST,
        project => project + 1,
    }
}

#[cfg(test)]
mod tests;
