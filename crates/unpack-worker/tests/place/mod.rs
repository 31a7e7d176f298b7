//! Where the tests unpack, and how they find the processes that do.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use berth_unpack::{Applied, Options, Result};
use berth_unpack_worker::{Program, Unpacker};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, kill_process};

pub const PROBE: &str = env!("CARGO_BIN_EXE_berth-unpack-probe");

/// Workers are told apart by who started them: one test at a time.
static ONE: Mutex<()> = Mutex::new(());

pub struct Place {
    dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Place {
    /// `None` without the privileges that a worker gives up.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root: makes namespaces and mounts");
            return None;
        }
        let alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        Some(Self { dir, _alone: alone })
    }

    pub fn target(&self, name: &str) -> PathBuf {
        let target = self.dir.path().join(name);
        fs::create_dir(&target).unwrap();
        target
    }

    pub fn workers(&self) -> Unpacker {
        Unpacker::Apart(Program::at(PROBE))
    }

    /// A file system of this size; `None` where nothing can be mounted.
    pub fn small_disk(&self, size: &str) -> Option<Disk> {
        let path = self.target("disk");
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        let flags = MountFlags::empty();
        let mounted =
            rustix::mount::mount("small", &path, "tmpfs", flags, Some(options.as_c_str()));
        if let Err(errno) = mounted {
            eprintln!("skipped: no tmpfs can be mounted: {errno}");
            return None;
        }
        Some(Disk { path })
    }
}

pub struct Disk {
    pub path: PathBuf,
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _is_gone = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
    }
}

pub fn unpack(unpacker: &Unpacker, reader: impl Read + Send, target: &Path) -> Result<Applied> {
    let dir = File::open(target).unwrap();
    unpacker.unpack(reader, dir.as_fd(), &Options::default())
}

/// The process of this test's worker that waits, and the one that works, confined.
pub fn outer() -> i32 {
    child_of(std::process::id().cast_signed())
}

pub fn inner() -> i32 {
    let pid = child_of(outer());
    let deadline = Instant::now() + Duration::from_secs(10);
    while !fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap()
        .contains("Seccomp:\t2")
    {
        assert!(Instant::now() < deadline, "{pid} is not confined");
        sleep(Duration::from_millis(1));
    }
    pid
}

pub fn child_of(parent: i32) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let of_threads = fs::read_dir(format!("/proc/{parent}/task")).unwrap();
        let children: Vec<i32> = of_threads
            .filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).ok())
            .flat_map(|line| {
                let pids: Vec<i32> = line.split_whitespace().flat_map(str::parse).collect();
                pids
            })
            .collect();
        match children[..] {
            [child] => return child,
            _ => assert!(
                Instant::now() < deadline,
                "{parent} has children {children:?}"
            ),
        }
        sleep(Duration::from_millis(1));
    }
}

pub fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Waits until a process does nothing any more.
pub fn ends(pid: i32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while runs(pid) {
        assert!(Instant::now() < deadline, "{pid} goes on");
        sleep(Duration::from_millis(1));
    }
}

fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Everything that can be told of a layer, but for the times at which it was made.
pub fn picture(root: &Path) -> String {
    let mut told = String::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let content = if found.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            names.sort();
            waiting.extend(names);
            Vec::new()
        } else if found.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .as_os_str()
                .as_encoded_bytes()
                .to_vec()
        } else if found.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let mut names = vec![0; 4096];
        let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let attributes = String::from_utf8_lossy(&names[..length]).into_owned();
        let name = path.strip_prefix(root).unwrap();
        writeln!(
            told,
            "{name:?} {:o} {} {} {} {} {} {attributes:?} {}",
            found.mode(),
            found.uid(),
            found.gid(),
            found.nlink(),
            found.rdev(),
            made_at(found.mtime()),
            content.iter().map(|byte| u64::from(*byte)).sum::<u64>(),
        )
        .unwrap();
    }
    told
}

/// A time that the archive gives; `now` where it gives none.
fn made_at(mtime: i64) -> String {
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs();
    match now.cast_signed() - mtime {
        ..3600 => "now".to_owned(),
        _ => mtime.to_string(),
    }
}
