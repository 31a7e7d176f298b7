//! Conditions on arguments.
//!
//! Arguments are 64 bits wide and the accumulator 32, so each comparison is
//! one of the high halves and one of the low halves.

use crate::assemble::{Assembler, Label, Test};
use crate::error::{Error, Result};
use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator};

/// A question about one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Condition {
    /// Which argument, 0 to 5.
    pub(crate) index: usize,
    compare: Compare,
    value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// The bits of the mask hold the value.
    Masked(u64),
}

impl Condition {
    pub(crate) fn of(syscall: &str, argument: &LinuxSeccompArg) -> Result<Self> {
        let index = argument.index();
        if index > 5 {
            return Err(Error::ArgumentIndex {
                syscall: syscall.to_owned(),
                index,
            });
        }
        let (compare, value) = match argument.op() {
            LinuxSeccompOperator::ScmpCmpEq => (Compare::Equal, argument.value()),
            LinuxSeccompOperator::ScmpCmpNe => (Compare::NotEqual, argument.value()),
            LinuxSeccompOperator::ScmpCmpLt => (Compare::Less, argument.value()),
            LinuxSeccompOperator::ScmpCmpLe => (Compare::LessOrEqual, argument.value()),
            LinuxSeccompOperator::ScmpCmpGt => (Compare::Greater, argument.value()),
            LinuxSeccompOperator::ScmpCmpGe => (Compare::GreaterOrEqual, argument.value()),
            // The mask comes first, what it is to show second.
            LinuxSeccompOperator::ScmpCmpMaskedEq => (
                Compare::Masked(argument.value()),
                argument.value_two().unwrap_or(0),
            ),
        };
        Ok(Self {
            index,
            compare,
            value,
        })
    }

    pub(crate) fn masked(index: usize, mask: u64, value: u64) -> Self {
        Self {
            index,
            compare: Compare::Masked(mask),
            value,
        }
    }

    /// Writes the question. `narrow` for architectures whose arguments are
    /// the low halves only; the value is cut to that as well.
    pub(crate) fn assemble(
        self,
        assembler: &mut Assembler,
        narrow: bool,
        yes: Label,
        no: Label,
    ) -> Label {
        let width = if narrow { Width::Narrow } else { Width::Whole };
        match self.compare {
            Compare::Equal => self.masked_equal(assembler, width, u64::MAX, yes, no),
            Compare::NotEqual => self.masked_equal(assembler, width, u64::MAX, no, yes),
            Compare::Masked(mask) => self.masked_equal(assembler, width, mask, yes, no),
            Compare::Greater => self.ordered(assembler, width, Test::Greater, yes, no),
            Compare::GreaterOrEqual => {
                self.ordered(assembler, width, Test::GreaterOrEqual, yes, no)
            }
            Compare::Less => self.ordered(assembler, width, Test::GreaterOrEqual, no, yes),
            Compare::LessOrEqual => self.ordered(assembler, width, Test::Greater, no, yes),
        }
    }

    fn masked_equal(
        self,
        assembler: &mut Assembler,
        width: Width,
        mask: u64,
        yes: Label,
        no: Label,
    ) -> Label {
        let low = self.half_equal(assembler, Half::Low, mask, yes, no);
        match width {
            Width::Narrow => low,
            Width::Whole => self.half_equal(assembler, Half::High, mask, low, no),
        }
    }

    fn half_equal(
        self,
        assembler: &mut Assembler,
        half: Half,
        mask: u64,
        yes: Label,
        no: Label,
    ) -> Label {
        let (mask, value) = (half.of(mask), half.of(self.value));
        // Bits that the mask hides read as zero.
        match (mask, value & !mask) {
            (_, 1..) => return no,
            (0, 0) => return yes,
            _ => {}
        }
        assembler.branch(Test::Equal, value, yes, no);
        if mask != u32::MAX {
            assembler.and(mask);
        }
        assembler.load(self.offset(half))
    }

    /// `test` is of the low halves and strict or not; high halves that differ
    /// decide by themselves.
    fn ordered(
        self,
        assembler: &mut Assembler,
        width: Width,
        test: Test,
        yes: Label,
        no: Label,
    ) -> Label {
        assembler.branch(test, Half::Low.of(self.value), yes, no);
        let low = assembler.load(self.offset(Half::Low));
        if width == Width::Narrow {
            return low;
        }
        let high = Half::High.of(self.value);
        let same = assembler.branch(Test::Equal, high, low, no);
        assembler.branch(Test::Greater, high, yes, same);
        assembler.load(self.offset(Half::High))
    }

    /// Where `struct seccomp_data` holds it, on a little-endian machine.
    fn offset(self, half: Half) -> u32 {
        const ARGUMENTS: u32 = 16;
        // `of` has limited the index to 5.
        let index = u32::try_from(self.index).unwrap_or(5);
        ARGUMENTS
            + 8 * index
            + match half {
                Half::Low => 0,
                Half::High => 4,
            }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Narrow,
    Whole,
}

#[derive(Clone, Copy)]
enum Half {
    Low,
    High,
}

impl Half {
    #[expect(clippy::cast_possible_truncation, reason = "halves are what is wanted")]
    fn of(self, value: u64) -> u32 {
        match self {
            Self::Low => value as u32,
            Self::High => (value >> 32) as u32,
        }
    }
}
