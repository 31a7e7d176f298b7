//! The rules about ids and limits, on a file system whose quotas are kept here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::*;

/// A number of an inode is used again.
type Inode = (u64, SystemTime);

/// Ids by inode, limits by id. Inodes that are gone have none.
#[derive(Default)]
struct Disk {
    place: PathBuf,
    projects: BTreeMap<Inode, u32>,
    limits: BTreeMap<u32, u64>,
    off: bool,
    /// Calls that change something still succeed so often.
    patience: Option<usize>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Disk>>);

impl Disk {
    fn change(&mut self) -> rustix::io::Result<()> {
        match &mut self.patience {
            Some(0) => Err(Errno::IO),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn usage(&self, project: u32) -> ProjectUsage {
        let mut there = BTreeSet::new();
        inodes(&self.place, &mut there);
        let of_it = |(inode, id): &(&Inode, &u32)| **id == project && there.contains(inode);
        let inodes = self.projects.iter().filter(of_it).count() as u64;
        ProjectUsage {
            bytes: inodes * 4096,
            inodes,
            limit: self.limits.get(&project).copied().unwrap_or_default(),
        }
    }
}

fn inodes(dir: &Path, found: &mut BTreeSet<Inode>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        found.insert(identity(&entry.metadata().unwrap()));
        if entry.file_type().unwrap().is_dir() {
            inodes(&entry.path(), found);
        }
    }
}

fn identity(found: &Metadata) -> Inode {
    (found.ino(), found.created().unwrap())
}

fn inode(dir: BorrowedFd<'_>) -> Inode {
    let dir = File::from(dir.try_clone_to_owned().unwrap());
    identity(&dir.metadata().unwrap())
}

impl Projects for Fake {
    fn are_enforced(&self, _: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        Ok(!self.0.lock().off)
    }

    fn usage(&self, _: BorrowedFd<'_>, project: u32) -> rustix::io::Result<ProjectUsage> {
        Ok(self.0.lock().usage(project))
    }

    fn next(
        &self,
        _: BorrowedFd<'_>,
        from: u32,
    ) -> rustix::io::Result<Option<(u32, ProjectUsage)>> {
        let disk = self.0.lock();
        let known = disk.limits.keys().chain(disk.projects.values());
        let project = known.copied().filter(|id| *id >= from).min();
        Ok(project.map(|id| (id, disk.usage(id))))
    }

    fn limit(&self, _: BorrowedFd<'_>, project: u32, bytes: u64) -> rustix::io::Result<()> {
        let mut disk = self.0.lock();
        disk.change()?;
        match bytes {
            0 => drop(disk.limits.remove(&project)),
            some => drop(disk.limits.insert(project, some)),
        }
        Ok(())
    }

    fn of(&self, dir: BorrowedFd<'_>) -> rustix::io::Result<Option<u32>> {
        Ok(self.0.lock().projects.get(&inode(dir)).copied())
    }

    fn set(&self, dir: BorrowedFd<'_>, project: u32) -> rustix::io::Result<()> {
        let mut disk = self.0.lock();
        disk.change()?;
        match project {
            0 => drop(disk.projects.remove(&inode(dir))),
            some => drop(disk.projects.insert(inode(dir), some)),
        }
        Ok(())
    }
}

struct Bench {
    disk: Fake,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let (disk, dir) = (Fake::default(), tempfile::tempdir().unwrap());
        disk.0.lock().place = dir.path().to_owned();
        Self { disk, dir }
    }

    fn open(&self) -> Overlay {
        let root = self.dir.path().join("store");
        Overlay::open_with(&root, "boot", Box::new(self.disk.clone())).unwrap()
    }

    fn project(&self, dir: &str) -> Option<u32> {
        let found = fs::metadata(self.dir.path().join("store").join(dir)).ok()?;
        let disk = self.disk.0.lock();
        disk.projects.get(&identity(&found)).copied()
    }

    fn limits(&self) -> BTreeMap<u32, u64> {
        self.disk.0.lock().limits.clone()
    }
}

#[test]
fn each_limited_snapshot_has_a_project_of_its_own_for_all_that_is_written() {
    let bench = Bench::new();
    let overlay = bench.open();
    overlay.prepare("free", &[]).unwrap();
    overlay.prepare_limited("a", &[], 1 << 20).unwrap();
    overlay.prepare_limited("b", &[], 2 << 20).unwrap();
    let [a, b] = ["active/a/upper", "active/b/upper"].map(|dir| bench.project(dir).unwrap());
    assert_ne!(a, b);
    assert_eq!(bench.project("active/a/work"), Some(a));
    assert_eq!(bench.project("active/free/upper"), None);
    assert_eq!(bench.limits(), BTreeMap::from([(a, 1 << 20), (b, 2 << 20)]));
    // The directory of the kernel's is not what somebody wrote.
    let usage = overlay.usage("a").unwrap();
    assert_eq!(usage.inodes, 1);
}

#[test]
fn a_removed_snapshot_leaves_no_limit_and_its_id_is_not_given_while_files_have_it() {
    let bench = Bench::new();
    let overlay = bench.open();
    overlay.prepare_limited("a", &[], 1 << 20).unwrap();
    let first = bench.project("active/a/upper").unwrap();
    overlay.remove("a").unwrap();
    assert_eq!(bench.limits(), BTreeMap::new());
    drop(overlay);

    // The trash still has files of it, and the search begins anew.
    let overlay = bench.open();
    overlay.prepare_limited("b", &[], 1 << 20).unwrap();
    assert_ne!(bench.project("active/b/upper"), Some(first));
    overlay.remove("b").unwrap();
    overlay.purge_trash().unwrap();
    drop(overlay);
    let overlay = bench.open();
    overlay.prepare_limited("c", &[], 1 << 20).unwrap();
    assert_eq!(
        bench.project("active/c/upper"),
        Some(first),
        "it is free again"
    );
}

