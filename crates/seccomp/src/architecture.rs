//! Architectures that a filter tells apart, and their system calls.

use crate::error::{Error, Result};
use crate::table::TABLE;
use oci_spec::runtime::Arch;

/// A system call convention of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Architecture {
    X86_64,
    /// 32-bit programs on x86-64.
    X86,
    /// 32-bit pointers on x86-64; shares the architecture's identity with it
    /// and marks the numbers of its calls.
    X32,
    Aarch64,
    /// 32-bit programs on aarch64.
    Arm,
}

/// The bit that marks the number of an x32 call.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// Numbers above this are arm's private calls.
pub(crate) const ARM_PRIVATE: u32 = 0xf_0000;

impl Architecture {
    /// The one that this program was built for.
    pub fn native() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            name => Err(Error::UnknownNative { name }),
        }
    }

    /// Those whose programs a kernel of `self` can run, itself first.
    #[must_use]
    pub fn family(self) -> &'static [Self] {
        match self {
            Self::X86_64 => &[Self::X86_64, Self::X86, Self::X32],
            Self::Aarch64 => &[Self::Aarch64, Self::Arm],
            Self::X86 => &[Self::X86],
            Self::X32 => &[Self::X32],
            Self::Arm => &[Self::Arm],
        }
    }

    pub(crate) fn from_oci(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchX86_64 => Some(Self::X86_64),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            _ => None,
        }
    }

    pub(crate) fn to_oci(self) -> Arch {
        match self {
            Self::X86_64 => Arch::ScmpArchX86_64,
            Self::X86 => Arch::ScmpArchX86,
            Self::X32 => Arch::ScmpArchX32,
            Self::Aarch64 => Arch::ScmpArchAarch64,
            Self::Arm => Arch::ScmpArchArm,
        }
    }

    /// `AUDIT_ARCH_*`, as the kernel puts it into `seccomp_data.arch`.
    pub(crate) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// True if only the low half of each argument means anything.
    pub(crate) fn is_32_bit(self) -> bool {
        matches!(self, Self::X86 | Self::Arm)
    }

    /// The number of a call, as it appears in `seccomp_data.nr`.
    pub(crate) fn number(self, call: Call) -> Option<u32> {
        let [x86_64, x86, x32, aarch64, arm] = call.numbers;
        let number = match self {
            Self::X86_64 => x86_64,
            Self::X86 => x86,
            Self::X32 => x32,
            Self::Aarch64 => aarch64,
            Self::Arm => arm,
        };
        let number = u32::try_from(*number).ok()?;
        Some(match self {
            Self::X32 => number | X32_BIT,
            _ => number,
        })
    }

    #[cfg(test)]
    pub(crate) fn number_of(self, name: &str) -> Option<u32> {
        self.number(Call::named(name)?)
    }

    /// On x86, calls about sockets and System V objects also go through one
    /// call each whose first argument says which is meant. A rule for a call
    /// has to cover that way too.
    pub(crate) fn multiplexed(self, call: Call) -> Option<Multiplexed> {
        if self != Self::X86 {
            return None;
        }
        let (through, selector, mask) = match (socket_call(call.name), ipc_call(call.name)) {
            (Some(selector), _) => ("socketcall", selector, u64::from(u32::MAX)),
            // The high half of the selector is the version of the structures.
            (None, Some(selector)) => ("ipc", selector, 0xffff),
            (None, None) => return None,
        };
        Some(Multiplexed {
            number: self.number(Call::named(through)?)?,
            mask,
            selector,
        })
    }
}

/// A call that some architecture has: what its name is looked up to, once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    name: &'static str,
    numbers: &'static [i32; 5],
}

impl Call {
    pub(crate) fn named(name: &str) -> Option<Self> {
        let at = TABLE
            .binary_search_by(|(known, _)| (*known).cmp(name))
            .ok()?;
        let (name, numbers) = TABLE.get(at)?;
        Some(Self { name, numbers })
    }
}

