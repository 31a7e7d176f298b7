//! Putting instructions together.
//!
//! Jumps of classic BPF only go forward, so a program is built from its end:
//! when a jump is written its targets exist, and the distance is known. A
//! conditional jump reaches 255 instructions; for a farther target a stepping
//! stone is put right behind it.

use crate::program::Instruction;
use std::collections::HashMap;

/// An instruction, counted from the end of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// Last instruction first.
    reversed: Vec<Instruction>,
    /// The nearest return of each value.
    returns: HashMap<u32, Label>,
}

pub(crate) const LOAD: u16 = 0x20;
pub(crate) const AND: u16 = 0x54;
pub(crate) const JUMP: u16 = 0x05;
pub(crate) const RETURN: u16 = 0x06;

/// Tests of the accumulator against a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Test {
    Equal = 0x15,
    Greater = 0x25,
    GreaterOrEqual = 0x35,
}

impl Assembler {
    /// The instruction that returns `value`.
    pub(crate) fn give(&mut self, value: u32) -> Label {
        if let Some(&known) = self.returns.get(&value) {
            return known;
        }
        self.push_return(value)
    }

    /// Loads the word at `offset` of `seccomp_data`, then goes on with what
    /// was written last.
    pub(crate) fn load(&mut self, offset: u32) -> Label {
        self.push(LOAD, 0, 0, offset)
    }

    /// Keeps the bits of `mask`, then goes on with what was written last.
    pub(crate) fn and(&mut self, mask: u32) -> Label {
        self.push(AND, 0, 0, mask)
    }

    /// Goes on at one of two places.
    pub(crate) fn branch(&mut self, test: Test, value: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return self.fall_into(yes);
        }
        let yes = self.within_reach(yes);
        let no = self.within_reach(no);
        let (jt, jf) = (self.distance(yes), self.distance(no));
        self.push(test as u16, to_byte(jt), to_byte(jf), value)
    }

    /// Makes `target` what comes next, for an instruction that does not jump.
    pub(crate) fn fall_into(&mut self, target: Label) -> Label {
        match self.distance(target) {
            0 => target,
            _ => self.stone(target),
        }
    }

    pub(crate) fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }

    /// How many instructions lie between one pushed now and `target`.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - 1 - target.0
    }

    /// A label for `target` that the next branch reaches. Its other target
    /// may still need a stone in between, so one instruction is spared.
    fn within_reach(&mut self, target: Label) -> Label {
        if self.distance(target) < usize::from(u8::MAX) {
            target
        } else {
            self.stone(target)
        }
    }

    fn stone(&mut self, target: Label) -> Label {
        match self.reversed.get(target.0) {
            Some(last) if last.code == RETURN => {
                let value = last.k;
                self.push_return(value)
            }
            _ => {
                let distance = u32::try_from(self.distance(target)).unwrap_or(u32::MAX);
                self.push(JUMP, 0, 0, distance)
            }
        }
    }

    fn push_return(&mut self, value: u32) -> Label {
        let label = self.push(RETURN, 0, 0, value);
        self.returns.insert(value, label);
        label
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }
}

/// `within_reach` has made sure of it.
fn to_byte(distance: usize) -> u8 {
    u8::try_from(distance).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interpreter::{Data, run};

    fn data(number: u32) -> Data {
        Data {
            number,
            ..Data::default()
        }
    }

    #[test]
    fn targets_beyond_255_instructions_are_reached() {
        for filler in [0, 1, 252, 253, 254, 255, 256, 257, 600, 2000] {
            let mut assembler = Assembler::default();
            let one = assembler.give(1);
            let two = assembler.give(2);
            assembler.fall_into(two);
            let far = assembler.load(0);
            let far = {
                let _ = far;
                assembler.branch(Test::Equal, 7, one, two)
            };
            for _ in 0..filler {
                assembler.and(u32::MAX);
            }
            // An unconditional instruction in front must still see the number.
            assembler.branch(Test::GreaterOrEqual, 5, far, two);
            assembler.load(0);
            let program = assembler.finish();
            for (number, expected) in [(0, 2), (4, 2), (5, 2), (7, 1), (8, 2)] {
                assert_eq!(run(&program, &data(number)), expected, "{filler} {number}");
            }
        }
    }

    #[test]
    fn long_chains_of_branches_keep_their_targets() {
        let mut assembler = Assembler::default();
        let otherwise = assembler.give(9999);
        let mut next = otherwise;
        for number in (0..1200).rev() {
            let hit = assembler.give(number);
            next = assembler.branch(Test::Equal, number, hit, next);
        }
        assembler.load(0);
        let program = assembler.finish();
        for number in 0..1200 {
            assert_eq!(run(&program, &data(number)), number);
        }
        assert_eq!(run(&program, &data(1200)), 9999);
    }
}
