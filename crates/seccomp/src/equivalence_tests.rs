//! A program decides as a direct reading of its profile does.

use crate::architecture::{ARM_PRIVATE, Architecture, Call, X32_BIT};
use crate::compile::{compile_for, filtered};
use crate::default_profile::{argument, default_profile_for};
use crate::error::Error;
use crate::interpreter::{Data, run};
use crate::table::TABLE;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use proptest::prelude::*;
use std::path::PathBuf;

const KILL_PROCESS: u32 = 0x8000_0000;
const ENOSYS: u32 = 0x0005_0026;

/// What the profile says about one call, without any program.
fn evaluate(native: Architecture, profile: &LinuxSeccomp, data: &Data) -> u32 {
    let filtered = filtered(native, profile);
    let x32 = filtered.contains(&Architecture::X32);
    let architecture = match data.architecture {
        0xc000_003e if data.number == u32::MAX && !x32 => Architecture::X86_64,
        0xc000_003e if data.number >= X32_BIT => Architecture::X32,
        0xc000_003e => Architecture::X86_64,
        0x4000_0003 => Architecture::X86,
        0xc000_00b7 => Architecture::Aarch64,
        0x4000_0028 => Architecture::Arm,
        _ => return KILL_PROCESS,
    };
    if !filtered.contains(&architecture) {
        return KILL_PROCESS;
    }
    let default = value(profile.default_action(), profile.default_errno_ret());
    let rules = profile.syscalls().clone().unwrap_or_default();
    let speaking: Vec<_> = rules
        .iter()
        .filter(|rule| value(rule.action(), rule.errno_ret()) != default)
        .filter_map(|rule| speaks(architecture, rule, data).map(|holds| (rule, holds)))
        .collect();
    let verdict = |rule: &LinuxSyscall| value(rule.action(), rule.errno_ret());
    if let Some((rule, _)) = speaking.iter().find(|(_, holds)| *holds == Holds::Always) {
        return verdict(rule);
    }
    if let Some((rule, _)) = speaking.iter().find(|(_, holds)| *holds == Holds::Now) {
        return verdict(rule);
    }
    let newest = rules
        .iter()
        .flat_map(|rule| rule.names())
        .filter_map(|name| architecture.number_of(name))
        .filter(|number| architecture != Architecture::Arm || *number < ARM_PRIVATE)
        .max();
    let lenient = matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow
            | LinuxSeccompAction::ScmpActLog
            | LinuxSeccompAction::ScmpActTrace
    );
    // A call with rules of its own is not new.
    let judged = !speaking.is_empty();
    match newest {
        Some(newest) if data.number > newest && !lenient && !judged => ENOSYS,
        _ => default,
    }
}

#[derive(PartialEq, Eq)]
enum Holds {
    Always,
    Now,
    NotNow,
}

/// `None` if the rule is about other calls.
fn speaks(architecture: Architecture, rule: &LinuxSyscall, data: &Data) -> Option<Holds> {
    let arguments = rule.args().clone().unwrap_or_default();
    let named = rule
        .names()
        .iter()
        .any(|name| architecture.number_of(name) == Some(data.number));
    if named && arguments.is_empty() {
        return Some(Holds::Always);
    }
    if named {
        let mut indices: Vec<_> = arguments.iter().map(LinuxSeccompArg::index).collect();
        indices.sort_unstable();
        indices.dedup();
        let mut each = arguments
            .iter()
            .map(|argument| holds(architecture, argument, data));
        let now = if indices.len() == arguments.len() {
            each.all(|holds| holds)
        } else {
            each.any(|holds| holds)
        };
        return Some(if now { Holds::Now } else { Holds::NotNow });
    }
    let inside: Vec<_> = rule
        .names()
        .iter()
        .filter_map(|name| architecture.multiplexed(Call::named(name)?))
        .filter(|inside| inside.number == data.number)
        .collect();
    if inside.is_empty() || !arguments.is_empty() {
        return None;
    }
    let now = inside
        .iter()
        .any(|inside| data.arguments[0] & 0xffff_ffff & inside.mask == inside.selector);
    Some(if now { Holds::Now } else { Holds::NotNow })
}