/// A call as an argument of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Multiplexed {
    /// The call that is really made.
    pub(crate) number: u32,
    /// Which bits of its first argument select.
    pub(crate) mask: u64,
    /// What they hold then.
    pub(crate) selector: u64,
}

fn socket_call(name: &str) -> Option<u64> {
    Some(match name {
        "socket" => 1,
        "bind" => 2,
        "connect" => 3,
        "listen" => 4,
        "accept" => 5,
        "getsockname" => 6,
        "getpeername" => 7,
        "socketpair" => 8,
        "send" => 9,
        "recv" => 10,
        "sendto" => 11,
        "recvfrom" => 12,
        "shutdown" => 13,
        "setsockopt" => 14,
        "getsockopt" => 15,
        "sendmsg" => 16,
        "recvmsg" => 17,
        "accept4" => 18,
        "recvmmsg" => 19,
        "sendmmsg" => 20,
        _ => return None,
    })
}

fn ipc_call(name: &str) -> Option<u64> {
    Some(match name {
        "semop" => 1,
        "semget" => 2,
        "semctl" => 3,
        "semtimedop" => 4,
        "msgsnd" => 11,
        "msgrcv" => 12,
        "msgget" => 13,
        "msgctl" => 14,
        "shmat" => 21,
        "shmdt" => 22,
        "shmget" => 23,
        "shmctl" => 24,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_without_doubles() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{} and {}", pair[0].0, pair[1].0);
        }
        for column in 0..5 {
            let mut numbers: Vec<_> = TABLE
                .iter()
                // Two names of one call on arm.
                .filter(|(name, _)| *name != "arm_sync_file_range")
                .map(|(_, numbers)| numbers[column])
                .filter(|number| *number >= 0)
                .collect();
            let all = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), all, "column {column}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_kernel() {
        use Architecture::{Aarch64, Arm, X32, X86, X86_64};
        for (architecture, name, number) in [
            (X86_64, "read", Some(0)),
            (X86_64, "clone3", Some(435)),
            (X86, "read", Some(3)),
            (X86, "socketcall", Some(102)),
            (X86, "accept", None),
            (X32, "read", Some(X32_BIT)),
            (X32, "execve", Some(X32_BIT + 520)),
            (Aarch64, "openat", Some(56)),
            (Aarch64, "open", None),
            (Arm, "set_tls", Some(0xf_0005)),
            (X86_64, "no_such_call", None),
            (X86_64, "", None),
        ] {
            assert_eq!(
                architecture.number_of(name),
                number,
                "{architecture:?} {name}"
            );
        }
    }

    #[test]
    fn native_calls_have_the_numbers_of_the_headers() {
        // The build host's own header, if it has one, is a second witness.
        let Ok(header) = std::fs::read_to_string("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
        else {
            eprintln!("skipped: needs the x86-64 kernel headers");
            return;
        };
        let mut seen = 0;
        for line in header.lines() {
            let Some((name, number)) = line
                .strip_prefix("#define __NR_")
                .and_then(|line| line.split_once(' '))
            else {
                continue;
            };
            let number = number.trim().parse().unwrap();
            assert_eq!(Architecture::X86_64.number_of(name), Some(number), "{name}");
            seen += 1;
        }
        assert!(seen > 300);
    }

    #[test]
    fn x86_calls_inside_calls_are_found() {
        let inside = |on: Architecture, name| on.multiplexed(Call::named(name).unwrap());
        let socket = inside(Architecture::X86, "socket").unwrap();
        assert_eq!((socket.number, socket.selector), (102, 1));
        let shmat = inside(Architecture::X86, "shmat").unwrap();
        assert_eq!(
            (shmat.number, shmat.selector, shmat.mask),
            (117, 21, 0xffff)
        );
        assert_eq!(inside(Architecture::X86, "read"), None);
        assert_eq!(inside(Architecture::X86_64, "socket"), None);
    }
}
