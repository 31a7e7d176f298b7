//! What a profile means for one architecture: for each call, what happens.
//!
//! A call's rules are asked like this: a rule without conditions decides
//! alone, whatever the others say (the first, if there are several); else the
//! first rule whose conditions all hold; else the default action. Two
//! conditions of one rule on the *same* argument cannot be meant together, so
//! such a rule is read as one rule per condition. Rules that ask for the
//! default action anyway are passed over. Profiles are written with these
//! readings of libseccomp and its users in mind.

use crate::architecture::{ARM_PRIVATE, Architecture, Call};
use crate::condition::Condition;
use crate::error::{Error, Result};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSyscall};
use std::collections::{BTreeMap, BTreeSet};

/// The default error number, EPERM.
const EPERM: u32 = 1;
pub(crate) const ENOSYS: u32 = 38;
const MAX_ERRNO: u32 = 4095;

/// What the filter returns to the kernel.
pub(crate) type Verdict = u32;

pub(crate) const KILL_PROCESS: Verdict = 0x8000_0000;
const KILL_THREAD: Verdict = 0x0000_0000;
const TRAP: Verdict = 0x0003_0000;
pub(crate) const ERRNO: Verdict = 0x0005_0000;
const NOTIFY: Verdict = 0x7fc0_0000;
const TRACE: Verdict = 0x7ff0_0000;
const LOG: Verdict = 0x7ffc_0000;
const ALLOW: Verdict = 0x7fff_0000;

/// A profile that has been checked.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) default: Verdict,
    /// For calls newer than all that the profile names.
    newer: Verdict,
    rules: Vec<Rule>,
    pub(crate) notifies: bool,
    /// Names that no architecture has.
    pub(crate) unknown: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    calls: Vec<Call>,
    verdict: Verdict,
    /// Any of these; each holds if all of its conditions do. One empty
    /// alternative for a rule without conditions.
    alternatives: Vec<Vec<Condition>>,
}

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Decision {
    Always(Verdict),
    /// The first whose conditions hold, else the default.
    ByArguments(Vec<(Vec<Condition>, Verdict)>),
}

impl Policy {
    pub(crate) fn of(profile: &LinuxSeccomp) -> Result<Self> {
        let default = verdict(
            "the default",
            profile.default_action(),
            profile.default_errno_ret(),
        )?;
        if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
            return Err(Error::Notify {
                problem: "cannot be the default action",
            });
        }
        let mut policy = Self {
            default,
            newer: newer(profile.default_action(), default),
            rules: Vec::new(),
            notifies: false,
            unknown: Vec::new(),
        };
        let mut unknown = BTreeSet::new();
        for syscall in profile.syscalls().iter().flatten() {
            policy.add(syscall, &mut unknown)?;
        }
        policy.unknown = unknown.into_iter().collect();
        Ok(policy)
    }

    fn add(&mut self, syscall: &LinuxSyscall, unknown: &mut BTreeSet<String>) -> Result<()> {
        let label = syscall.names().first().map_or("no call", String::as_str);
        let verdict = verdict(label, syscall.action(), syscall.errno_ret())?;
        if syscall.action() == LinuxSeccompAction::ScmpActNotify {
            // The agent's first message would be about its own reply.
            if syscall.names().iter().any(|name| name == "write") {
                return Err(Error::Notify {
                    problem: "of write would stop the process that sends it",
                });
            }
            self.notifies = true;
        }
        let alternatives = alternatives(label, syscall.args().as_deref().unwrap_or_default())?;
        let mut calls = Vec::with_capacity(syscall.names().len());
        for name in syscall.names() {
            match Call::named(name) {
                Some(call) => calls.push(call),
                None => drop(unknown.insert(name.clone())),
            }
        }
        self.rules.push(Rule {
            calls,
            verdict,
            alternatives,
        });
        Ok(())
    }

    /// The calls that do not simply get the default action.
    pub(crate) fn decisions(&self, architecture: Architecture) -> BTreeMap<u32, Decision> {
        let mut found: BTreeMap<u32, Decision> = BTreeMap::new();
        for rule in self
            .rules
            .iter()
            .filter(|rule| rule.verdict != self.default)
        {
            for call in &rule.calls {
                let plain = architecture.number(*call).map(|number| (number, None));
                let inside = architecture.multiplexed(*call).and_then(|inside| {
                    // What the other way passes is in memory, so a rule about
                    // arguments cannot be asked there.
                    rule.is_plain().then(|| {
                        let condition = Condition::masked(0, inside.mask, inside.selector);
                        (inside.number, Some(condition))
                    })
                });
                for (number, selector) in plain.into_iter().chain(inside) {
                    for conditions in &rule.alternatives {
                        let conditions = selector.iter().chain(conditions).copied().collect();
                        add(found.entry(number), conditions, rule.verdict);
                    }
                }
            }
        }
        found
    }

    /// From which number on calls are newer than all that the profile names,
    /// and what they get. `None` if it names none on this architecture.
    pub(crate) fn newer(&self, architecture: Architecture) -> Option<(u32, Verdict)> {
        let newest = self
            .rules
            .iter()
            .flat_map(|rule| &rule.calls)
            .filter_map(|call| architecture.number(*call))
            .filter(|number| architecture != Architecture::Arm || *number < ARM_PRIVATE)
            .max()?;
        Some((newest + 1, self.newer))
    }
}

