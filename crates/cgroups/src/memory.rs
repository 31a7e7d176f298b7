//! The memory controller: limit, swap, reservation, v1's switches.

use crate::cgroup::{Cgroup, Home};
use crate::control::{ControlDir, absent, flat_value};
use crate::error::{Error, Result};
use crate::layout::Controller;
use oci_spec::runtime::LinuxMemory;
use rustix::io::Errno;

/// Negative numbers in a spec mean "no limit".
const NONE: i64 = -1;

pub(crate) fn apply(cgroup: &Cgroup, memory: &LinuxMemory) -> Result<()> {
    if *memory == LinuxMemory::default() {
        return Ok(());
    }
    let limits = Limits::of(memory)?;
    match cgroup.require(Controller::Memory)? {
        Home::V1(directory) => apply_v1(directory, memory, &limits),
        Home::V2(directory) => apply_v2(directory, memory, &limits),
    }
}

/// Refuses limits that contradict each other.
pub(crate) fn check(memory: &LinuxMemory) -> Result<()> {
    Limits::of(memory).map(drop)
}

/// The pair that depends on each other. A spec's swap is memory and swap
/// together; 0 asks for nothing.
struct Limits {
    memory: Option<i64>,
    memory_and_swap: Option<i64>,
}

impl Limits {
    fn of(memory: &LinuxMemory) -> Result<Self> {
        let limits = Self {
            memory: asked(memory.limit()),
            memory_and_swap: asked(memory.swap()),
        };
        match (limits.memory, limits.memory_and_swap) {
            (Some(NONE), Some(total)) if total != NONE => Err(invalid_swap(
                total,
                "limits memory and swap together while memory is unlimited",
            )),
            (Some(limit), Some(total)) if total != NONE && total < limit => Err(invalid_swap(
                total,
                "is below the memory limit, which it includes",
            )),
            _ => Ok(limits),
        }
    }
}

fn invalid_swap(total: i64, problem: &'static str) -> Error {
    Error::InvalidResource {
        setting: "memory.swap",
        value: total.to_string(),
        problem,
    }
}

fn asked(value: Option<i64>) -> Option<i64> {
    value.filter(|v| *v != 0).map(|v| v.max(NONE))
}

