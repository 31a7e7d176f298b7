//! Profile to program.
//!
//! ```text
//! load arch ── which? ──▶ load nr ── binary search over ranges of numbers ──▶ return
//!                │                                                        └─▶ conditions ──▶ return
//!                └─ none of them: the process is killed
//! ```
//!
//! Calls whose action does not depend on arguments are decided from `arch`
//! and `nr` alone: the kernel recognises those that are always allowed when
//! it loads the filter, and does not run it for them.

use crate::architecture::{Architecture, X32_BIT};
use crate::assemble::{Assembler, Label, Test};
use crate::error::{Error, Result};
use crate::policy::{Decision, KILL_PROCESS, Policy};
use crate::program::{Flags, Listener, Program};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};
use std::collections::HashMap;

/// `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Compiles a profile for the architecture that this program runs on.
///
/// The native architecture is always filtered, with those of its family that
/// the profile names; others cannot run here and are passed over. A process
/// that makes a call through an architecture that is not filtered is killed,
/// because its numbers mean something else.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program> {
    compile_for(Architecture::native()?, profile)
}

/// [`compile`] for a given architecture.
pub fn compile_for(native: Architecture, profile: &LinuxSeccomp) -> Result<Program> {
    let policy = Policy::of(profile)?;
    let filtered = filtered(native, profile);
    let mut assembler = Assembler::default();
    let mut unfiltered = assembler.give(KILL_PROCESS);
    // The native one is asked first, so it is written last.
    for &architecture in filtered.iter().rev() {
        if architecture == Architecture::X32 {
            continue;
        }
        let with_x32 =
            architecture == Architecture::X86_64 && filtered.contains(&Architecture::X32);
        let entry = calls(&mut assembler, &policy, architecture, with_x32);
        unfiltered = assembler.branch(Test::Equal, architecture.audit(), entry, unfiltered);
    }
    assembler.load(ARCHITECTURE);
    let instructions = assembler.finish();
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong {
            length: instructions.len(),
            limit: MAX_INSTRUCTIONS,
        });
    }
    Ok(Program {
        instructions,
        flags: flags(profile, policy.notifies),
        listener: listener(profile, policy.notifies)?,
        unknown: policy.unknown,
    })
}

/// The architectures of the program, the native one first.
pub(crate) fn filtered(native: Architecture, profile: &LinuxSeccomp) -> Vec<Architecture> {
    let named: Vec<_> = profile
        .architectures()
        .iter()
        .flatten()
        .filter_map(|arch| Architecture::from_oci(*arch))
        .collect();
    native
        .family()
        .iter()
        .copied()
        .filter(|architecture| *architecture == native || named.contains(architecture))
        .collect()
}

fn calls(
    assembler: &mut Assembler,
    policy: &Policy,
    architecture: Architecture,
    with_x32: bool,
) -> Label {
    let mut ranges = ranges(policy, architecture);
    if architecture == Architecture::X86_64 {
        // One identity, two tables. Only x32's numbers have its bit, so one
        // search serves both; without x32 what has the bit is foreign.
        ranges.retain(|(start, _)| *start < X32_BIT);
        if with_x32 {
            let x32 = self::ranges(policy, Architecture::X32);
            let at = x32.partition_point(|(start, _)| *start <= X32_BIT);
            let first = at.checked_sub(1).and_then(|at| x32.get(at));
            ranges.extend(first.map(|(_, decision)| (X32_BIT, decision.clone())));
            ranges.extend(x32.into_iter().skip(at));
        } else {
            ranges.push((X32_BIT, Decision::Always(KILL_PROCESS)));
            // A tracer marks a call to be skipped with this number, which
            // otherwise is a call that does not exist.
            let skipped = policy
                .newer(architecture)
                .map_or(policy.default, |(_, newer)| newer);
            ranges.push((u32::MAX, Decision::Always(skipped)));
        }
    }
    ranges.dedup_by(|next, previous| next.1 == previous.1);
    let mut leaves = HashMap::new();
    let narrow = architecture.is_32_bit();
    let search = search(assembler, &ranges, &mut |assembler, decision| {
        if let Some(&known) = leaves.get(decision) {
            return known;
        }
        let label = leaf(assembler, policy, decision, narrow);
        leaves.insert(decision.clone(), label);
        label
    });
    assembler.fall_into(search);
    assembler.load(NUMBER)
}

/// What happens from which number on, beginning at 0.
fn ranges(policy: &Policy, architecture: Architecture) -> Vec<(u32, Decision)> {
    let decisions = policy.decisions(architecture);
    let newer = policy.newer(architecture);
    let default_at = |number: u32| match newer {
        Some((from, verdict)) if number >= from => verdict,
        _ => policy.default,
    };
    let mut ranges = vec![(0, Decision::Always(default_at(0)))];
    if let Some((from, verdict)) = newer {
        ranges.push((from, Decision::Always(verdict)));
    }
    for (number, decision) in decisions {
        ranges.push((number, decision));
        if let Some(next) = number.checked_add(1) {
            ranges.push((next, Decision::Always(default_at(next))));
        }
    }
    // Stable: of two entries for one number the explicit one was pushed
    // later than the end of its predecessor.
    ranges.sort_by_key(|(start, _)| *start);
    ranges.dedup_by(|next, previous| {
        let same = next.0 == previous.0;
        if same {
            std::mem::swap(next, previous);
        }
        same
    });
    ranges
}

/// Writes a binary search for the range that holds the number.
fn search(
    assembler: &mut Assembler,
    ranges: &[(u32, Decision)],
    leaf: &mut impl FnMut(&mut Assembler, &Decision) -> Label,
) -> Label {
    match ranges {
        [] => assembler.give(KILL_PROCESS),
        [(_, decision)] => leaf(assembler, decision),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let above = search(assembler, high, leaf);
            let below = search(assembler, low, leaf);
            assembler.branch(Test::GreaterOrEqual, high[0].0, above, below)
        }
    }
}

fn leaf(assembler: &mut Assembler, policy: &Policy, decision: &Decision, narrow: bool) -> Label {
    match decision {
        Decision::Always(verdict) => assembler.give(*verdict),
        Decision::ByArguments(rules) => {
            let mut next = assembler.give(policy.default);
            for (conditions, verdict) in rules.iter().rev() {
                let mut yes = assembler.give(*verdict);
                for condition in conditions.iter().rev() {
                    yes = condition.assemble(assembler, narrow, yes, next);
                }
                next = yes;
            }
            next
        }
    }
}

fn flags(profile: &LinuxSeccomp, notifies: bool) -> Flags {
    let mut flags = Flags {
        new_listener: notifies,
        ..Flags::default()
    };
    let Some(named) = profile.flags() else {
        flags.allow_speculation = true;
        return flags;
    };
    for flag in named {
        match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => flags.log = true,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => flags.allow_speculation = true,
            // Without a listener the kernel refuses it.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                flags.wait_killable = notifies;
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => {}
        }
    }
    flags
}

fn listener(profile: &LinuxSeccomp, notifies: bool) -> Result<Option<Listener>> {
    let metadata = profile.listener_metadata().clone();
    match (notifies, profile.listener_path()) {
        (false, _) => Ok(None),
        (true, None) => Err(Error::Notify {
            problem: "needs a listenerPath",
        }),
        (true, Some(path)) if !path.is_absolute() => Err(Error::Notify {
            problem: "needs an absolute listenerPath",
        }),
        (true, Some(path)) => Ok(Some(Listener {
            path: path.clone(),
            metadata: metadata.unwrap_or_default(),
        })),
    }
}
