//! Limits for containers that nobody names: the steps of a build.

use berth_lifecycle::request::{Resources, Rlimit, Security};

use crate::config::HostConfig;
use crate::error::Result;
use crate::{limits, request};

/// What such a container may use, and what keeps it apart from the host: the same as any other's.
#[derive(Debug, Clone, Default)]
pub struct StepLimits {
    pub resources: Resources,
    pub rlimits: Vec<Rlimit>,
    pub security: Security,
}

impl StepLimits {
    /// # Errors
    /// If limits contradict each other, or cannot be.
    pub fn of(host: &HostConfig) -> Result<Self> {
        Ok(Self {
            resources: limits::resources(host)?,
            rlimits: limits::rlimits(&host.limits.ulimits)?,
            security: request::confined(host)?,
        })
    }
}