fn holds(architecture: Architecture, argument: &LinuxSeccompArg, data: &Data) -> bool {
    let width = if matches!(architecture, Architecture::X86 | Architecture::Arm) {
        0xffff_ffff
    } else {
        u64::MAX
    };
    let is = data.arguments[argument.index()] & width;
    let value = argument.value() & width;
    match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => is == value,
        LinuxSeccompOperator::ScmpCmpNe => is != value,
        LinuxSeccompOperator::ScmpCmpLt => is < value,
        LinuxSeccompOperator::ScmpCmpLe => is <= value,
        LinuxSeccompOperator::ScmpCmpGt => is > value,
        LinuxSeccompOperator::ScmpCmpGe => is >= value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            is & value == argument.value_two().unwrap_or(0) & width
        }
    }
}

fn value(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => 0x8000_0000,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActErrno => 0x0005_0000 | errno.unwrap_or(1),
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | errno.unwrap_or(1),
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
    }
}

const NAMES: &[&str] = &[
    "read",
    "mmap",
    "clone",
    "socket",
    "accept",
    "semctl",
    "semop",
    "shmat",
    "socketcall",
    "ipc",
    "personality",
    "ioctl",
    "clone3",
    "file_setattr",
    "execve",
    "set_tls",
    "no_such_call",
];

const VALUES: &[u64] = &[
    0,
    1,
    2,
    5,
    21,
    38,
    0x1_0015,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x1_0000_0026,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_0000_0000,
    u64::MAX - 1,
    u64::MAX,
];

fn any_value() -> impl Strategy<Value = u64> {
    prop_oneof![4 => prop::sample::select(VALUES), 1 => any::<u64>()]
}

fn any_argument() -> impl Strategy<Value = LinuxSeccompArg> {
    use LinuxSeccompOperator::{
        ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpLe, ScmpCmpLt, ScmpCmpMaskedEq, ScmpCmpNe,
    };
    let op = prop::sample::select(vec![
        ScmpCmpEq,
        ScmpCmpGe,
        ScmpCmpGt,
        ScmpCmpLe,
        ScmpCmpLt,
        ScmpCmpMaskedEq,
        ScmpCmpNe,
    ]);
    (0..3usize, op, any_value(), prop::option::of(any_value()))
        .prop_map(|(index, op, value, two)| argument(index, op, value, two))
}

fn any_action() -> impl Strategy<Value = (LinuxSeccompAction, Option<u32>)> {
    use LinuxSeccompAction::{
        ScmpActAllow, ScmpActErrno, ScmpActKill, ScmpActKillProcess, ScmpActLog, ScmpActTrace,
        ScmpActTrap,
    };
    prop_oneof![
        prop::sample::select(vec![
            (ScmpActAllow, None),
            (ScmpActKill, None),
            (ScmpActKillProcess, None),
            (ScmpActLog, None),
            (ScmpActTrap, None),
            (ScmpActErrno, None),
            (ScmpActErrno, Some(38)),
            (ScmpActTrace, Some(7)),
        ]),
        (0..4096u32).prop_map(|errno| (ScmpActErrno, Some(errno))),
    ]
}

prop_compose! {
    fn any_rule()(
        names in prop::collection::vec(prop::sample::select(NAMES), 0..4),
        (action, errno) in any_action(),
        args in prop::collection::vec(any_argument(), 0..4),
    ) -> LinuxSyscall {
        let mut rule = LinuxSyscall::default();
        rule.set_names(names.into_iter().map(str::to_owned).collect())
            .set_action(action)
            .set_errno_ret(errno)
            .set_args(Some(args));
        rule
    }
}

prop_compose! {
    fn any_profile()(
        (action, errno) in any_action(),
        architectures in prop::sample::subsequence(
            vec![
                Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32, Arch::ScmpArchArm,
                Arch::ScmpArchS390x,
            ],
            0..=5,
        ),
        rules in prop::collection::vec(any_rule(), 0..12),
    ) -> LinuxSeccomp {
        let mut profile = LinuxSeccomp::default();
        profile
            .set_default_action(action)
            .set_default_errno_ret(errno)
            .set_architectures(Some(architectures))
            .set_syscalls(Some(rules));
        profile
    }
}

