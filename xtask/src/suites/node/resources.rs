//! Limits as the kernel has them, and as they are reported.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1 as cri;
use tonic::Code;

use super::session::Session;

const MIB: i64 = 1 << 20;

/// Fills most of its limit with what cannot be reclaimed, and says so.
const FULL: &str =
    "dd if=/dev/zero of=/dev/shm/full bs=1M count=40 2>/dev/null && echo full && sleep 3600";

fn limits(memory: i64, shares: i64, quota: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        memory_limit_in_bytes: memory,
        cpu_shares: shares,
        cpu_quota: quota,
        cpu_period: if quota == 0 { 0 } else { 100_000 },
        ..Default::default()
    }
}

/// Up, down, below what is used, and halfway: the kernel and the status always agree.
pub fn change(session: &mut Session) -> Result<()> {
    let config = session.pod("resized");
    let pod = session.cri.run_pod(&config).context("RunPodSandbox")?;
    let result = changed(session, &pod, &config);
    session.remove_pod(&pod)?;
    result
}

fn changed(session: &mut Session, pod: &str, config: &cri::PodSandboxConfig) -> Result<()> {
    let container = session.container("main", &["sh", "-c", FULL]);
    let container = session.cri.create(pod, config, &container)?;
    // Before the start, what is changed is what it starts with.
    session.cri.update(&container, &limits(80 * MIB, 0, 0))?;
    session.cri.start(&container)?;
    let path = format!("{}/{container}", session.parent.request());
    holds(session, &container, &path, (80 * MIB, 512, 0))?;
    crate::command::retry(std::time::Duration::from_secs(20), || {
        let used = session
            .parent
            .value(&path, "memory.usage_in_bytes", "memory.current")?;
        ensure!(used > 40 * MIB, "{used} bytes are used");
        Ok(())
    })?;

    session
        .cri
        .update(&container, &limits(96 * MIB, 256, 50_000))?;
    holds(session, &container, &path, (96 * MIB, 256, 50_000))?;
    session.cri.update(&container, &limits(64 * MIB, 0, 0))?;
    holds(session, &container, &path, (64 * MIB, 256, 50_000))?;

    let answer = session
        .cri
        .update(&container, &limits(16 * MIB, 1024, 20_000));
    let refused = answer.err().context("a limit below the usage was taken")?;
    ensure!(refused.code() == Code::FailedPrecondition, "{refused}");
    ensure!(refused.message().contains("16777216"), "{refused}");
    holds(session, &container, &path, (64 * MIB, 256, 50_000))?;

    // The last thing that is written, after all of the others.
    let mut broken = limits(72 * MIB, 300, 30_000);
    broken.unified = HashMap::from([("no.such.file".to_owned(), "1".to_owned())]);
    let answer = session.cri.update(&container, &broken);
    let refused = answer
        .err()
        .context("a file that is not there was written")?;
    ensure!(refused.code() == Code::InvalidArgument, "{refused}");
    ensure!(refused.message().contains("no.such.file"), "{refused}");
    holds(session, &container, &path, (64 * MIB, 256, 50_000))?;

    let mut elsewhere = limits(0, 0, 0);
    elsewhere.cpuset_cpus = "4000".to_owned();
    let answer = session.cri.update(&container, &elsewhere);
    let refused = answer
        .err()
        .context("a processor that is not there was given")?;
    ensure!(refused.code() == Code::InvalidArgument, "{refused}");
    elsewhere.cpuset_cpus = "0".to_owned();
    session.cri.update(&container, &elsewhere)?;
    let status = session.cri.status(&container)?;
    let linux = status.resources.and_then(|all| all.linux);
    ensure!(
        linux.is_some_and(|linux| linux.cpuset_cpus == "0"),
        "the cpuset is not reported"
    );
    Ok(())
}

/// What the kernel has and what the status says.
fn holds(
    session: &mut Session,
    container: &str,
    path: &str,
    (memory, shares, quota): (i64, i64, i64),
) -> Result<()> {
    let status = session.cri.status(container).context("ContainerStatus")?;
    let linux = status
        .resources
        .and_then(|all| all.linux)
        .context("no resources")?;
    let said = (
        linux.memory_limit_in_bytes,
        linux.cpu_shares,
        linux.cpu_quota,
    );
    ensure!(said == (memory, shares, quota), "{said:?} is reported");
    let kept = session
        .parent
        .value(path, "memory.limit_in_bytes", "memory.max")?;
    ensure!(
        kept == memory,
        "the kernel keeps to {kept} bytes instead of {memory}"
    );
    if let Some(kept) = session.parent.v1_value(path, "cpu.shares")? {
        ensure!(
            kept == shares,
            "the kernel has {kept} shares instead of {shares}"
        );
    }
    if let Some(kept) = session.parent.v1_value(path, "cpu.cfs_quota_us")? {
        let quota = if quota == 0 { -1 } else { quota };
        ensure!(
            kept == quota,
            "the kernel has quota {kept} instead of {quota}"
        );
    }
    Ok(())
}

/// A pod that names no cgroup has one of its own, held to resources and overhead; it goes with it.
pub fn of_a_pod(session: &mut Session) -> Result<()> {
    let mut config = session.pod("limited");
    let path = format!("{}/limited", session.parent.request());
    let linux = config.linux.get_or_insert_default();
    linux.cgroup_parent = path.clone();
    linux.resources = Some(limits(128 * MIB, 512, 100_000));
    linux.overhead = Some(limits(16 * MIB, 100, 20_000));
    let pod = session.cri.run_pod(&config).context("RunPodSandbox")?;
    let result = limited(session, &pod, &path);
    session.remove_pod(&pod)?;
    result?;
    // Pods of earlier parts may still be on their way out.
    crate::command::retry(std::time::Duration::from_secs(20), || {
        let left = session.parent.directories();
        ensure!(left.is_empty(), "cgroups are left: {left:?}");
        Ok(())
    })
}

fn limited(session: &mut Session, pod: &str, path: &str) -> Result<()> {
    let is = |session: &Session, expected: (i64, i64, i64)| -> Result<()> {
        let memory = session
            .parent
            .value(path, "memory.limit_in_bytes", "memory.max")?;
        let shares = session.parent.v1_value(path, "cpu.shares")?;
        let quota = session.parent.v1_value(path, "cpu.cfs_quota_us")?;
        let kept = (
            memory,
            shares.unwrap_or(expected.1),
            quota.unwrap_or(expected.2),
        );
        ensure!(kept == expected, "{kept:?} instead of {expected:?}");
        Ok(())
    };
    is(session, (144 * MIB, 612, 120_000))?;
    session.cri.update_pod(pod, &limits(64 * MIB, 0, 0))?;
    is(session, (80 * MIB, 612, 120_000))?;
    let answer = session.cri.update_pod(pod, &limits(-5, 0, 0));
    let refused = answer.err().context("a negative limit was taken")?;
    ensure!(refused.code() == Code::InvalidArgument, "{refused}");
    is(session, (80 * MIB, 612, 120_000))
}
