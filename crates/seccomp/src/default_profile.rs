//! The profile of containers that ask for the runtime's default.
//!
//! An allow list: what ordinary programs need, less what reaches the kernel's
//! administration, other processes or parts of the kernel with a history of
//! holes. What a capability is for is allowed with that capability. Refused
//! calls give EPERM; calls newer than the list give ENOSYS, so that programs
//! fall back.
//!
//! Left out on purpose: io_uring (its operations pass filters by), keyrings,
//! userfaultfd, kexec, swap, new mount and module calls without their
//! capability, `AF_ALG` sockets (kernel crypto is attack surface that nothing
//! in a container needs) and `AF_VSOCK` sockets (they reach the hypervisor
//! past every network policy).

mod calls;

use crate::architecture::Architecture;
use calls::{
    ARM_FAMILY, BY_CAPABILITY, FILES, IDENTITY, INPUT_OUTPUT, MEMORY, PROCESSES, SOCKETS,
    TIME_AND_SYSTEM, X86_FAMILY,
};
use oci_spec::runtime::{
    Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

/// `CLONE_NEW*` of clone(2): mount, cgroup, uts, ipc, user, pid, net.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Execution domains without the bits that weaken a process: plain Linux,
/// 32-bit reports (`PER_LINUX32`), `UNAME26`, both, and the query.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The kernel looks at this half of an `int` argument only, so a rule that
/// looked at both could be passed by with noise in the other.
const LOW_HALF: u64 = 0xffff_ffff;

/// Socket families, as (mask, value) over the low half, that cover 0 to 63
/// except AF_ALG (38) and AF_VSOCK (40). Written as "is one of" instead of
/// "is not": several "is not" rules on one argument would cancel out.
const SOCKET_FAMILIES: [(u64, u64); 7] = [
    (LOW_HALF & !31, 0),
    (LOW_HALF & !3, 32),
    (LOW_HALF & !1, 36),
    (LOW_HALF, 39),
    (LOW_HALF, 41),
    (LOW_HALF & !1, 42),
    (LOW_HALF & !3, 44),
];

/// The default profile for a container with these (bounding) capabilities, on
/// the architecture that this program was built for.
#[must_use]
pub fn default_profile(capabilities: &[Capability]) -> LinuxSeccomp {
    // Without a native filter `compile` refuses whatever is named here.
    let native = Architecture::native().unwrap_or(Architecture::X86_64);
    default_profile_for(native, capabilities)
}

/// [`default_profile`] for a given architecture.
#[must_use]
pub fn default_profile_for(native: Architecture, capabilities: &[Capability]) -> LinuxSeccomp {
    let family = native.family();
    let mut rules = vec![allow(
        [
            FILES,
            INPUT_OUTPUT,
            SOCKETS,
            MEMORY,
            PROCESSES,
            IDENTITY,
            TIME_AND_SYSTEM,
            if family.contains(&Architecture::X86_64) {
                X86_FAMILY
            } else {
                ARM_FAMILY
            },
        ]
        .concat(),
    )];
    let low = |(mask, value)| masked(0, mask, value);
    rules.extend(
        SOCKET_FAMILIES
            .map(low)
            .map(|family| allow_if("socket", family)),
    );
    rules.extend(
        PERSONALITIES
            .map(|domain| low((LOW_HALF, domain)))
            .map(|domain| allow_if("personality", domain)),
    );
    if !capabilities.contains(&Capability::SysAdmin) {
        rules.push(allow_if("clone", masked(0, NEW_NAMESPACES, 0)));
        // Its flags are in memory, where a filter cannot look; programs fall
        // back to clone if it does not exist.
        let mut missing = rule(vec!["clone3"], LinuxSeccompAction::ScmpActErrno);
        missing.set_errno_ret(Some(crate::policy::ENOSYS));
        rules.push(missing);
    }
    for (capability, names) in BY_CAPABILITY {
        if capabilities.contains(capability) {
            rules.push(allow(names.to_vec()));
        }
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_architectures(Some(family.iter().map(|arch| arch.to_oci()).collect()))
        .set_syscalls(Some(rules));
    profile
}

fn allow(names: Vec<&str>) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow)
}

