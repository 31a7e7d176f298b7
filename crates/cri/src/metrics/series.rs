//! Values under one set of labels.

use berth_api::cri::v1::{self as cri, UInt64Value};
use berth_cgroups::{CgroupStats, IoCounter, Limits, MemoryStats, Pressure};
use berth_lifecycle::record::Nanos;
use berth_lifecycle::{Details, Filesystem, Processes, WritableUsage};
use berth_network::InterfaceStats;

use super::definitions::{self as metric, Definition};

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;
/// What the kernel counts sectors in, whatever the device has.
const SECTOR: u64 = 512;

pub struct Series {
    labels: [String; 6],
    pub metrics: Vec<cri::Metric>,
}

impl Series {
    /// `labels` in the order of [`metric::BASE_LABELS`].
    pub fn new(labels: [String; 6]) -> Self {
        Self {
            labels,
            metrics: Vec::new(),
        }
    }

    /// Timestamps stay zero, which says that values were gathered live.
    fn add(&mut self, definition: &Definition, labels: &[&str], value: u64) {
        debug_assert_eq!(definition.labels.len(), labels.len(), "{}", definition.name);
        let own = labels.iter().map(|label| (*label).to_owned());
        self.metrics.push(cri::Metric {
            name: definition.name.to_owned(),
            timestamp: 0,
            metric_type: definition.kind as i32,
            label_values: self.labels.iter().cloned().chain(own).collect(),
            value: Some(UInt64Value { value }),
        });
    }

    pub fn times(&mut self, seen: Nanos, started: Nanos) {
        let seconds = |nanos: Nanos| u64::try_from(nanos).unwrap_or(0) / NANOS;
        self.add(&metric::LAST_SEEN, &[], seconds(seen));
        self.add(&metric::START_TIME, &[], seconds(started));
    }

    /// Everything that a cgroup accounts, of a container or of a pod.
    pub fn cgroup(&mut self, stats: &CgroupStats, details: &Details) {
        let quota = details.limits.cpu.and_then(|cpu| cpu.quota);
        self.cpu(stats, quota.is_some());
        self.memory(&stats.memory, details);
        self.hugepages(details);
        self.block_devices(details);
        self.limits(&details.limits);
        self.add(&metric::THREADS, &[], stats.pids.current);
        self.add(&metric::THREADS_MAX, &[], stats.pids.limit.unwrap_or(0));
        for (pressure, stalled, waiting) in [
            (
                &stats.cpu_pressure,
                &metric::PRESSURE_CPU_STALLED,
                &metric::PRESSURE_CPU_WAITING,
            ),
            (
                &stats.memory_pressure,
                &metric::PRESSURE_MEMORY_STALLED,
                &metric::PRESSURE_MEMORY_WAITING,
            ),
            (
                &stats.io_pressure,
                &metric::PRESSURE_IO_STALLED,
                &metric::PRESSURE_IO_WAITING,
            ),
        ] {
            if let Some(Pressure { some, full }) = pressure {
                self.add(stalled, &[], full.total_us / MICROS);
                self.add(waiting, &[], some.total_us / MICROS);
            }
        }
    }

    fn cpu(&mut self, stats: &CgroupStats, has_quota: bool) {
        let cpu = &stats.cpu;
        self.add(&metric::CPU_USER, &[], cpu.user_ns / NANOS);
        self.add(&metric::CPU_SYSTEM, &[], cpu.system_ns / NANOS);
        self.add(&metric::CPU_USAGE, &["total"], cpu.usage_ns / NANOS);
        if has_quota {
            self.add(&metric::CPU_PERIODS, &[], cpu.periods);
            self.add(&metric::CPU_THROTTLED_PERIODS, &[], cpu.throttled_periods);
            self.add(&metric::CPU_THROTTLED, &[], cpu.throttled_ns / NANOS);
        }
    }

    fn memory(&mut self, memory: &MemoryStats, details: &Details) {
        for (definition, value) in [
            (&metric::MEMORY_CACHE, memory.cache),
            (&metric::MEMORY_RSS, memory.rss),
            (&metric::MEMORY_MAPPED, memory.mapped_file),
            (&metric::MEMORY_KERNEL, details.memory.kernel),
            (&metric::MEMORY_SWAP, memory.swap),
            (&metric::MEMORY_FAILCNT, details.memory.limit_hits),
            (&metric::MEMORY_USAGE, memory.usage),
            (&metric::MEMORY_PEAK, details.memory.peak),
            (&metric::MEMORY_WORKING_SET, memory.working_set),
            (&metric::MEMORY_ACTIVE_FILE, memory.active_file),
            (&metric::MEMORY_INACTIVE_FILE, memory.inactive_file),
            (&metric::OOM_EVENTS, details.oom_kills),
        ] {
            self.add(definition, &[], value);
        }
        for (kind, scope, value) in [
            ("pgfault", "container", memory.own_page_faults),
            ("pgmajfault", "container", memory.own_major_page_faults),
            ("pgfault", "hierarchy", memory.page_faults),
            ("pgmajfault", "hierarchy", memory.major_page_faults),
        ] {
            self.add(&metric::MEMORY_FAILURES, &[kind, scope], value);
        }
    }

