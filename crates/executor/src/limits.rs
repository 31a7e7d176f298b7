//! Resource limits, scheduling and the out-of-memory score.
//!
//! A limit above what the runtime itself may set is clamped, with a notice:
//! a machine that withholds CAP_SYS_RESOURCE still runs ordinary containers.

use crate::procfs::Procfs;
use crate::report::{Failure, Reporter};
use crate::step::Step;
use berth_kernel::Errno;
use berth_kernel::rustix::process::{Resource, getrlimit};
use oci_spec::runtime::{
    IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimitType, Process,
};
use std::path::Path;

/// One resource limit; `None` is infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimitPlan {
    pub(crate) resource: Resource,
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
}

/// Scheduling policy in the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SchedulerPlan {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LimitsPlan {
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) limits: Vec<LimitPlan>,
    pub(crate) scheduler: Option<SchedulerPlan>,
    /// Class and level.
    pub(crate) io_priority: Option<(u8, u8)>,
}

/// Field, value and problem of a request that makes no sense.
pub(crate) type Invalid = (&'static str, String, &'static str);

impl LimitsPlan {
    pub(crate) fn new(process: &Process) -> Result<Self, Invalid> {
        let mut limits: Vec<LimitPlan> = Vec::new();
        for limit in process.rlimits().iter().flatten() {
            let plan = LimitPlan {
                resource: resource(limit.typ()),
                soft: finite(limit.soft()),
                hard: finite(limit.hard()),
            };
            let name = || limit.typ().to_string();
            if limits.iter().any(|known| known.resource == plan.resource) {
                return Err(("process.rlimits", name(), "is given twice"));
            }
            if limit.soft() > limit.hard() {
                return Err(("process.rlimits", name(), "has soft above hard"));
            }
            limits.push(plan);
        }
        if let Some(score) = process.oom_score_adj()
            && !(-1000..=1000).contains(&score)
        {
            let problem = "is not between -1000 and 1000";
            return Err(("process.oomScoreAdj", score.to_string(), problem));
        }
        Ok(Self {
            oom_score_adj: process.oom_score_adj(),
            limits,
            scheduler: scheduler(process)?,
            io_priority: io_priority(process)?,
        })
    }

    /// Applies to the calling process what only the host's root may do, which
    /// clones of it inherit.
    pub(crate) fn apply_as_host(
        &self,
        procfs: &Procfs,
        reporter: &Reporter,
    ) -> Result<(), Failure> {
        if let Some(score) = self.oom_score_adj {
            set_oom_score(procfs, reporter, score)?;
        }
        if let Some(plan) = self.scheduler {
            berth_kernel::set_scheduler(plan.policy, plan.flags, plan.nice, plan.priority)
                .map_err(Failure::of(Step::SetScheduler, &plan.policy))?;
        }
        if let Some((class, level)) = self.io_priority {
            berth_kernel::set_io_priority(class, level)
                .map_err(Failure::of(Step::SetScheduler, "I/O priority"))?;
        }
        for limit in &self.limits {
            make_room(*limit).map_err(Failure::of(Step::SetLimit, "its maximum"))?;
        }
        Ok(())
    }

    /// Applies the resource limits, of which none is raised any more.
    pub(crate) fn apply(&self, reporter: &Reporter) -> Result<(), Failure> {
        self.limits
            .iter()
            .try_for_each(|limit| set_limit(reporter, *limit))
    }
}

fn set_oom_score(procfs: &Procfs, reporter: &Reporter, score: i32) -> Result<(), Failure> {
    let path = Path::new("self/oom_score_adj");
    match procfs.write(path, &score.to_string()) {
        // Below the lowest value that this process may have.
        Err(Errno::ACCESS | Errno::PERM) => {
            let kept = procfs.read_short(path).unwrap_or_default();
            reporter.notice(
                Step::SetOomScore,
                &format!("{score} is not permitted, stays {kept}"),
            );
            Ok(())
        }
        done => done.map_err(Failure::of(Step::SetOomScore, &score)),
    }
}

