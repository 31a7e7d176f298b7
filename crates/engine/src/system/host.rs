//! What this machine is.

use std::fs;
use std::path::Path;

/// Processor, in Go's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

pub fn kernel() -> String {
    text(rustix::system::uname().release())
}

pub fn name() -> String {
    text(rustix::system::uname().nodename())
}

/// The kind of file system at a path, in Docker's words.
pub fn filesystem(path: &Path) -> &'static str {
    let kind = rustix::fs::statfs(path).map_or(0, |found| found.f_type);
    match kind {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x6573_5546 => "fuse",
        0x6969 => "nfs",
        _ => "<unknown>",
    }
}

/// Processor, in the kernel's words.
pub fn machine() -> String {
    text(rustix::system::uname().machine())
}

fn text(value: &std::ffi::CStr) -> String {
    value.to_string_lossy().into_owned()
}

/// The distribution, as its `os-release` has it: for people, and its version.
pub fn distribution() -> (String, String) {
    let found = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let value = |key: &str| {
        let line = found.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default()
            .trim_matches(['"', '\''])
            .to_owned()
    };
    let pretty = value("PRETTY_NAME=");
    let shown = if pretty.is_empty() {
        "Linux".to_owned()
    } else {
        pretty
    };
    (shown, value("VERSION_ID="))
}

/// Bytes of memory.
pub fn memory() -> u64 {
    let found = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = found
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whether cgroups are v2 alone.
pub fn is_cgroup_v2() -> bool {
    fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false)
}

/// Stays the same on this machine.
pub fn machine_id() -> String {
    let found = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    found.trim().to_owned()
}

/// Whether packets of IPv4 are forwarded.
pub fn forwards() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}
