//! The part of the kernel's classic BPF that filters use, for tests.

use crate::assemble::{AND, JUMP, LOAD, RETURN};
use crate::program::Instruction;

/// `struct seccomp_data`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) number: u32,
    pub(crate) architecture: u32,
    pub(crate) instruction_pointer: u64,
    pub(crate) arguments: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.architecture.to_le_bytes());
        bytes.extend(self.instruction_pointer.to_le_bytes());
        for argument in self.arguments {
            bytes.extend(argument.to_le_bytes());
        }
        let at = offset as usize;
        assert!(at.is_multiple_of(4), "unaligned load at {offset}");
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }
}

/// Runs a filter, with the checks that the kernel makes when loading it.
pub(crate) fn run(program: &[Instruction], data: &Data) -> u32 {
    assert!(
        !program.is_empty() && program.len() <= 4096,
        "{}",
        program.len()
    );
    assert_eq!(
        program[program.len() - 1].code,
        RETURN,
        "must end with a return"
    );
    let mut accumulator = 0u32;
    let mut at = 0usize;
    loop {
        let i = program[at];
        let test = match i.code {
            LOAD => {
                accumulator = data.word(i.k);
                None
            }
            AND => {
                accumulator &= i.k;
                None
            }
            JUMP => {
                at += i.k as usize;
                None
            }
            RETURN => return i.k,
            0x15 => Some(accumulator == i.k),
            0x25 => Some(accumulator > i.k),
            0x35 => Some(accumulator >= i.k),
            other => panic!("the kernel refuses code {other:#x}"),
        };
        at += 1 + match test {
            None => 0,
            Some(true) => usize::from(i.jt),
            Some(false) => usize::from(i.jf),
        };
        assert!(at < program.len(), "jump out of the program");
    }
}