fn allow_if(name: &str, condition: LinuxSeccompArg) -> LinuxSyscall {
    let mut rule = allow(vec![name]);
    rule.set_args(Some(vec![condition]));
    rule
}

fn rule(names: Vec<&str>, action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(str::to_owned).collect())
        .set_action(action);
    rule
}

fn masked(index: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    argument(
        index,
        LinuxSeccompOperator::ScmpCmpMaskedEq,
        mask,
        Some(value),
    )
}

/// The specification's type can only be made by a builder, which can fail only
/// for fields without a default; there are none.
pub(crate) fn argument(
    index: usize,
    op: LinuxSeccompOperator,
    value: u64,
    value_two: Option<u64>,
) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value);
    let builder = match value_two {
        Some(value_two) => builder.value_two(value_two),
        None => builder,
    };
    builder.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{Call, X32_BIT};
    use crate::compile::compile_for;
    use crate::interpreter::{Data, run};
    use crate::program::Program;

    const ALLOWED: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;
    const KILLED: u32 = 0x8000_0000;

    fn program(capabilities: &[Capability]) -> Program {
        let profile = default_profile_for(Architecture::X86_64, capabilities);
        compile_for(Architecture::X86_64, &profile).unwrap()
    }

    fn ask(program: &Program, on: Architecture, name: &str, arguments: &[u64]) -> u32 {
        let mut data = Data {
            number: on
                .number_of(name)
                .unwrap_or_else(|| panic!("{name} on {on:?}")),
            architecture: on.audit(),
            ..Data::default()
        };
        data.arguments[..arguments.len()].copy_from_slice(arguments);
        run(&program.instructions, &data)
    }

    #[test]
    fn every_name_is_a_system_call() {
        let all: Vec<_> = BY_CAPABILITY
            .iter()
            .map(|(capability, _)| *capability)
            .collect();
        for native in [Architecture::X86_64, Architecture::Aarch64] {
            for capabilities in [&all[..], &[]] {
                let profile = default_profile_for(native, capabilities);
                let program = compile_for(native, &profile).unwrap();
                assert_eq!(program.unknown, Vec::<String>::new());
                assert!(
                    program.instructions.len() < 1500,
                    "{}",
                    program.instructions.len()
                );
            }
        }
        assert!(Call::named("clone3").is_some());
    }

    #[test]
    fn ordinary_calls_pass_and_dangerous_ones_do_not() {
        let program = program(&[]);
        for on in Architecture::X86_64.family() {
            for name in [
                "read",
                "openat2",
                "execve",
                "mmap",
                "futex",
                "exit_group",
                "prctl",
                "statx",
            ] {
                assert_eq!(ask(&program, *on, name, &[]), ALLOWED, "{name} on {on:?}");
            }
            for name in [
                "io_uring_setup",
                "io_uring_enter",
                "io_uring_register",
                "keyctl",
                "add_key",
                "request_key",
                "userfaultfd",
                "kexec_load",
                "swapon",
                "pivot_root",
                "mount",
                "bpf",
                "unshare",
                "setns",
                "init_module",
                "reboot",
                "open_by_handle_at",
                "perf_event_open",
                "process_vm_readv",
                "pidfd_getfd",
                "chroot",
                "acct",
                "iopl",
                "move_mount",
                "fsopen",
                "settimeofday",
            ] {
                assert_eq!(ask(&program, *on, name, &[]), EPERM, "{name} on {on:?}");
            }
        }
    }

    #[test]
    fn crypto_and_hypervisor_sockets_are_refused_whatever_the_upper_half_says() {
        let program = program(&[Capability::SysAdmin]);
        for on in [Architecture::X86_64, Architecture::X32, Architecture::X86] {
            for family in 0..=47u64 {
                let expected = if family == 38 || family == 40 {
                    EPERM
                } else {
                    ALLOWED
                };
                assert_eq!(
                    ask(&program, on, "socket", &[family]),
                    expected,
                    "{family} on {on:?}"
                );
                let noise = family | 0xdead_beef << 32;
                assert_eq!(
                    ask(&program, on, "socket", &[noise]),
                    expected,
                    "{noise:x} on {on:?}"
                );
            }
            for family in [48, 64, 0xffff_ffff, 0x26 | 1 << 31] {
                assert_eq!(ask(&program, on, "socket", &[family]), EPERM);
            }
        }
    }

    #[test]
    fn the_old_way_to_a_socket_on_x86_is_closed_and_the_others_are_open() {
        let program = program(&[]);
        let through = |selector| ask(&program, Architecture::X86, "socketcall", &[selector]);
        assert_eq!(through(1), EPERM, "socket");
        for selector in 2..=20 {
            assert_eq!(through(selector), ALLOWED, "{selector}");
        }
        assert_eq!(through(21), EPERM);
        assert_eq!(ask(&program, Architecture::X86, "ipc", &[21]), ALLOWED);
        assert_eq!(
            ask(&program, Architecture::X86, "ipc", &[1 << 16 | 13]),
            ALLOWED
        );
        assert_eq!(ask(&program, Architecture::X86, "ipc", &[99]), EPERM);
    }

    #[test]
    fn namespaces_need_the_capability() {
        let plain = program(&[]);
        let admin = program(&[Capability::SysAdmin]);
        let x86_64 = Architecture::X86_64;
        for (flags, expected) in [
            (0x11, ALLOWED),
            (0x0001_0011, ALLOWED),
            (0x003d_0f00, ALLOWED),
            (0x1000_0011, EPERM),
            (0x0002_0000, EPERM),
            (0x4000_0000, EPERM),
            (0x0200_0000, EPERM),
        ] {
            assert_eq!(
                ask(&plain, x86_64, "clone", &[flags]),
                expected,
                "{flags:x}"
            );
            assert_eq!(ask(&admin, x86_64, "clone", &[flags]), ALLOWED, "{flags:x}");
        }
        assert_eq!(ask(&plain, x86_64, "clone3", &[]), ENOSYS);
        assert_eq!(ask(&admin, x86_64, "clone3", &[]), ALLOWED);
        for name in [
            "mount",
            "umount2",
            "setns",
            "unshare",
            "fsopen",
            "sethostname",
        ] {
            assert_eq!(ask(&admin, x86_64, name, &[]), ALLOWED, "{name}");
        }
    }

    #[test]
    fn each_capability_brings_its_calls_and_only_those() {
        for (capability, names) in BY_CAPABILITY {
            let with = program(&[*capability]);
            let without = program(&[]);
            for name in *names {
                let Some(_) = Architecture::X86_64.number_of(name) else {
                    continue;
                };
                let on = Architecture::X86_64;
                assert_eq!(
                    ask(&with, on, name, &[]),
                    ALLOWED,
                    "{name} with {capability}"
                );
                if *name != "clone" {
                    assert_ne!(ask(&without, on, name, &[]), ALLOWED, "{name} without");
                }
            }
            assert_eq!(ask(&with, Architecture::X86_64, "keyctl", &[]), EPERM);
        }
    }

    #[test]
    fn only_harmless_personalities_are_taken() {
        let program = program(&[]);
        for (domain, expected) in [
            (0, ALLOWED),
            (8, ALLOWED),
            (0x2_0000, ALLOWED),
            (0x2_0008, ALLOWED),
            (0xffff_ffff, ALLOWED),
            (u64::MAX, ALLOWED),
            (0x4_0000, EPERM),
            (0x40_0000, EPERM),
            (1, EPERM),
        ] {
            let on = Architecture::X86_64;
            assert_eq!(
                ask(&program, on, "personality", &[domain]),
                expected,
                "{domain:x}"
            );
        }
    }

    #[test]
    fn calls_of_the_future_do_not_exist_and_foreign_ones_kill() {
        let program = program(&[]);
        let at = |architecture, number| {
            let data = Data {
                number,
                architecture,
                ..Data::default()
            };
            run(&program.instructions, &data)
        };
        let x86_64 = Architecture::X86_64.audit();
        for number in [470, 500, 0x3fff_ffff, X32_BIT + 600, u32::MAX] {
            assert_eq!(at(x86_64, number), ENOSYS, "{number}");
        }
        assert_eq!(at(Architecture::X86.audit(), 500), ENOSYS);
        assert_eq!(at(Architecture::Aarch64.audit(), 0), KILLED);
        assert_eq!(at(0, 0), KILLED);
    }
}
