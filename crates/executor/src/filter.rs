//! The seccomp profile of a container, compiled once.

use crate::container::Create;
use crate::error::{Error, Result};
use crate::notify::Agent;
use crate::report::Failure;
use crate::step::Step;
use berth_kernel::{FilterFlags, SockFilter};
use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

/// A program for the kernel, and how it is to be loaded.
#[derive(Debug)]
pub(crate) struct Filter {
    program: Vec<SockFilter>,
    flags: FilterFlags,
    /// Who answers for calls that the filter notifies of, if it does.
    pub(crate) agent: Option<Agent>,
}

impl Filter {
    pub(crate) fn compile(create: &Create<'_>, profile: &LinuxSeccomp) -> Result<Self> {
        let compiled = berth_seccomp::compile(profile).map_err(|source| Error::Seccomp {
            id: create.id.to_owned(),
            source,
        })?;
        let program = compiled
            .instructions
            .iter()
            .map(|instruction| SockFilter {
                code: instruction.code,
                jt: instruction.jt,
                jf: instruction.jf,
                k: instruction.k,
            })
            .collect();
        Ok(Self {
            program,
            flags: FilterFlags {
                log: compiled.flags.log,
                allow_speculation: compiled.flags.allow_speculation,
                new_listener: compiled.flags.new_listener,
                wait_killable: compiled.flags.wait_killable,
            },
            agent: compiled.listener.map(|agent| Agent::new(create, agent)),
        })
    }

    /// Puts the calling process under the filter. Answers with the descriptor that notifications
    /// come from, if there is to be one.
    pub(crate) fn load(&self) -> std::result::Result<Option<OwnedFd>, Failure> {
        let subject = if self.flags.wait_killable {
            "with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, which Linux has since 5.19"
        } else {
            ""
        };
        berth_kernel::load_filter(&self.program, self.flags)
            .map_err(Failure::of(Step::LoadFilter, subject))
    }
}

/// A filter in a form that can be saved, so that nothing is compiled twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FilterRecord {
    #[serde(default)]
    log: bool,
    #[serde(default)]
    allow_speculation: bool,
    #[serde(default)]
    wait_killable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<Agent>,
    /// One number an instruction: code, jt, jf and k from the top.
    program: Vec<u64>,
}

impl FilterRecord {
    pub(crate) fn new(filter: &Filter) -> Self {
        let pack = |part: &SockFilter| {
            u64::from(part.code) << 48
                | u64::from(part.jt) << 40
                | u64::from(part.jf) << 32
                | u64::from(part.k)
        };
        Self {
            log: filter.flags.log,
            allow_speculation: filter.flags.allow_speculation,
            wait_killable: filter.flags.wait_killable,
            agent: filter.agent.clone(),
            program: filter.program.iter().map(pack).collect(),
        }
    }

    pub(crate) fn filter(&self) -> Filter {
        let unpack = |packed: &u64| SockFilter {
            code: (packed >> 48) as u16,
            jt: (packed >> 40) as u8,
            jf: (packed >> 32) as u8,
            k: *packed as u32,
        };
        Filter {
            program: self.program.iter().map(unpack).collect(),
            flags: FilterFlags {
                log: self.log,
                allow_speculation: self.allow_speculation,
                new_listener: self.agent.is_some(),
                wait_killable: self.wait_killable,
            },
            agent: self.agent.clone(),
        }
    }
}