fn apply_v1(directory: &ControlDir, memory: &LinuxMemory, limits: &Limits) -> Result<()> {
    if memory.check_before_update() == Some(true)
        && let Some(limit) = limits.memory
    {
        check_usage(directory, "memory.usage_in_bytes", LIMIT_V1, limit)?;
    }
    limits_v1(directory, limits)?;
    if let Some(reservation) = asked(memory.reservation()) {
        directory.write("memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    // Kernels have dropped these two one after the other, and the runtime
    // specification lets them be ignored then.
    for (file, value) in [
        ("memory.kmem.limit_in_bytes", memory.kernel()),
        ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp()),
    ] {
        let Some(value) = asked(value) else { continue };
        let value = value.to_string();
        match directory.try_write(file, &value) {
            Ok(()) => {}
            Err(e) if absent(&e) => {}
            Err(source) => return Err(directory.write_error(file, &value, source)),
        }
    }
    if let Some(swappiness) = memory.swappiness() {
        directory.write("memory.swappiness", &swappiness.to_string())?;
    }
    if let Some(disable) = memory.disable_oom_killer() {
        let content = directory.read("memory.oom_control")?;
        if flat_value(&content, "oom_kill_disable") != Some(u64::from(disable)) {
            directory.write("memory.oom_control", &u64::from(disable).to_string())?;
        }
    }
    if let Some(hierarchy) = memory.use_hierarchy()
        && directory.read_number("memory.use_hierarchy")? != u64::from(hierarchy)
    {
        directory.write("memory.use_hierarchy", &u64::from(hierarchy).to_string())?;
    }
    Ok(())
}

const LIMIT_V1: &str = "memory.limit_in_bytes";
const SWAP_V1: &str = "memory.memsw.limit_in_bytes";

/// The kernel refuses, at every moment, a memory limit above that of memory
/// and swap: raising begins with the sum, lowering with memory.
fn limits_v1(directory: &ControlDir, limits: &Limits) -> Result<()> {
    match (limits.memory, limits.memory_and_swap) {
        (None, None) => Ok(()),
        (None, Some(total)) => limit_v1(directory, SWAP_V1, total),
        (Some(limit), None) => {
            let direct = limit_v1(directory, LIMIT_V1, limit);
            let refused = |e: &Error| e.raw_os_error() == Some(Errno::INVAL.raw_os_error());
            match direct {
                // No limit on memory makes sense only with none on the sum.
                Err(e) if limit == NONE && refused(&e) => {
                    limit_v1(directory, SWAP_V1, NONE)?;
                    limit_v1(directory, LIMIT_V1, NONE)
                }
                other => other,
            }
        }
        (Some(limit), Some(total)) => {
            let Some(present) = directory.read_number_optional(SWAP_V1)? else {
                // Without swap accounting there is only one limit to set. No limit
                // on swap is what the kernel does anyway; no swap at all, which
                // is what every memory limit asks for, cannot be had.
                limit_v1(directory, LIMIT_V1, limit)?;
                return if total == NONE || total == limit {
                    Ok(())
                } else {
                    limit_v1(directory, SWAP_V1, total)
                };
            };
            let raising = u64::try_from(total).is_ok_and(|total| total > present);
            if total == NONE || raising {
                limit_v1(directory, SWAP_V1, total)?;
                limit_v1(directory, LIMIT_V1, limit)
            } else {
                limit_v1(directory, LIMIT_V1, limit)?;
                limit_v1(directory, SWAP_V1, total)
            }
        }
    }
}

/// The kernel reclaims what it can and answers EBUSY if that is not enough.
fn limit_v1(directory: &ControlDir, file: &str, limit: i64) -> Result<()> {
    let value = limit.to_string();
    match directory.try_write(file, &value) {
        Ok(()) => Ok(()),
        Err(e) if Errno::from_io_error(&e) == Some(Errno::BUSY) => {
            let usage = match file {
                SWAP_V1 => "memory.memsw.usage_in_bytes",
                _ => "memory.usage_in_bytes",
            };
            Err(Error::LimitBelowUsage {
                file: directory.file(file),
                limit,
                usage: directory.read_number(usage)?,
            })
        }
        Err(source) => Err(directory.write_error(file, &value, source)),
    }
}

fn apply_v2(directory: &ControlDir, memory: &LinuxMemory, limits: &Limits) -> Result<()> {
    let unsupported = |setting| Error::Unsupported {
        setting,
        version: "v2",
    };
    if memory.swappiness().is_some() {
        return Err(unsupported("memory.swappiness"));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(unsupported("memory.oom_control"));
    }
    if let Some(limit) = limits.memory {
        let strict = memory.check_before_update() == Some(true);
        make_room(directory, limit, strict)?;
    }
    // Swap has its own limit here, so the order does not matter to the
    // kernel; swap first keeps pages from moving there in between.
    if let Some(swap) = swap_v2(directory, limits)?
        && (swap > 0 || directory.has("memory.swap.max"))
    {
        directory.write("memory.swap.max", &words(swap))?;
    }
    if let Some(limit) = limits.memory {
        directory.write("memory.max", &words(limit))?;
    }
    if let Some(reservation) = asked(memory.reservation()) {
        directory.write("memory.low", &words(reservation))?;
    }
    Ok(())
}

/// The v2 swap limit, which leaves memory out.
fn swap_v2(directory: &ControlDir, limits: &Limits) -> Result<Option<i64>> {
    let Some(total) = limits.memory_and_swap else {
        return Ok(None);
    };
    if total == NONE {
        return Ok(Some(NONE));
    }
    let memory = match limits.memory {
        Some(limit) => limit,
        None => {
            let present = directory.read_number("memory.max")?;
            i64::try_from(present).unwrap_or(NONE)
        }
    };
    if memory == NONE || total < memory {
        return Err(invalid_swap(
            total,
            "is below the memory limit, which it includes",
        ));
    }
    Ok(Some(total - memory))
}

/// Lowering `memory.max` below the usage makes the kernel reclaim and then
/// kill. Berth reclaims by itself and refuses if that was not enough; `strict`
/// refuses at once.
fn make_room(directory: &ControlDir, limit: i64, strict: bool) -> Result<()> {
    const USAGE: &str = "memory.current";
    const LIMIT: &str = "memory.max";
    let Ok(wanted) = u64::try_from(limit) else {
        return Ok(());
    };
    let usage = directory.read_number(USAGE)?;
    if usage <= wanted {
        return Ok(());
    }
    if !strict {
        // Fails if less than this could be reclaimed, or on kernels without
        // the file; the check below decides either way.
        let _ = directory.try_write("memory.reclaim", &(usage - wanted).to_string());
    }
    check_usage(directory, USAGE, LIMIT, limit)
}

fn check_usage(directory: &ControlDir, usage: &str, file: &str, limit: i64) -> Result<()> {
    let usage = directory.read_number(usage)?;
    match u64::try_from(limit) {
        Ok(wanted) if usage > wanted => Err(Error::LimitBelowUsage {
            file: directory.file(file),
            limit,
            usage,
        }),
        _ => Ok(()),
    }
}

fn words(value: i64) -> String {
    if value == NONE {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;
    use oci_spec::runtime::{LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder};

    fn resources(memory: LinuxMemoryBuilder) -> LinuxResources {
        LinuxResourcesBuilder::default()
            .memory(memory.build().unwrap())
            .build()
            .unwrap()
    }

    fn memory() -> LinuxMemoryBuilder {
        LinuxMemoryBuilder::default()
    }

    #[test]
    fn v1_takes_only_what_is_asked_for() {
        let tree = FakeTree::v1(&["memory"]);
        let cgroup = tree.cgroup("/a");
        let unset = [
            LIMIT_V1,
            "memory.soft_limit_in_bytes",
            "memory.swappiness",
            "memory.kmem.tcp.limit_in_bytes",
        ];
        for file in unset {
            tree.put("memory/a", file, "unset");
        }
        tree.put("memory/a", SWAP_V1, "9223372036854771712");
        cgroup
            .apply(&resources(memory().limit(0i64).swap(0i64)))
            .unwrap();
        for file in unset {
            assert_eq!(tree.get("memory/a", file), "unset", "{file}");
        }
        let all = memory()
            .limit(1000i64)
            .swap(2000i64)
            .reservation(500i64)
            .swappiness(10u64)
            .kernel(7i64)
            .kernel_tcp(8i64);
        cgroup.apply(&resources(all)).unwrap();
        for (file, value) in [
            (LIMIT_V1, "1000"),
            (SWAP_V1, "2000"),
            ("memory.soft_limit_in_bytes", "500"),
            ("memory.swappiness", "10"),
            ("memory.kmem.tcp.limit_in_bytes", "8"),
        ] {
            assert_eq!(tree.get("memory/a", file), value, "{file}");
        }
    }

    #[test]
    fn v1_switches_are_written_only_if_they_change() {
        let tree = FakeTree::v1(&["memory"]);
        let cgroup = tree.cgroup("/a");
        for (disable, present, expected) in [
            (false, "oom_kill_disable 0\n", "oom_kill_disable 0\n"),
            (true, "oom_kill_disable 0\n", "1"),
            (false, "oom_kill_disable 1\n", "0"),
        ] {
            tree.put("memory/a", "memory.oom_control", present);
            cgroup
                .apply(&resources(memory().disable_oom_killer(disable)))
                .unwrap();
            assert_eq!(tree.get("memory/a", "memory.oom_control"), expected);
        }
    }

    #[test]
    fn contradictory_limits_are_refused_before_anything_is_written() {
        for tree in [FakeTree::v1(&["memory"]), FakeTree::v2("memory")] {
            let cgroup = tree.cgroup("/a");
            for (limit, swap) in [(2000, 1000), (-1, 1000)] {
                let error = cgroup
                    .apply(&resources(memory().limit(limit).swap(swap)))
                    .unwrap_err();
                let Error::InvalidResource { setting, value, .. } = error else {
                    panic!("{error:?}");
                };
                assert_eq!((setting, value.as_str()), ("memory.swap", "1000"));
            }
        }
    }

    #[test]
    fn v2_swap_leaves_memory_out() {
        let tree = FakeTree::v2("memory");
        let cgroup = tree.cgroup("/a");
        for (limit, swap, max, swap_max) in [
            (Some(1000), Some(3000), "1000", "2000"),
            (Some(1000), Some(1000), "1000", "0"),
            (Some(1000), Some(-1), "1000", "max"),
            (Some(-1), Some(-1), "max", "max"),
            (Some(1000), None, "1000", "unset"),
            (None, Some(9000), "5000", "4000"),
        ] {
            tree.put("a", "memory.max", "5000");
            tree.put("a", "memory.swap.max", "unset");
            tree.put("a", "memory.current", "0");
            let mut builder = memory();
            if let Some(limit) = limit {
                builder = builder.limit(limit);
            }
            if let Some(swap) = swap {
                builder = builder.swap(swap);
            }
            cgroup.apply(&resources(builder)).unwrap();
            assert_eq!(tree.get("a", "memory.max"), max, "{limit:?} {swap:?}");
            assert_eq!(
                tree.get("a", "memory.swap.max"),
                swap_max,
                "{limit:?} {swap:?}"
            );
        }
        let error = cgroup.apply(&resources(memory().swap(10i64))).unwrap_err();
        assert!(matches!(error, Error::InvalidResource { .. }));
    }

    #[test]
    fn a_limit_below_the_usage_names_file_and_value() {
        let tree = FakeTree::v2("memory");
        let cgroup = tree.cgroup("/a");
        tree.put("a", "memory.max", "max");
        tree.put("a", "memory.current", "4096");
        tree.put("a", "memory.reclaim", "");
        for (strict, reclaimed) in [(true, ""), (false, "3096")] {
            let builder = memory().limit(1000i64).check_before_update(strict);
            let error = cgroup.apply(&resources(builder)).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("memory.max") && text.contains("1000"),
                "{text}"
            );
            assert!(matches!(
                error,
                Error::LimitBelowUsage {
                    limit: 1000,
                    usage: 4096,
                    ..
                }
            ));
            assert_eq!(tree.get("a", "memory.reclaim"), reclaimed);
            assert_eq!(tree.get("a", "memory.max"), "max");
        }
    }

    #[test]
    fn v1_only_settings_are_refused_on_v2() {
        let tree = FakeTree::v2("memory");
        let cgroup = tree.cgroup("/a");
        for builder in [memory().swappiness(5u64), memory().disable_oom_killer(true)] {
            let error = cgroup.apply(&resources(builder)).unwrap_err();
            assert!(matches!(error, Error::Unsupported { version: "v2", .. }));
        }
        cgroup
            .apply(&resources(memory().disable_oom_killer(false).kernel(5i64)))
            .unwrap();
    }
}
