//! The seccomp profile of a container, compiled once.

use crate::error::{Error, Result};
use crate::report::Failure;
use crate::step::Step;
use berth_kernel::{FilterFlags, SockFilter};
use oci_spec::runtime::LinuxSeccomp;

/// A program for the kernel, and how it is to be loaded.
#[derive(Debug)]
pub(crate) struct Filter {
    program: Vec<SockFilter>,
    flags: FilterFlags,
}

impl Filter {
    pub(crate) fn compile(id: &str, profile: &LinuxSeccomp) -> Result<Self> {
        let compiled = berth_seccomp::compile(profile).map_err(|source| Error::Seccomp {
            id: id.to_owned(),
            source,
        })?;
        if compiled.flags.new_listener {
            return Err(Error::Unsupported {
                id: id.to_owned(),
                feature: "seccomp user notification",
            });
        }
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
                new_listener: false,
                wait_killable: false,
            },
        })
    }

    /// Puts the calling process under the filter.
    pub(crate) fn load(&self) -> std::result::Result<(), Failure> {
        berth_kernel::load_filter(&self.program, self.flags)
            .map(drop)
            .map_err(Failure::of(Step::LoadFilter, ""))
    }
}
