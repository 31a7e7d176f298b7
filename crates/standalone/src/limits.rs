//! Limits of a host configuration in the core's terms.

use berth_lifecycle::request::{DeviceRequest, Resources, Rlimit};
use rustix::process::{Resource, getrlimit};

use crate::config::{HostConfig, Limits, Ulimit};
use crate::error::{Error, Result};

/// The least that a container can be given, in bytes.
const LEAST_MEMORY: i64 = 6 << 20;
/// Microseconds; what billionths of a CPU are counted by.
const PERIOD: u64 = 100_000;

/// Of a daemon that has no cgroups to limit anything by.
pub const DISCARDED: &str = "this daemon runs as an ordinary user who was given no cgroup: the limits \
                             of memory, CPU and processes are discarded";

/// Whether something is to be limited that takes a cgroup.
pub fn are_asked(limits: &Limits) -> bool {
    let others = Limits {
        ulimits: limits.ulimits.clone(),
        devices: limits.devices.clone(),
        ..Limits::default()
    };
    *limits != others
}

pub fn resources(host: &HostConfig) -> Result<Resources> {
    let limits = &host.limits;
    check(limits)?;
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let (mut period, mut quota) = (positive(limits.cpu_period), None);
    if limits.cpu_quota != 0 {
        quota = Some(limits.cpu_quota);
    }
    if let Some(nano) = positive(limits.nano_cpus) {
        period = Some(PERIOD);
        quota = i64::try_from(nano.saturating_mul(PERIOD) / 1_000_000_000).ok();
    }
    let memory = (limits.memory > 0).then_some(limits.memory);
    // Docker lets a container swap as much again as it has memory.
    let swap = match limits.memory_swap {
        0 => memory.map(|memory| memory.saturating_mul(2)),
        swap => Some(swap),
    };
    Ok(Resources {
        cpu_period: period,
        cpu_quota: quota,
        cpu_shares: positive(limits.cpu_shares),
        memory_limit: memory,
        memory_swap_limit: swap.filter(|_| memory.is_some()),
        oom_score_adj: (host.oom_score_adj != 0).then_some(host.oom_score_adj),
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        pids_limit: (limits.pids_limit > 0).then_some(limits.pids_limit),
        ..Resources::default()
    })
}

fn check(limits: &Limits) -> Result<()> {
    let bad = |problem: &str| Err(Error::invalid(problem));
    if limits.memory != 0 && limits.memory < LEAST_MEMORY {
        return bad("Minimum memory limit allowed is 6MB");
    }
    if limits.memory_swap > 0 && limits.memory == 0 {
        return bad(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if limits.memory_swap > 0 && limits.memory_swap < limits.memory {
        return bad("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if limits.nano_cpus > 0 && (limits.cpu_period > 0 || limits.cpu_quota > 0) {
        return bad("Conflicting options: Nano CPUs and CPU Period/Quota cannot both be set");
    }
    if limits.nano_cpus < 0 || limits.cpu_shares < 0 {
        return bad("CPU limits cannot be negative");
    }
    Ok(())
}

/// As getrlimit(2) names them. Without CAP_SYS_RESOURCE nobody's hard limit can be raised: what is
/// above that of the daemon is lowered to it.
pub fn rlimits(ulimits: &[Ulimit]) -> Result<Vec<Rlimit>> {
    ulimits.iter().map(rlimit).collect()
}

fn rlimit(ulimit: &Ulimit) -> Result<Rlimit> {
    let resource = KNOWN.iter().find(|(name, _)| *name == ulimit.name);
    let Some((name, resource)) = resource else {
        return Err(Error::invalid(format!(
            "invalid ulimit type: {}",
            ulimit.name
        )));
    };
    let value = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let (soft, hard) = (value(ulimit.soft), value(ulimit.hard));
    if soft > hard {
        let name = &ulimit.name;
        return Err(Error::invalid(format!(
            "ulimit {name}: soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    let most = getrlimit(*resource).maximum.unwrap_or(u64::MAX);
    Ok(Rlimit {
        name: format!("RLIMIT_{}", name.to_uppercase()),
        soft: soft.min(most),
        hard: hard.min(most),
    })
}

const KNOWN: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

pub fn devices(host: &HostConfig) -> Vec<DeviceRequest> {
    let given = host.limits.devices.iter();
    given
        .map(|device| DeviceRequest {
            host_path: device.path_on_host.clone(),
            container_path: match device.path_in_container.as_str() {
                "" => device.path_on_host.clone(),
                path => path.to_owned(),
            },
            permissions: match device.cgroup_permissions.as_str() {
                "" => "rwm".to_owned(),
                permissions => permissions.to_owned(),
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(limits: Limits) -> HostConfig {
        HostConfig {
            limits,
            ..HostConfig::default()
        }
    }

    #[test]
    fn parts_of_a_cpu_become_a_quota() {
        let found = resources(&host(Limits {
            nano_cpus: 1_500_000_000,
            memory: 64 << 20,
            ..Limits::default()
        }));
        let found = found.unwrap();
        assert_eq!(
            (found.cpu_period, found.cpu_quota),
            (Some(100_000), Some(150_000))
        );
        assert_eq!(found.memory_swap_limit, Some(128 << 20));
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let cases = [
            Limits {
                memory: 1,
                ..Limits::default()
            },
            Limits {
                memory_swap: 1 << 30,
                ..Limits::default()
            },
            Limits {
                memory: 1 << 30,
                memory_swap: 1 << 20,
                ..Limits::default()
            },
            Limits {
                nano_cpus: 1,
                cpu_quota: 5,
                ..Limits::default()
            },
        ];
        for case in cases {
            assert!(resources(&host(case.clone())).is_err(), "{case:?}");
        }
    }

    #[test]
    fn a_ulimit_is_named_and_ordered() {
        let wrong = Ulimit {
            name: "files".into(),
            soft: 1,
            hard: 1,
        };
        assert!(rlimit(&wrong).is_err());
        let upside = Ulimit {
            name: "nofile".into(),
            soft: 5,
            hard: 1,
        };
        assert!(rlimit(&upside).is_err());
        let right = Ulimit {
            name: "nofile".into(),
            soft: 5,
            hard: 10,
        };
        assert_eq!(rlimit(&right).unwrap().name, "RLIMIT_NOFILE");
    }
}
