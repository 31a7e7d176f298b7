//! The calls that unpacking makes; any other ends the worker.

use std::io;

use berth_kernel::{FilterFlags, SockFilter};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

const FILES: &[&str] = &[
    "close",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "fsetxattr",
    "fstat",
    "ftruncate",
    "linkat",
    "lseek",
    "mkdirat",
    "mknodat",
    "newfstatat",
    "openat",
    "openat2",
    "pread64",
    "pwrite64",
    "read",
    "readlinkat",
    "readv",
    "statx",
    "symlinkat",
    "unlinkat",
    "utimensat",
    "write",
    "writev",
];

/// To ask for a directory to be marked, and to answer.
const MESSAGES: &[&str] = &["recvmsg", "sendmsg"];

const PROCESS: &[&str] = &[
    "brk",
    "clock_gettime",
    "exit",
    "exit_group",
    "futex",
    "getpid",
    "getrandom",
    "gettid",
    "madvise",
    "mremap",
    "munmap",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "set_robust_list",
    "sigaltstack",
];

/// `CLONE_THREAD` of clone(2): threads may be made, processes not.
const THREAD: u64 = 0x1_0000;
const PROT_EXEC: u64 = 4;
/// `F_GETFD`, `F_GETFL` and `F_DUPFD_CLOEXEC` of fcntl(2).
const FCNTL: [u64; 3] = [1, 3, 1030];
/// `PR_SET_NAME` of prctl(2).
const SET_NAME: u64 = 15;
const ENOSYS: u32 = 38;
/// Arguments that the kernel takes as `int`.
const LOW_HALF: u64 = 0xffff_ffff;

fn profile() -> LinuxSeccomp {
    let mut rules = vec![
        allow(FILES),
        allow(MESSAGES),
        allow(PROCESS),
        allow_if("clone", masked(0, THREAD, THREAD)),
        // Its flags are in memory, where a filter cannot look: libraries fall back to clone.
        missing("clone3"),
        allow_if("prctl", masked(0, LOW_HALF, SET_NAME)),
        // To ask, not to set.
        allow_if("prlimit64", masked(2, u64::MAX, 0)),
    ];
    rules.extend(FCNTL.map(|command| allow_if("fcntl", masked(1, LOW_HALF, command))));
    rules.extend(["mmap", "mprotect"].map(|name| allow_if(name, masked(2, PROT_EXEC, 0))));
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActKillProcess)
        .set_syscalls(Some(rules));
    profile
}

/// Puts the calling thread, and those that it starts, under the filter.
pub(crate) fn load() -> io::Result<()> {
    let program = berth_seccomp::compile(&profile()).map_err(io::Error::other)?;
    let program: Vec<SockFilter> = program
        .instructions
        .iter()
        .map(|instruction| SockFilter {
            code: instruction.code,
            jt: instruction.jt,
            jf: instruction.jf,
            k: instruction.k,
        })
        .collect();
    // What a hostile archive could learn by speculation is the archive itself; its decoders are
    // what a pull waits for.
    let flags = FilterFlags {
        allow_speculation: true,
        ..FilterFlags::default()
    };
    let loaded = berth_kernel::load_filter(&program, flags);
    loaded.map(drop).map_err(|errno| {
        let cause = io::Error::from(errno);
        io::Error::new(cause.kind(), format!("loading the filter: {cause}"))
    })
}

fn allow(names: &[&str]) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow)
}

fn allow_if(name: &str, condition: LinuxSeccompArg) -> LinuxSyscall {
    let mut rule = allow(&[name]);
    rule.set_args(Some(vec![condition]));
    rule
}

fn missing(name: &str) -> LinuxSyscall {
    let mut rule = rule(&[name], LinuxSeccompAction::ScmpActErrno);
    rule.set_errno_ret(Some(ENOSYS));
    rule
}

fn rule(names: &[&str], action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect())
        .set_action(action);
    rule
}

/// The bits of `mask` in an argument are `value`. The specification's type can only be made by a
/// builder, which fails only for fields that are not given.
fn masked(index: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .value(mask)
        .value_two(value)
        .build()
        .unwrap_or_default()
}