prop_compose! {
    fn any_data()(
        on in prop::sample::select(vec![
            Architecture::X86_64, Architecture::X86, Architecture::X32, Architecture::Aarch64,
            Architecture::Arm,
        ]),
        name in prop::sample::select(NAMES),
        nudge in -1..=1i32,
        odd in prop::option::weighted(
            0.1,
            prop::sample::select(vec![0, 469, 470, X32_BIT - 1, X32_BIT, ARM_PRIVATE, u32::MAX]),
        ),
        arguments in prop::array::uniform6(any_value()),
        foreign in prop::option::weighted(0.05, any::<u32>()),
    ) -> Data {
        let number = on.number_of(name).unwrap_or(3).wrapping_add_signed(nudge);
        Data {
            number: odd.unwrap_or(number),
            architecture: foreign.unwrap_or(on.audit()),
            instruction_pointer: 0,
            arguments,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_profile_is_compiled_to_what_it_says(
        profile in any_profile(),
        native in prop::sample::select(vec![Architecture::X86_64, Architecture::Aarch64]),
        calls in prop::collection::vec(any_data(), 40),
    ) {
        let program = compile_for(native, &profile).unwrap();
        for data in calls {
            prop_assert_eq!(
                run(&program.instructions, &data),
                evaluate(native, &profile, &data),
                "{:?}",
                data
            );
        }
    }

    #[test]
    fn the_default_profile_is_compiled_to_what_it_says(
        native in prop::sample::select(vec![Architecture::X86_64, Architecture::Aarch64]),
        calls in prop::collection::vec(any_data(), 10),
    ) {
        let profile = default_profile_for(native, &[]);
        let program = compile_for(native, &profile).unwrap();
        for data in calls {
            prop_assert_eq!(
                run(&program.instructions, &data),
                evaluate(native, &profile, &data),
                "{:?}",
                data
            );
        }
    }
}

fn rule(name: &str, action: LinuxSeccompAction, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(vec![name.to_owned()])
        .set_action(action)
        .set_args(Some(args));
    rule
}

fn profile(action: LinuxSeccompAction, rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(action).set_syscalls(Some(rules));
    profile
}

/// Every call of the table with a condition and an error number of its own.
fn large(conditions: usize) -> LinuxSeccomp {
    let rules = TABLE.iter().enumerate().map(|(at, (name, _))| {
        let args = (0..conditions)
            .map(|index| argument(index, LinuxSeccompOperator::ScmpCmpEq, at as u64, None))
            .collect();
        let mut rule = rule(name, LinuxSeccompAction::ScmpActErrno, args);
        rule.set_errno_ret(Some(at as u32 + 100));
        rule
    });
    profile(LinuxSeccompAction::ScmpActAllow, rules.collect())
}

#[test]
fn large_programs_keep_their_targets_and_too_large_ones_are_refused() {
    let profile = large(1);
    let program = compile_for(Architecture::X86_64, &profile).unwrap();
    assert!(program.instructions.len() > 1500);
    for (at, (name, _)) in TABLE.iter().enumerate() {
        let Some(number) = Architecture::X86_64.number_of(name) else {
            continue;
        };
        for (first, expected) in [
            (at as u64, 0x0005_0000 | (at as u32 + 100)),
            (1 << 40, 0x7fff_0000),
        ] {
            let mut data = Data {
                number,
                architecture: Architecture::X86_64.audit(),
                ..Data::default()
            };
            data.arguments[0] = first;
            assert_eq!(run(&program.instructions, &data), expected, "{name}");
        }
    }
    assert!(matches!(
        compile_for(Architecture::X86_64, &large(3)),
        Err(Error::TooLong { limit: 4096, .. })
    ));
}

#[test]
fn rules_that_cannot_work_are_refused() {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActErrno, ScmpActNotify, ScmpActTrace};
    let with = |action, errno| {
        let mut rule = rule("mount", action, Vec::new());
        rule.set_errno_ret(errno);
        profile(ScmpActErrno, vec![rule])
    };
    let mut sixth = profile(ScmpActErrno, Vec::new());
    let condition = argument(6, LinuxSeccompOperator::ScmpCmpEq, 0, None);
    sixth.set_syscalls(Some(vec![rule("mount", ScmpActAllow, vec![condition])]));
    let mut default_errno = profile(ScmpActAllow, Vec::new());
    default_errno.set_default_errno_ret(Some(1));
    let mut relative = profile(ScmpActErrno, vec![rule("mount", ScmpActNotify, Vec::new())]);
    relative.set_listener_path(Some(PathBuf::from("agent.sock")));
    for (name, bad) in [
        ("errno too large", with(ScmpActErrno, Some(4096))),
        ("trace data too large", with(ScmpActTrace, Some(0x1_0000))),
        ("errno of an action without", with(ScmpActAllow, Some(1))),
        ("errno of a default without", default_errno),
        ("seventh argument", sixth),
        ("default notifies", profile(ScmpActNotify, Vec::new())),
        (
            "write notifies",
            profile(ScmpActErrno, vec![rule("write", ScmpActNotify, Vec::new())]),
        ),
        (
            "nobody to notify",
            profile(ScmpActErrno, vec![rule("mount", ScmpActNotify, Vec::new())]),
        ),
        ("a relative way to who is notified", relative),
    ] {
        assert!(compile_for(Architecture::X86_64, &bad).is_err(), "{name}");
    }
}

#[test]
fn flags_listener_and_unknown_names_come_with_the_program() {
    use LinuxSeccompFilterFlag::{
        SeccompFilterFlagLog, SeccompFilterFlagTsync, SeccompFilterFlagWaitKillableRecv,
    };
    let mut profile = profile(
        LinuxSeccompAction::ScmpActErrno,
        vec![
            rule("mount", LinuxSeccompAction::ScmpActNotify, Vec::new()),
            rule("zz_new", LinuxSeccompAction::ScmpActAllow, Vec::new()),
            rule("aa_new", LinuxSeccompAction::ScmpActAllow, Vec::new()),
        ],
    );
    profile.set_listener_path(Some(PathBuf::from("/run/agent.sock")));
    let program = compile_for(Architecture::X86_64, &profile).unwrap();
    assert!(program.flags.allow_speculation && program.flags.new_listener);
    assert_eq!(program.flags.bits(), 1 << 2 | 1 << 3);
    assert_eq!(
        program.listener.unwrap().path,
        PathBuf::from("/run/agent.sock")
    );
    assert_eq!(program.unknown, ["aa_new", "zz_new"]);

    profile.set_flags(Some(vec![
        SeccompFilterFlagLog,
        SeccompFilterFlagTsync,
        SeccompFilterFlagWaitKillableRecv,
    ]));
    let program = compile_for(Architecture::X86_64, &profile).unwrap();
    assert_eq!(program.flags.bits(), 1 << 1 | 1 << 3 | 1 << 5);
}

#[test]
fn the_kernel_takes_the_default_profile_and_obeys_it() {
    let Ok(native) = Architecture::native() else {
        eprintln!("skipped: needs an architecture with filters");
        return;
    };
    let profile = default_profile_for(native, &[]);
    let program = compile_for(native, &profile).unwrap();
    let filter: Vec<_> = program
        .instructions
        .iter()
        .map(|i| berth_kernel::SockFilter {
            code: i.code,
            jt: i.jt,
            jf: i.jf,
            k: i.k,
        })
        .collect();
    // A filter belongs to the thread that loads it, so this one is given up.
    let outcome = std::thread::spawn(move || {
        use rustix::net::{AddressFamily, SocketType, socket};
        rustix::thread::set_no_new_privs(true).unwrap();
        berth_kernel::load_filter(&filter, berth_kernel::FilterFlags::default()).unwrap();
        let errno = |family| socket(family, SocketType::SEQPACKET, None).err();
        (
            errno(AddressFamily::from_raw(38)),
            errno(AddressFamily::from_raw(40)),
            errno(AddressFamily::UNIX),
            rustix::process::chroot("/").err(),
        )
    })
    .join()
    .unwrap();
    use rustix::io::Errno;
    assert_eq!(
        outcome,
        (
            Some(Errno::PERM),
            Some(Errno::PERM),
            None,
            Some(Errno::PERM)
        )
    );
}
