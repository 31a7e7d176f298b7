//! Limits and scheduling of the calling process.

#![allow(unsafe_code)] // ioprio_set, sched_setattr

use crate::Result;
use crate::sys::check_long;
use rustix::process::{Resource, Rlimit};

/// Sets a resource limit; `None` is infinity. `EPERM` when the hard limit
/// would rise without CAP_SYS_RESOURCE.
pub fn set_limit(resource: Resource, soft: Option<u64>, hard: Option<u64>) -> Result<()> {
    let limit = Rlimit {
        current: soft,
        maximum: hard,
    };
    rustix::process::setrlimit(resource, limit)
}

/// Sets the I/O priority: class 1 real-time, 2 best-effort, 3 idle; level 0
/// (high) to 7 (low).
pub fn set_io_priority(class: u8, level: u8) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    let value = (libc::c_int::from(class) << 13) | libc::c_int::from(level);
    // SAFETY: integer arguments only.
    check_long(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) })
        .map(drop)
}

/// The kernel's `struct sched_attr`, version 0.
#[repr(C)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets the scheduling policy (`SCHED_…`) with its nice value, or its static
/// priority for the real-time policies.
pub fn set_scheduler(policy: u32, flags: u64, nice: i32, priority: u32) -> Result<()> {
    let mut attributes = SchedulerAttributes {
        size: size_of::<SchedulerAttributes>() as u32,
        policy,
        flags,
        nice,
        priority,
        runtime: 0,
        deadline: 0,
        period: 0,
    };
    // SAFETY: `attributes` carries its own size and outlives the call.
    check_long(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw mut attributes, 0) })
        .map(drop)
}
