//! Seccomp profiles to BPF programs.
//!
//! ```text
//! default_profile(capabilities) ─┐
//! profile_from_json(bytes) ──────┼─▶ LinuxSeccomp ── compile ──▶ Program ──▶ seccomp(2), by the caller
//! a container's own spec ────────┘
//! ```
//!
//! Pure: nothing here reads the host or loads anything. The same profile
//! gives the same program, so a program can be kept by the profile's digest.

mod architecture;
mod assemble;
mod compile;
mod condition;
mod default_profile;
mod error;
mod policy;
mod profile_json;
mod program;
mod table;

#[cfg(test)]
mod equivalence_tests;
#[cfg(test)]
mod interpreter;

pub use architecture::Architecture;
pub use compile::{compile, compile_for};
pub use default_profile::{default_profile, default_profile_for};
pub use error::{Error, Result};
pub use profile_json::{Target, profile_from_json, profile_from_json_for};
pub use program::{Flags, Instruction, Listener, Program};
