use super::id;
use crate::arguments::{Arguments, Flag, value};
use crate::bundle;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::journal::Journal;
use crate::store::{self, Entry};
use berth_names::bytes;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use std::path::Path;

pub const FLAGS: &[Flag] = &[
    value(
        "resources",
        "r",
        "path to the file containing the resources to update or '-' to read from the standard input; all other options are ignored then",
    ),
    value(
        "blkio-weight",
        "",
        "per cgroup weight, range is from 10 to 1000",
    ),
    value(
        "cpu-period",
        "",
        "CPU CFS period to be used for hardcapping (in usecs)",
    ),
    value("cpu-quota", "", "CPU CFS hardcap limit (in usecs)"),
    value("cpu-burst", "", "CPU CFS hardcap burst limit (in usecs)"),
    value(
        "cpu-share",
        "",
        "CPU shares (relative weight vs. other containers)",
    ),
    value(
        "cpu-rt-period",
        "",
        "CPU realtime period to be used for hardcapping (in usecs)",
    ),
    value(
        "cpu-rt-runtime",
        "",
        "CPU realtime hardcap limit (in usecs)",
    ),
    value("cpuset-cpus", "", "CPU(s) to use"),
    value("cpuset-mems", "", "memory node(s) to use"),
    value("kernel-memory", "", ""),
    value("kernel-memory-tcp", "", ""),
    value("memory", "", "memory limit (in bytes)"),
    value(
        "cpu-idle",
        "",
        "set cgroup SCHED_IDLE or not, 0: default behavior, 1: SCHED_IDLE",
    ),
    value(
        "memory-reservation",
        "",
        "memory reservation or soft_limit (in bytes)",
    ),
    value(
        "memory-swap",
        "",
        "total memory usage (memory + swap); set '-1' to enable unlimited swap",
    ),
    value(
        "pids-limit",
        "",
        "maximum number of pids allowed in the container",
    ),
    value("l3-cache-schema", "", ""),
    value("mem-bw-schema", "", ""),
];

pub fn run(global: &Global, journal: &Journal, given: &Arguments) -> Result<u8> {
    for name in ["l3-cache-schema", "mem-bw-schema"] {
        if given.is_given(name) {
            return Err(Error::Unsupported {
                feature: "Intel RDT",
                instead: "leave out --l3-cache-schema and --mem-bw-schema",
            });
        }
    }
    if given.is_given("kernel-memory") || given.is_given("kernel-memory-tcp") {
        journal.warning("Kernel memory settings are ignored");
    }
    let entry = Entry::find(&global.root, id(given))?;
    let container = store::load_alive(&entry.state()?)?;
    let resources = match given.value("resources") {
        Some("-") => parse_input()?,
        Some(file) => bundle::parse(Path::new(file))?,
        None => from_options(given)?,
    };
    container.update(&settled(resources))?;
    Ok(0)
}

fn parse_input() -> Result<LinuxResources> {
    serde_json::from_reader(std::io::stdin()).map_err(|source| Error::Json {
        path: Path::new("standard input").to_owned(),
        source,
    })
}

fn from_options(given: &Arguments) -> Result<LinuxResources> {
    let text = |name| given.value(name).map(str::to_owned);
    let mut cpu = LinuxCpu::default();
    cpu.set_cpus(text("cpuset-cpus"))
        .set_mems(text("cpuset-mems"))
        .set_idle(given.number("cpu-idle")?)
        .set_burst(given.number("cpu-burst")?)
        .set_period(given.number("cpu-period")?)
        .set_realtime_period(given.number("cpu-rt-period")?)
        .set_shares(given.number("cpu-share")?)
        .set_quota(given.number("cpu-quota")?)
        .set_realtime_runtime(given.number("cpu-rt-runtime")?);
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(size(given, "memory")?)
        .set_swap(size(given, "memory-swap")?)
        .set_reservation(size(given, "memory-reservation")?);
    let mut resources = LinuxResources::default();
    resources
        .set_devices(None)
        .set_cpu(Some(cpu))
        .set_memory(Some(memory));
    if let Some(limit) = given.number("pids-limit")? {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = given
        .number::<u16>("blkio-weight")?
        .filter(|weight| *weight != 0)
    {
        let mut block_io = LinuxBlockIo::default();
        block_io.set_weight(Some(weight));
        resources.set_block_io(Some(block_io));
    }
    Ok(resources)
}

/// Device rules are those of create; and a limit that is lifted lifts that of
/// swap, which the kernel does not let lie below it.
fn settled(mut resources: LinuxResources) -> LinuxResources {
    resources.set_devices(None);
    if let Some(memory) = resources.memory_mut()
        && memory.limit() == Some(-1)
        && memory.swap().is_none()
    {
        memory.set_swap(Some(-1));
    }
    resources
}

/// Bytes, with the units of Docker: `512m`, `1.5GiB`, `-1` for none.
fn size(given: &Arguments, name: &'static str) -> Result<Option<i64>> {
    let Some(text) = given.value(name) else {
        return Ok(None);
    };
    let bytes = match text {
        "-1" => Some(-1),
        text => bytes(text).and_then(|bytes| i64::try_from(bytes).ok()),
    };
    bytes.map(Some).ok_or_else(|| Error::InvalidOption {
        name,
        value: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::parse;

    fn resources(line: &str) -> Result<LinuxResources> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        from_options(&parse(FLAGS, &words, true)?).map(settled)
    }

    #[test]
    fn only_what_is_given_is_set() {
        let found = resources("c --memory 64m --pids-limit 5").unwrap();
        assert_eq!(found.memory().as_ref().unwrap().limit(), Some(64 << 20));
        assert_eq!(found.memory().as_ref().unwrap().swap(), None);
        assert_eq!(found.pids().as_ref().unwrap().limit(), 5);
        assert_eq!(found.cpu().as_ref().unwrap().shares(), None);
        assert!(found.block_io().is_none() && found.devices().is_none());
        let lifted = resources("c --memory -1").unwrap();
        assert_eq!(lifted.memory().as_ref().unwrap().swap(), Some(-1));
        assert!(resources("c --memory lots").is_err());
        assert!(resources("c --cpu-share -3").is_err());
    }

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("1024", Some(1024)),
            ("512m", Some(512 << 20)),
            ("1GiB", Some(1 << 30)),
            ("1.5k", Some(1536)),
            ("2 kb", Some(2048)),
            ("x", None),
            ("1z", None),
            ("", None),
            ("99999999999999p", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