/// Raises a hard limit where that is asked for, and permitted; lower ones come
/// last, because the setup itself needs files and memory.
fn make_room(limit: LimitPlan) -> berth_kernel::Result<()> {
    let present = getrlimit(limit.resource);
    let higher = match (limit.hard, present.maximum) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(wanted), Some(present)) => wanted > present,
    };
    if !higher {
        return Ok(());
    }
    match berth_kernel::set_limit(limit.resource, present.current, limit.hard) {
        Err(Errno::PERM) => Ok(()),
        done => done,
    }
}

fn set_limit(reporter: &Reporter, limit: LimitPlan) -> Result<(), Failure> {
    let failed = |errno| Failure::of(Step::SetLimit, &format!("{:?}", limit.resource))(errno);
    match berth_kernel::set_limit(limit.resource, limit.soft, limit.hard) {
        Err(Errno::PERM) => {}
        done => return done.map_err(failed),
    }
    let ceiling = getrlimit(limit.resource).maximum;
    let hard = lower(limit.hard, ceiling);
    let soft = lower(limit.soft, hard);
    berth_kernel::set_limit(limit.resource, soft, hard).map_err(failed)?;
    reporter.notice(
        Step::SetLimit,
        &format!(
            "{:?}: a hard limit of {} is not permitted, clamped to {}",
            limit.resource,
            words(limit.hard),
            words(hard)
        ),
    );
    Ok(())
}

fn lower(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn words(limit: Option<u64>) -> String {
    limit.map_or_else(|| "infinity".to_owned(), |limit| limit.to_string())
}

fn finite(limit: u64) -> Option<u64> {
    (limit != u64::MAX).then_some(limit)
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

fn scheduler(process: &Process) -> Result<Option<SchedulerPlan>, Invalid> {
    let Some(wanted) = process.scheduler() else {
        return Ok(None);
    };
    let policy = match wanted.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIdle => 5,
        other => {
            let problem = "is not a policy that a container can have";
            return Err(("process.scheduler.policy", other.to_string(), problem));
        }
    };
    let mut flags = 0;
    for flag in wanted.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
    }
    let priority = wanted.priority().unwrap_or(0);
    let invalid = |_| {
        let problem = "is negative";
        ("process.scheduler.priority", priority.to_string(), problem)
    };
    Ok(Some(SchedulerPlan {
        policy,
        flags,
        nice: wanted.nice().unwrap_or(0),
        priority: u32::try_from(priority).map_err(invalid)?,
    }))
}

fn io_priority(process: &Process) -> Result<Option<(u8, u8)>, Invalid> {
    let Some(wanted) = process.io_priority() else {
        return Ok(None);
    };
    let class = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u8::try_from(wanted.priority()) {
        Ok(level) if level < 8 => Ok(Some((class, level))),
        _ => {
            let value = wanted.priority().to_string();
            Err((
                "process.ioPriority.priority",
                value,
                "is not between 0 and 7",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, ProcessBuilder};

    fn limit(soft: u64, hard: u64) -> PosixRlimit {
        PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .soft(soft)
            .hard(hard)
            .build()
            .unwrap()
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let cases = [
            (vec![limit(2, 1)], None, false),
            (vec![limit(1, 2), limit(1, 2)], None, false),
            (vec![], Some(1001), false),
            (vec![], Some(-1001), false),
            (vec![limit(1, u64::MAX)], Some(-1000), true),
        ];
        for (limits, score, fine) in cases {
            let mut process = ProcessBuilder::default()
                .rlimits(limits.clone())
                .build()
                .unwrap();
            process.set_oom_score_adj(score);
            assert_eq!(
                LimitsPlan::new(&process).is_ok(),
                fine,
                "{limits:?} {score:?}"
            );
        }
    }
}
