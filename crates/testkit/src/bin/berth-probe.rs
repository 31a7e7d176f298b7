//! What a container looks like from inside, a line for each fact, so that two
//! runtimes can be compared line by line. Ends with the status that its first
//! argument names.
//!
//! It is linked statically, reads only files and needs nothing beside it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;

const STATUS: [&str; 14] = [
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "SigBlk",
    "SigIgn",
    "SigCgt",
];
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
const FILES: [&str; 13] = [
    "/proc/self/oom_score_adj",
    "/proc/self/personality",
    "/proc/self/timerslack_ns",
    "/proc/self/cgroup",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname",
    "/proc/sys/kernel/shmmax",
    "/proc/sys/kernel/msgmax",
    "/proc/sys/fs/mqueue/msg_max",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    "/proc/kcore",
    "/bound/file",
];
/// Of the hierarchies of version 1, and of the one tree of version 2.
const CGROUP_FILES: [&str; 31] = [
    "memory/memory.limit_in_bytes",
    "memory/memory.soft_limit_in_bytes",
    "memory/memory.memsw.limit_in_bytes",
    "cpu/cpu.shares",
    "cpu/cpu.cfs_quota_us",
    "cpu/cpu.cfs_period_us",
    "pids/pids.max",
    "cpuset/cpuset.cpus",
    "cpuset/cpuset.mems",
    "devices/devices.list",
    "cgroup.controllers",
    "cgroup.type",
    "cgroup.freeze",
    "cgroup.max.depth",
    "cpu.weight",
    "cpu.idle",
    "cpu.max",
    "cpu.max.burst",
    "cpuset.cpus",
    "cpuset.cpus.effective",
    "cpuset.mems",
    "hugetlb.2MB.max",
    "io.max",
    "io.weight",
    "memory.high",
    "memory.low",
    "memory.max",
    "memory.min",
    "memory.oom.group",
    "memory.swap.max",
    "pids.max",
];
/// Where a file is tried to be made.
const PLACES: [&str; 9] = [
    "/",
    "/tmp",
    "/proc/sys/kernel",
    "/sys",
    "/dev",
    "/bound",
    "/scratch",
    "/dev/shm",
    "/sys/fs/cgroup",
];

fn main() -> ExitCode {
    let mut lines = Vec::new();
    identity(&mut lines);
    kernel_files(&mut lines);
    mounts(&mut lines);
    devices(&mut lines);
    attempts(&mut lines);
    let mut out = std::io::stdout();
    for line in lines {
        if writeln!(out, "{line}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    let status = std::env::args().nth(1).and_then(|text| text.parse().ok());
    ExitCode::from(status.unwrap_or(0))
}

fn identity(lines: &mut Vec<String>) {
    lines.push(format!("args {:?}", std::env::args().collect::<Vec<_>>()));
    for (name, value) in std::env::vars() {
        lines.push(format!("env {name}={value}"));
    }
    let directory = std::env::current_dir().map(|path| path.display().to_string());
    lines.push(format!("cwd {}", directory.unwrap_or_else(words)));
    lines.push(format!("pid {}", std::process::id()));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines() {
        if let Some((name, value)) = line.split_once(':')
            && STATUS.contains(&name)
        {
            let value: Vec<&str> = value.split_whitespace().collect();
            lines.push(format!("status {name} {}", value.join(" ")));
        }
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    for line in limits.lines().skip(1) {
        let line: Vec<&str> = line.split_whitespace().collect();
        lines.push(format!("limit {}", line.join(" ")));
    }
    // Priority, nice and policy (proc_pid_stat(5)), counted after the name.
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect();
    for (name, index) in [("nice", 16), ("policy", 38)] {
        lines.push(format!("{name} {}", fields.get(index).unwrap_or(&"")));
    }
    for kind in NAMESPACES {
        let link = fs::read_link(format!("/proc/self/ns/{kind}"));
        let link = link.map(|path| path.display().to_string());
        lines.push(format!("namespace {kind} {}", link.unwrap_or_else(words)));
    }
    let mut open: Vec<String> = fs::read_dir("/proc/self/fd")
        .map(|entries| {
            let names = entries.flatten().map(|entry| entry.file_name());
            names
                .map(|name| name.to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    open.sort();
    lines.push(format!("descriptors {}", open.join(" ")));
}

fn kernel_files(lines: &mut Vec<String>) {
    let cgroup = CGROUP_FILES.map(|name| format!("/sys/fs/cgroup/{name}"));
    for path in FILES.iter().map(ToString::to_string).chain(cgroup) {
        // A masked path is an empty file, and the real /proc/kcore is endless.
        let content = if path == "/proc/kcore" {
            File::open(&path)
                .and_then(|file| file.metadata())
                .map(|found| format!("{} bytes", found.len().min(1)))
        } else {
            fs::read_to_string(&path).map(|text| text.trim().replace('\n', " | "))
        };
        lines.push(format!("file {path} {}", content.unwrap_or_else(words)));
    }
}

/// In the order in which they were made: point, root, options, propagation,
/// type, options of the file system.
fn mounts(lines: &mut Vec<String>) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in table.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let mount: Vec<&str> = mount.split_whitespace().collect();
        let filesystem: Vec<&str> = filesystem.split_whitespace().collect();
        let (Some(options), Some(point)) = (mount.get(5), mount.get(4)) else {
            continue;
        };
        let propagation: Vec<&str> = mount[6..]
            .iter()
            .filter_map(|tag| tag.split(':').next())
            .collect();
        let propagation = propagation.join(",");
        let kind = filesystem.first().unwrap_or(&"");
        let data = filesystem.get(2).unwrap_or(&"");
        lines.push(format!(
            "mount {point} {kind} [{options}] [{propagation}] [{data}]"
        ));
    }
}

fn devices(lines: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir("/dev") else {
        return;
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(about) = fs::symlink_metadata(&path) else {
            continue;
        };
        let kind = about.file_type();
        let what = if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap_or_default();
            format!("link to {}", target.display())
        } else {
            let number = about.rdev();
            let (major, minor) = (
                (number >> 8) & 0xfff,
                (number & 0xff) | (number >> 12 & !0xff),
            );
            let owner = format!("{}:{}", about.uid(), about.gid());
            let opened = if kind.is_char_device() {
                may_open(&path)
            } else {
                "-".to_owned()
            };
            format!(
                "mode {:o} {owner} {major}:{minor} open {opened}",
                about.mode()
            )
        };
        found.push(format!("device {} {what}", path.display()));
    }
    found.sort();
    lines.extend(found);
}

fn may_open(path: &Path) -> String {
    /// So that a terminal does not become ours, and nothing is waited for.
    const O_NONBLOCK_NOCTTY: i32 = 0o4400;
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(O_NONBLOCK_NOCTTY);
    options.open(path).map_or_else(words, |_| "yes".to_owned())
}

/// What may be written, and what a system call answers.
fn attempts(lines: &mut Vec<String>) {
    for place in PLACES {
        let path = Path::new(place).join("probe-was-here");
        let made = File::create_new(&path).map(|_| "yes".to_owned());
        let _ = fs::remove_file(&path);
        lines.push(format!("write {place} {}", made.unwrap_or_else(words)));
    }
    let path = Path::new("/tmp/probe-directory");
    let made = fs::create_dir(path).map(|()| "yes".to_owned());
    let _ = fs::remove_dir(path);
    lines.push(format!("mkdir {}", made.unwrap_or_else(words)));
}

fn words<E: std::fmt::Display>(error: E) -> String {
    format!("({error})")
}
