//! Names, types and labels of the metrics, as a kubelet's `/metrics/cadvisor` has always had them:
//! dashboards and alerts are written against these.

use berth_api::cri::v1::{MetricDescriptor, MetricType};

pub struct Definition {
    pub name: &'static str,
    help: &'static str,
    pub kind: MetricType,
    /// Beyond [`BASE_LABELS`], in the order in which values are given.
    pub labels: &'static [&'static str],
}

/// Sorted, as kubelets expect them.
pub const BASE_LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

pub fn descriptor(definition: &Definition) -> MetricDescriptor {
    let labels = BASE_LABELS.iter().chain(definition.labels);
    MetricDescriptor {
        name: definition.name.to_owned(),
        help: definition.help.to_owned(),
        label_keys: labels.map(|label| (*label).to_owned()).collect(),
    }
}

/// Declares every metric once: a constant to tell values by, and its place in [`ALL`].
macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub const $constant: Definition = Definition {
            name: $name,
            help: $help,
            kind: MetricType::$kind,
            labels: &[$($label),*],
        };)*
        pub const ALL: &[Definition] = &[$($constant),*];
    };
}

metrics! {
    LAST_SEEN: Gauge "container_last_seen" []
        "Last time a container was seen by the exporter";
    START_TIME: Gauge "container_start_time_seconds" []
        "Start time of the container since unix epoch in seconds.";

    CPU_USER: Counter "container_cpu_user_seconds_total" []
        "Cumulative user cpu time consumed in seconds.";
    CPU_SYSTEM: Counter "container_cpu_system_seconds_total" []
        "Cumulative system cpu time consumed in seconds.";
    CPU_USAGE: Counter "container_cpu_usage_seconds_total" ["cpu"]
        "Cumulative cpu time consumed in seconds.";
    CPU_PERIODS: Counter "container_cpu_cfs_periods_total" []
        "Number of elapsed enforcement period intervals.";
    CPU_THROTTLED_PERIODS: Counter "container_cpu_cfs_throttled_periods_total" []
        "Number of throttled period intervals.";
    CPU_THROTTLED: Counter "container_cpu_cfs_throttled_seconds_total" []
        "Total time duration the container has been throttled.";
    CPU_LOAD: Gauge "container_cpu_load_average_10s" []
        "Value of container cpu load average over the last 10 seconds.";
    TASKS: Gauge "container_tasks_state" ["state"]
        "Number of tasks in given state";

    MEMORY_CACHE: Gauge "container_memory_cache" []
        "Number of bytes of page cache memory.";
    MEMORY_RSS: Gauge "container_memory_rss" []
        "Size of RSS in bytes.";
    MEMORY_MAPPED: Gauge "container_memory_mapped_file" []
        "Size of memory mapped files in bytes.";
    MEMORY_KERNEL: Gauge "container_memory_kernel_usage" []
        "Size of kernel memory allocated in bytes.";
    MEMORY_SWAP: Gauge "container_memory_swap" []
        "Container swap usage in bytes.";
    MEMORY_FAILCNT: Counter "container_memory_failcnt" []
        "Number of memory usage hits limits";
    MEMORY_USAGE: Gauge "container_memory_usage_bytes" []
        "Current memory usage in bytes, including all memory regardless of when it was accessed";
    MEMORY_PEAK: Gauge "container_memory_max_usage_bytes" []
        "Maximum memory usage recorded in bytes";
    MEMORY_WORKING_SET: Gauge "container_memory_working_set_bytes" []
        "Current working set in bytes.";
    MEMORY_ACTIVE_FILE: Gauge "container_memory_total_active_file_bytes" []
        "Current total active file in bytes.";
    MEMORY_INACTIVE_FILE: Gauge "container_memory_total_inactive_file_bytes" []
        "Current total inactive file in bytes.";
    MEMORY_FAILURES: Counter "container_memory_failures_total" ["failure_type", "scope"]
        "Cumulative count of memory allocation failures.";
    OOM_EVENTS: Counter "container_oom_events_total" []
        "Count of out of memory events observed for the container";

    HUGETLB_FAILCNT: Counter "container_hugetlb_failcnt" ["pagesize"]
        "Number of hugepage usage hits limits";
    HUGETLB_USAGE: Gauge "container_hugetlb_usage_bytes" ["pagesize"]
        "Current hugepage usage in bytes";
    HUGETLB_PEAK: Gauge "container_hugetlb_max_usage_bytes" ["pagesize"]
        "Maximum hugepage usage recorded in bytes";

    FS_INODES_FREE: Gauge "container_fs_inodes_free" ["device"]
        "Number of available Inodes";
    FS_INODES: Gauge "container_fs_inodes_total" ["device"]
        "Number of Inodes";
    FS_LIMIT: Gauge "container_fs_limit_bytes" ["device"]
        "Number of bytes that can be consumed by the container on this filesystem.";
    FS_USAGE: Gauge "container_fs_usage_bytes" ["device"]
        "Number of bytes that are consumed by the container on this filesystem.";
    FS_READ_BYTES: Counter "container_fs_reads_bytes_total" ["device"]
        "Cumulative count of bytes read";
    FS_READS: Counter "container_fs_reads_total" ["device"]
        "Cumulative count of reads completed";
    FS_SECTOR_READS: Counter "container_fs_sector_reads_total" ["device"]
        "Cumulative count of sector reads completed";
    FS_READS_MERGED: Counter "container_fs_reads_merged_total" ["device"]
        "Cumulative count of reads merged";
    FS_READ_TIME: Counter "container_fs_read_seconds_total" ["device"]
        "Cumulative count of seconds spent reading";
    FS_WRITE_BYTES: Counter "container_fs_writes_bytes_total" ["device"]
        "Cumulative count of bytes written";
    FS_WRITES: Counter "container_fs_writes_total" ["device"]
        "Cumulative count of writes completed";
    FS_SECTOR_WRITES: Counter "container_fs_sector_writes_total" ["device"]
        "Cumulative count of sector writes completed";
    FS_WRITES_MERGED: Counter "container_fs_writes_merged_total" ["device"]
        "Cumulative count of writes merged";
    FS_WRITE_TIME: Counter "container_fs_write_seconds_total" ["device"]
        "Cumulative count of seconds spent writing";
    FS_IO_CURRENT: Gauge "container_fs_io_current" ["device"]
        "Number of I/Os currently in progress";
    FS_IO_TIME: Counter "container_fs_io_time_seconds_total" ["device"]
        "Cumulative count of seconds spent doing I/Os";
    BLKIO: Counter "container_blkio_device_usage_total" ["device", "major", "minor", "operation"]
        "Blkio Device bytes usage";

    NETWORK_RECEIVE_BYTES: Counter "container_network_receive_bytes_total" ["interface"]
        "Cumulative count of bytes received";
    NETWORK_RECEIVE_PACKETS: Counter "container_network_receive_packets_total" ["interface"]
        "Cumulative count of packets received";
    NETWORK_RECEIVE_DROPPED: Counter "container_network_receive_packets_dropped_total" ["interface"]
        "Cumulative count of packets dropped while receiving";
    NETWORK_RECEIVE_ERRORS: Counter "container_network_receive_errors_total" ["interface"]
        "Cumulative count of errors encountered while receiving";
    NETWORK_TRANSMIT_BYTES: Counter "container_network_transmit_bytes_total" ["interface"]
        "Cumulative count of bytes transmitted";
    NETWORK_TRANSMIT_PACKETS: Counter "container_network_transmit_packets_total" ["interface"]
        "Cumulative count of packets transmitted";
    NETWORK_TRANSMIT_DROPPED: Counter "container_network_transmit_packets_dropped_total" ["interface"]
        "Cumulative count of packets dropped while transmitting";
    NETWORK_TRANSMIT_ERRORS: Counter "container_network_transmit_errors_total" ["interface"]
        "Cumulative count of errors encountered while transmitting";

    PROCESSES: Gauge "container_processes" []
        "Number of processes running inside the container.";
    DESCRIPTORS: Gauge "container_file_descriptors" []
        "Number of open file descriptors for the container.";
    SOCKETS: Gauge "container_sockets" []
        "Number of open sockets for the container.";
    THREADS: Gauge "container_threads" []
        "Number of threads running inside the container";
    THREADS_MAX: Gauge "container_threads_max" []
        "Maximum number of threads allowed inside the container, infinity if value is zero";
    ULIMITS: Gauge "container_ulimits_soft" ["ulimit"]
        "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice";

    PRESSURE_CPU_STALLED: Counter "container_pressure_cpu_stalled_seconds_total" []
        "Total time duration no tasks in the container could make progress due to CPU congestion.";
    PRESSURE_CPU_WAITING: Counter "container_pressure_cpu_waiting_seconds_total" []
        "Total time duration tasks in the container have waited due to CPU congestion.";
    PRESSURE_MEMORY_STALLED: Counter "container_pressure_memory_stalled_seconds_total" []
        "Total time duration no tasks in the container could make progress due to memory congestion.";
    PRESSURE_MEMORY_WAITING: Counter "container_pressure_memory_waiting_seconds_total" []
        "Total time duration tasks in the container have waited due to memory congestion.";
    PRESSURE_IO_STALLED: Counter "container_pressure_io_stalled_seconds_total" []
        "Total time duration no tasks in the container could make progress due to IO congestion.";
    PRESSURE_IO_WAITING: Counter "container_pressure_io_waiting_seconds_total" []
        "Total time duration tasks in the container have waited due to IO congestion.";

    SPEC_CPU_PERIOD: Gauge "container_spec_cpu_period" []
        "CPU period of the container.";
    SPEC_CPU_QUOTA: Gauge "container_spec_cpu_quota" []
        "CPU quota of the container.";
    SPEC_CPU_SHARES: Gauge "container_spec_cpu_shares" []
        "CPU share of the container.";
    SPEC_MEMORY_LIMIT: Gauge "container_spec_memory_limit_bytes" []
        "Memory limit for the container.";
    SPEC_MEMORY_SWAP: Gauge "container_spec_memory_swap_limit_bytes" []
        "Memory swap limit for the container.";
    SPEC_MEMORY_RESERVATION: Gauge "container_spec_memory_reservation_limit_bytes" []
        "Memory reservation limit for the container.";
}