    fn hugepages(&mut self, details: &Details) {
        for pages in &details.hugepages {
            let size = [pages.page_size.as_str()];
            self.add(&metric::HUGETLB_FAILCNT, &size, pages.limit_hits);
            self.add(&metric::HUGETLB_USAGE, &size, pages.usage);
            if let Some(peak) = pages.peak {
                self.add(&metric::HUGETLB_PEAK, &size, peak);
            }
        }
    }

    fn block_devices(&mut self, details: &Details) {
        let io = &details.io;
        for counter in &io.bytes {
            let device = details.device(counter);
            let (major, minor) = (counter.major.to_string(), counter.minor.to_string());
            let labels = [&device, &major, &minor, counter.operation.as_str()];
            self.add(&metric::BLKIO, &labels, counter.value);
        }
        for (table, operation, definition, unit) in [
            (&io.bytes, "Read", &metric::FS_READ_BYTES, 1),
            (&io.bytes, "Write", &metric::FS_WRITE_BYTES, 1),
            (&io.bytes, "Read", &metric::FS_SECTOR_READS, SECTOR),
            (&io.bytes, "Write", &metric::FS_SECTOR_WRITES, SECTOR),
            (&io.operations, "Read", &metric::FS_READS, 1),
            (&io.operations, "Write", &metric::FS_WRITES, 1),
            (&io.merged, "Read", &metric::FS_READS_MERGED, 1),
            (&io.merged, "Write", &metric::FS_WRITES_MERGED, 1),
            (&io.service_time, "Read", &metric::FS_READ_TIME, NANOS),
            (&io.service_time, "Write", &metric::FS_WRITE_TIME, NANOS),
            (&io.service_time, "Total", &metric::FS_IO_TIME, NANOS),
            (&io.queued, "Total", &metric::FS_IO_CURRENT, 1),
        ] {
            let chosen = |counter: &&IoCounter| counter.operation == operation;
            for counter in table.iter().filter(chosen) {
                self.add(
                    definition,
                    &[&details.device(counter)],
                    counter.value / unit,
                );
            }
        }
    }

    /// No limit is told as zero, as ever.
    fn limits(&mut self, limits: &Limits) {
        if let Some(cpu) = &limits.cpu {
            self.add(&metric::SPEC_CPU_PERIOD, &[], cpu.period);
            self.add(&metric::SPEC_CPU_SHARES, &[], cpu.shares);
            if let Some(quota) = cpu.quota {
                self.add(&metric::SPEC_CPU_QUOTA, &[], quota);
            }
        }
        if let Some(memory) = &limits.memory {
            for (definition, value) in [
                (&metric::SPEC_MEMORY_LIMIT, memory.limit),
                (&metric::SPEC_MEMORY_SWAP, memory.swap),
                (&metric::SPEC_MEMORY_RESERVATION, memory.reservation),
            ] {
                self.add(definition, &[], value.unwrap_or(0));
            }
        }
    }

    pub fn processes(&mut self, found: &Processes, load: u64) {
        self.add(&metric::PROCESSES, &[], found.processes);
        self.add(&metric::DESCRIPTORS, &[], found.descriptors);
        self.add(&metric::SOCKETS, &[], found.sockets);
        if let Some(limit) = found.max_open_files {
            self.add(&metric::ULIMITS, &["max_open_files"], limit);
        }
        self.add(&metric::CPU_LOAD, &[], load);
        for (state, value) in [
            ("sleeping", found.states.sleeping),
            ("running", found.states.running),
            ("stopped", found.states.stopped),
            ("uninterruptible", found.states.uninterruptible),
        ] {
            self.add(&metric::TASKS, &[state], value);
        }
    }

    pub fn writable(&mut self, usage: &WritableUsage, layers: &Filesystem) {
        let device = [layers.source.as_str()];
        self.add(&metric::FS_USAGE, &device, usage.bytes);
        self.add(&metric::FS_LIMIT, &device, layers.bytes);
        self.add(&metric::FS_INODES, &device, layers.inodes);
        self.add(&metric::FS_INODES_FREE, &device, layers.inodes_free);
    }

    pub fn interface(&mut self, interface: &InterfaceStats) {
        let name = [interface.name.as_str()];
        let counters = &interface.counters;
        for (definition, value) in [
            (&metric::NETWORK_RECEIVE_BYTES, counters.rx_bytes),
            (&metric::NETWORK_RECEIVE_PACKETS, counters.rx_packets),
            (&metric::NETWORK_RECEIVE_DROPPED, counters.rx_dropped),
            (&metric::NETWORK_RECEIVE_ERRORS, counters.rx_errors),
            (&metric::NETWORK_TRANSMIT_BYTES, counters.tx_bytes),
            (&metric::NETWORK_TRANSMIT_PACKETS, counters.tx_packets),
            (&metric::NETWORK_TRANSMIT_DROPPED, counters.tx_dropped),
            (&metric::NETWORK_TRANSMIT_ERRORS, counters.tx_errors),
        ] {
            self.add(definition, &name, value);
        }
    }
}
