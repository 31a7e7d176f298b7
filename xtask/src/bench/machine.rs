//! The machine, and memory of its processes.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What a figure depends on.
pub fn describe() -> Value {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    json!({
        "kernel": kernel.trim(),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_kib": field(&memory, "MemTotal:"),
    })
}

/// Pid of the process that listens on a socket.
pub fn peer(socket: &Path) -> Result<i32> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("connecting to {}", socket.display()))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)
        .with_context(|| format!("asking who listens on {}", socket.display()))?;
    Ok(peer.pid.as_raw_nonzero().get())
}

/// Resident memory of a process, in KiB.
pub fn resident(pid: i32) -> Result<u64> {
    memory_of(pid, "status", "VmRSS:")
}

/// Its proportional share of memory, in KiB.
pub fn share(pid: i32) -> Result<u64> {
    memory_of(pid, "smaps_rollup", "Pss:")
}

/// Who waits for a process: of a container's first one, the shim.
pub fn parent(pid: i32) -> Result<i32> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let parent = field(&text, "PPid:").and_then(|pid| i32::try_from(pid).ok());
    parent.with_context(|| format!("no parent in {path}"))
}

fn memory_of(pid: i32, file: &str, key: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    field(&text, key).with_context(|| format!("no {key} in {path}"))
}

/// The number of `Key:   123 kB`; the unit may be absent.
pub fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}
