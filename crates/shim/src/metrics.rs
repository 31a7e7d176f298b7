//! Statistics in the messages that containerd's clients know.

use berth_cgroups::{BlockIo, CgroupStats};
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::{Error, Message};

use crate::engine::Metrics;

/// For hosts whose controllers are in v1 hierarchies.
pub fn legacy(stats: &CgroupStats, oom_kills: u64) -> Result<Metrics, Error> {
    let mut message = v1::Metrics::new();
    let pids = message.pids.mut_or_insert_default();
    pids.current = stats.pids.current;
    pids.limit = stats.pids.limit.unwrap_or_default();
    let cpu = message.cpu.mut_or_insert_default();
    let usage = cpu.usage.mut_or_insert_default();
    usage.total = stats.cpu.usage_ns;
    usage.user = stats.cpu.user_ns;
    usage.kernel = stats.cpu.system_ns;
    let throttling = cpu.throttling.mut_or_insert_default();
    throttling.periods = stats.cpu.periods;
    throttling.throttled_periods = stats.cpu.throttled_periods;
    throttling.throttled_time = stats.cpu.throttled_ns;
    let memory = message.memory.mut_or_insert_default();
    memory.rss = stats.memory.rss;
    memory.cache = stats.memory.cache;
    memory.mapped_file = stats.memory.mapped_file;
    memory.pg_fault = stats.memory.page_faults;
    memory.pg_maj_fault = stats.memory.major_page_faults;
    memory.total_rss = stats.memory.rss;
    memory.total_cache = stats.memory.cache;
    memory.total_active_file = stats.memory.active_file;
    memory.total_inactive_file = stats.memory.inactive_file;
    let usage = memory.usage.mut_or_insert_default();
    usage.usage = stats.memory.usage;
    usage.limit = stats.memory.limit.unwrap_or(u64::MAX);
    let swap = memory.swap.mut_or_insert_default();
    swap.usage = stats.memory.usage.saturating_add(stats.memory.swap);
    message.memory_oom_control.mut_or_insert_default().oom_kill = oom_kills;
    let blkio = message.blkio.mut_or_insert_default();
    for device in &stats.io {
        blkio.io_service_bytes_recursive.extend([
            entry(device, "Read", device.read_bytes),
            entry(device, "Write", device.write_bytes),
        ]);
        blkio.io_serviced_recursive.extend([
            entry(device, "Read", device.read_operations),
            entry(device, "Write", device.write_operations),
        ]);
    }
    encoded("io.containerd.cgroups.v1.Metrics", &message)
}

fn entry(device: &BlockIo, operation: &str, value: u64) -> v1::BlkIOEntry {
    let mut entry = v1::BlkIOEntry::new();
    operation.clone_into(&mut entry.op);
    entry.major = device.major.into();
    entry.minor = device.minor.into();
    entry.value = value;
    entry
}

/// For hosts whose controllers are in the unified tree.
pub fn unified(stats: &CgroupStats, oom_kills: u64) -> Result<Metrics, Error> {
    let mut message = v2::Metrics::new();
    let pids = message.pids.mut_or_insert_default();
    pids.current = stats.pids.current;
    pids.limit = stats.pids.limit.unwrap_or_default();
    let cpu = message.cpu.mut_or_insert_default();
    cpu.usage_usec = stats.cpu.usage_ns / 1000;
    cpu.user_usec = stats.cpu.user_ns / 1000;
    cpu.system_usec = stats.cpu.system_ns / 1000;
    cpu.nr_periods = stats.cpu.periods;
    cpu.nr_throttled = stats.cpu.throttled_periods;
    cpu.throttled_usec = stats.cpu.throttled_ns / 1000;
    let memory = message.memory.mut_or_insert_default();
    memory.anon = stats.memory.rss;
    memory.file = stats.memory.cache;
    memory.file_mapped = stats.memory.mapped_file;
    memory.active_file = stats.memory.active_file;
    memory.inactive_file = stats.memory.inactive_file;
    memory.pgfault = stats.memory.page_faults;
    memory.pgmajfault = stats.memory.major_page_faults;
    memory.usage = stats.memory.usage;
    memory.usage_limit = stats.memory.limit.unwrap_or(u64::MAX);
    memory.swap_usage = stats.memory.swap;
    memory.swap_limit = stats.memory.swap_limit.unwrap_or(u64::MAX);
    message.memory_events.mut_or_insert_default().oom_kill = oom_kills;
    let io = message.io.mut_or_insert_default();
    for device in &stats.io {
        let mut entry = v2::IOEntry::new();
        entry.major = device.major.into();
        entry.minor = device.minor.into();
        entry.rbytes = device.read_bytes;
        entry.wbytes = device.write_bytes;
        entry.rios = device.read_operations;
        entry.wios = device.write_operations;
        io.usage.push(entry);
    }
    encoded("io.containerd.cgroups.v2.Metrics", &message)
}

fn encoded(type_url: &str, message: &impl Message) -> Result<Metrics, Error> {
    Ok(Metrics {
        type_url: type_url.to_owned(),
        value: message.write_to_bytes()?,
    })
}