#[test]
fn ids_that_others_use_or_have_limited_are_left_alone() {
    let bench = Bench::new();
    let other = bench.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    {
        let mut disk = bench.disk.0.lock();
        disk.projects
            .insert(identity(&fs::metadata(&other).unwrap()), FIRST);
        disk.limits.insert(FIRST, 5);
        disk.limits.insert(7, 9);
    }
    let overlay = bench.open();
    overlay.prepare_limited("a", &[], 1 << 20).unwrap();
    let taken = bench.project("active/a/upper").unwrap();
    assert!(taken > FIRST, "{taken}");
    let limits = BTreeMap::from([(7, 9), (FIRST, 5), (taken, 1 << 20)]);
    assert_eq!(bench.limits(), limits);
}

#[test]
fn a_directory_of_somebody_elses_project_keeps_its_limit() {
    let bench = Bench::new();
    let overlay = bench.open();
    overlay.prepare("a", &[]).unwrap();
    let upper = bench.dir.path().join("store/active/a/upper");
    {
        // As if an administrator had limited the whole root.
        let mut disk = bench.disk.0.lock();
        disk.projects
            .insert(identity(&fs::metadata(&upper).unwrap()), 7);
        disk.limits.insert(7, 1 << 30);
    }
    overlay.remove("a").unwrap();
    assert_eq!(bench.limits(), BTreeMap::from([(7, 1 << 30)]));
}

#[test]
fn limits_are_set_again_at_an_open_and_those_on_nothing_are_lifted() {
    let bench = Bench::new();
    let overlay = bench.open();
    overlay.prepare_limited("a", &[], 1 << 20).unwrap();
    let project = bench.project("active/a/upper").unwrap();
    drop(overlay);
    {
        let mut disk = bench.disk.0.lock();
        disk.limits.clear();
        disk.limits.insert(FIRST + 99, 1);
    }
    let overlay = bench.open();
    assert_eq!(overlay.recovery().unlimited_snapshots, [""; 0]);
    assert_eq!(bench.limits(), BTreeMap::from([(project, 1 << 20)]));
}

#[test]
fn a_full_snapshot_has_room_to_be_mounted_until_it_is_held_to_its_limit_again() {
    let bench = Bench::new();
    let overlay = bench.open();
    overlay.prepare("free", &[]).unwrap();
    assert!(!overlay.ease("free").unwrap());
    // It takes more than it may: two directories.
    overlay.prepare_limited("full", &[], 4096).unwrap();
    let limit = || bench.limits().into_values().collect::<Vec<u64>>();
    assert!(overlay.ease("full").unwrap());
    assert!(limit()[0] >= 2 * 4096 + (1 << 19), "{:?}", limit());
    overlay.hold("full").unwrap();
    assert_eq!(limit(), [4096]);
    assert!(overlay.ease("full").unwrap());
    drop(overlay);
    let _next = bench.open();
    assert_eq!(limit(), [4096], "a crash meanwhile is made good");
}

#[test]
fn a_draft_that_a_crash_left_has_no_limit_any_more() {
    let bench = Bench::new();
    drop(bench.open());
    let draft = bench.dir.path().join("store/drafts/1-1/upper");
    fs::create_dir_all(&draft).unwrap();
    {
        let mut disk = bench.disk.0.lock();
        disk.projects
            .insert(identity(&fs::metadata(&draft).unwrap()), FIRST);
        disk.limits.insert(FIRST, 1 << 20);
    }
    let _overlay = bench.open();
    assert_eq!(bench.limits(), BTreeMap::new());
}

#[test]
fn a_step_that_fails_leaves_no_snapshot_and_after_an_open_no_limit() {
    for steps in 0.. {
        let bench = Bench::new();
        let overlay = bench.open();
        bench.disk.0.lock().patience = Some(steps);
        let made = overlay.prepare_limited("a", &[], 1 << 20);
        bench.disk.0.lock().patience = None;
        if made.is_ok() {
            assert_eq!(steps, 3, "two directories and a limit");
            return;
        }
        assert!(overlay.snapshots().unwrap().is_empty());
        drop(overlay);
        let overlay = bench.open();
        overlay.purge_trash().unwrap();
        assert_eq!(bench.limits(), BTreeMap::new(), "after {steps} steps");
        overlay.prepare_limited("a", &[], 1 << 20).unwrap();
    }
}

#[test]
fn without_quotas_nothing_is_made_and_what_was_limited_is_named() {
    let bench = Bench::new();
    let overlay = bench.open();
    overlay.prepare_limited("a", &[], 1 << 20).unwrap();
    drop(overlay);
    bench.disk.0.lock().off = true;
    let overlay = bench.open();
    assert_eq!(overlay.recovery().unlimited_snapshots, ["a"]);
    let refused = overlay.prepare_limited("b", &[], 1 << 20).unwrap_err();
    let said = refused.to_string();
    assert!(
        said.contains("project quotas") && said.contains("prjquota"),
        "{said}"
    );
    assert_eq!(overlay.snapshots().unwrap().len(), 1);
    assert_eq!(
        fs::read_dir(bench.dir.path().join("store/drafts"))
            .unwrap()
            .count(),
        0
    );
}
