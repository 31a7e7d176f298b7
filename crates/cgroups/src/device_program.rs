//! Device rules as an eBPF program for the unified tree.
//!
//! v2 has no control file for devices: the kernel runs a program of type
//! `BPF_PROG_TYPE_CGROUP_DEVICE` on each access. Its context
//! (`struct bpf_cgroup_dev_ctx`) holds access and kind in one word, then
//! major and minor; it returns 1 to permit.
//!
//! The program asks the rules from the last to the first, and for each kind
//! of access (read, write, mknod) the first answer counts: what a later rule
//! says replaces what an earlier one said, as on v1. What no rule speaks of
//! is left to the parents.

use crate::devices::{DeviceKind, DeviceRule, EVERYTHING};

/// One eBPF instruction, laid out as the kernel's `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceInsn {
    pub code: u8,
    /// Destination register in the low half, source in the high half.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// The context, and after loading the rest the verdict.
const CONTEXT: u8 = 1;
const VERDICT: u8 = 0;
const KIND: u8 = 2;
/// Accesses that no rule has permitted yet.
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The program for `rules`, in their order. Pure; loading is the caller's.
#[must_use]
pub fn device_program(rules: &[DeviceRule]) -> Vec<DeviceInsn> {
    let mut program = vec![
        load(KIND, 0),
        insn(MOVE_REGISTER, ACCESS | KIND << 4, 0, 0),
        insn(SHIFT_RIGHT, ACCESS, 0, 16),
        insn(AND, KIND, 0, 0xffff),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        push_rule(&mut program, rule);
        if rule.is_total() {
            // It always answers; the verifier refuses code behind it.
            return program;
        }
    }
    push_verdict(&mut program, true);
    program
}

fn push_rule(program: &mut Vec<DeviceInsn>, rule: &DeviceRule) {
    let kind = match rule.kind {
        DeviceKind::Any => None,
        DeviceKind::Block => Some(1),
        DeviceKind::Char => Some(2),
    };
    let mut body = Vec::new();
    for (register, value) in [(KIND, kind), (MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(value) = value {
            body.push(insn(JUMP_NOT_EQUAL, register, NEXT_RULE, value));
        }
    }
    if rule.access != EVERYTHING {
        let mask = i32::from(rule.access);
        if rule.allow {
            body.push(insn(AND, ACCESS, 0, !mask));
            body.push(insn(JUMP_NOT_EQUAL, ACCESS, NEXT_RULE, 0));
        } else {
            body.push(insn(MOVE_REGISTER, VERDICT | ACCESS << 4, 0, 0));
            body.push(insn(AND, VERDICT, 0, mask));
            body.push(insn(JUMP_EQUAL, VERDICT, NEXT_RULE, 0));
        }
    }
    push_verdict(&mut body, rule.allow);
    let end = body.len();
    for (at, instruction) in body.iter_mut().enumerate() {
        if instruction.offset == NEXT_RULE {
            // A rule has at most ten instructions.
            instruction.offset = i16::try_from(end - at - 1).unwrap_or(0);
        }
    }
    program.append(&mut body);
}

/// Stands for the end of the rule until its length is known.
const NEXT_RULE: i16 = i16::MIN;

fn push_verdict(program: &mut Vec<DeviceInsn>, permit: bool) {
    program.push(insn(MOVE, VERDICT, 0, i32::from(permit)));
    program.push(insn(EXIT, 0, 0, 0));
}

fn load(register: u8, offset: i16) -> DeviceInsn {
    insn(LOAD_WORD, register | CONTEXT << 4, offset, 0)
}

fn insn(code: u8, registers: u8, offset: i16, immediate: i32) -> DeviceInsn {
    DeviceInsn {
        code,
        registers,
        offset,
        immediate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{MKNOD, READ, WRITE};
    use proptest::prelude::*;

    /// Runs a program as the kernel would, for the instructions used here.
    fn run(program: &[DeviceInsn], kind: u32, access: u8, major: u32, minor: u32) -> u64 {
        let context = [u32::from(access) << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        for _ in 0..=program.len() {
            let i = program[at];
            let to = usize::from(i.registers & 15);
            let from = usize::from(i.registers >> 4);
            let immediate = i64::from(i.immediate) as u64;
            at += 1;
            let jump = match i.code {
                LOAD_WORD => {
                    registers[to] = u64::from(context[i.offset as usize / 4]);
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                MOVE => {
                    registers[to] = immediate;
                    false
                }
                AND => {
                    registers[to] &= immediate;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= immediate;
                    false
                }
                JUMP_EQUAL => registers[to] == immediate,
                JUMP_NOT_EQUAL => registers[to] != immediate,
                EXIT => return registers[0],
                other => panic!("code {other:#x}"),
            };
            if jump {
                at += i.offset as usize;
            }
        }
        panic!("no exit");
    }

    /// The same question without a program: per kind of access, the last rule
    /// that speaks of it decides.
    fn permitted(rules: &[DeviceRule], kind: DeviceKind, access: u8, number: (i32, i32)) -> bool {
        [MKNOD, READ, WRITE]
            .into_iter()
            .filter(|bit| access & bit != 0)
            .all(|bit| {
                rules
                    .iter()
                    .rev()
                    .find(|rule| {
                        rule.access & bit != 0
                            && (rule.kind == DeviceKind::Any || rule.kind == kind)
                            && rule.major.is_none_or(|major| major == number.0)
                            && rule.minor.is_none_or(|minor| minor == number.1)
                    })
                    .is_none_or(|rule| rule.allow)
            })
    }

    fn any_rule() -> impl Strategy<Value = DeviceRule> {
        let kind = prop_oneof![
            Just(DeviceKind::Any),
            Just(DeviceKind::Block),
            Just(DeviceKind::Char)
        ];
        let number = || prop::option::of(0..3i32);
        (any::<bool>(), kind, number(), number(), 1..=EVERYTHING).prop_map(
            |(allow, kind, major, minor, access)| DeviceRule {
                allow,
                kind,
                major,
                minor,
                access,
            },
        )
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules_do(
            rules in prop::collection::vec(any_rule(), 0..8),
            block in any::<bool>(),
            access in 1..=EVERYTHING,
            major in 0..3i32,
            minor in 0..3i32,
        ) {
            let kind = if block { DeviceKind::Block } else { DeviceKind::Char };
            let program = device_program(&rules);
            let number = if block { 1 } else { 2 };
            let verdict = run(&program, number, access, major as u32, minor as u32);
            prop_assert_eq!(verdict == 1, permitted(&rules, kind, access, (major, minor)));
        }
    }

    #[test]
    fn nothing_follows_a_rule_that_always_answers() {
        let total = DeviceRule {
            allow: false,
            kind: DeviceKind::Any,
            major: None,
            minor: None,
            access: EVERYTHING,
        };
        let earlier = DeviceRule {
            major: Some(1),
            ..total
        };
        assert_eq!(device_program(&[earlier, total]), device_program(&[total]));
        assert_eq!(std::mem::size_of::<DeviceInsn>(), 8);
    }
}
