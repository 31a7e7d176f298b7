//! Limits of a request in the specification's terms.

use oci_spec::runtime::{
    LinuxCpu, LinuxHugepageLimitBuilder, LinuxMemory, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder,
};

use crate::error::Result;
use crate::request::Resources;

/// Translates limits; what is not set stays out, so that nothing is written for it.
pub fn linux_resources(resources: &Resources) -> Result<LinuxResources> {
    let mut cpu = LinuxCpu::default();
    cpu.set_period(resources.cpu_period)
        .set_quota(resources.cpu_quota)
        .set_shares(resources.cpu_shares)
        .set_cpus(some(&resources.cpuset_cpus))
        .set_mems(some(&resources.cpuset_mems));
    let mut memory = LinuxMemory::default();
    // Without a swap limit of its own a container may not swap past its memory limit.
    let swap = resources.memory_swap_limit.or(resources.memory_limit);
    memory.set_limit(resources.memory_limit).set_swap(swap);
    let hugepages = resources
        .hugepage_limits
        .iter()
        .map(|(size, bytes)| {
            LinuxHugepageLimitBuilder::default()
                .page_size(size.as_str())
                .limit(i64::try_from(*bytes).unwrap_or(i64::MAX))
                .build()
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut result = LinuxResourcesBuilder::default()
        .cpu(cpu)
        .memory(memory)
        .build()?;
    if let Some(limit) = resources.pids_limit {
        result.set_pids(Some(LinuxPidsBuilder::default().limit(limit).build()?));
    }
    if !hugepages.is_empty() {
        result.set_hugepage_limits(Some(hugepages));
    }
    if !resources.unified.is_empty() {
        let unified = resources
            .unified
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        result.set_unified(Some(unified));
    }
    Ok(result)
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