impl Rule {
    fn is_plain(&self) -> bool {
        self.alternatives.iter().all(Vec::is_empty)
    }
}

fn add(
    entry: std::collections::btree_map::Entry<'_, u32, Decision>,
    conditions: Vec<Condition>,
    verdict: Verdict,
) {
    let decision = entry.or_insert_with(|| Decision::ByArguments(Vec::new()));
    match decision {
        Decision::Always(_) => {}
        Decision::ByArguments(_) if conditions.is_empty() => *decision = Decision::Always(verdict),
        Decision::ByArguments(rules) => rules.push((conditions, verdict)),
    }
}

/// A program built for a newer kernel asks for a new call first and falls
/// back when it does not exist. An answer of "forbidden" breaks it, so calls
/// that the profile's author cannot have known do not exist. Where the
/// default lets calls through, or says "does not exist" itself, it stays.
fn newer(action: LinuxSeccompAction, default: Verdict) -> Verdict {
    match action {
        LinuxSeccompAction::ScmpActAllow
        | LinuxSeccompAction::ScmpActLog
        | LinuxSeccompAction::ScmpActTrace => default,
        _ => ERRNO | ENOSYS,
    }
}

fn alternatives(name: &str, arguments: &[LinuxSeccompArg]) -> Result<Vec<Vec<Condition>>> {
    let conditions = arguments
        .iter()
        .map(|argument| Condition::of(name, argument))
        .collect::<Result<Vec<_>>>()?;
    let indices: BTreeSet<_> = conditions.iter().map(|condition| condition.index).collect();
    if indices.len() == conditions.len() {
        Ok(vec![conditions])
    } else {
        Ok(conditions
            .into_iter()
            .map(|condition| vec![condition])
            .collect())
    }
}

fn verdict(name: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<Verdict> {
    let impossible = |errno| Error::Errno {
        syscall: name.to_owned(),
        action: action.to_string(),
        errno,
    };
    let plain = match action {
        LinuxSeccompAction::ScmpActErrno => {
            return match errno.unwrap_or(EPERM) {
                errno @ 0..=MAX_ERRNO => Ok(ERRNO | errno),
                errno => Err(impossible(errno)),
            };
        }
        LinuxSeccompAction::ScmpActTrace => {
            return match errno.unwrap_or(EPERM) {
                data @ 0..=0xffff => Ok(TRACE | data),
                data => Err(impossible(data)),
            };
        }
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActNotify => NOTIFY,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
    };
    match errno {
        None => Ok(plain),
        Some(errno) => Err(impossible(errno)),
    }
}
