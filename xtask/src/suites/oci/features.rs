//! What `features` says, next to what runc says: each difference is known, with its reason.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command::stdout;

/// What begins like this may be said by one side only.
const KNOWN: [(&str, &str); 10] = [
    ("/annotations/", "versions are each one's own"),
    (
        "/potentiallyUnsafeConfigAnnotations/",
        "no annotation changes what is done",
    ),
    ("/linux/cgroup/systemd", "cgroups are made as files"),
    ("/linux/intelRdt/", "resctrl groups are not made"),
    ("/linux/memoryPolicy/", "memory policies are not set"),
    ("/linux/netDevices/", "network devices are not moved"),
    (
        "/linux/seccomp/archs/",
        "filters are made for this machine's family",
    ),
    (
        "/linux/seccomp/actions/SCMP_ACT_NOTIFY",
        "agents of a seccomp filter",
    ),
    (
        "/linux/seccomp/knownFlags/",
        "threads are synchronised by there being one",
    ),
    ("/linux/seccomp/supportedFlags/", "as those that are known"),
];

/// Options of mounts that one side only has.
const MOUNT_OPTIONS: [&str; 7] = [
    "idmap",
    "ridmap", // runc takes them without naming them
    "iversion",
    "noiversion",
    "loud",
    "silent", // no flags of a new mount
    "tmpcopyup",
];

pub fn compare(ours: &Path, runc: &Path) -> Result<()> {
    let (ours, theirs) = (features(ours)?, features(runc)?);
    let unknown: Vec<&String> = ours
        .symmetric_difference(&theirs)
        .filter(|line| !is_known(line))
        .collect();
    ensure!(unknown.is_empty(), "{unknown:?} is said by one side only");
    Ok(())
}

fn is_known(line: &str) -> bool {
    let option = line.strip_prefix("/mountOptions/");
    KNOWN.iter().any(|(start, _)| line.starts_with(start))
        || option.is_some_and(|option| MOUNT_OPTIONS.contains(&option))
}

/// One line for each value, with the way to it.
fn features(program: &Path) -> Result<BTreeSet<String>> {
    let said = stdout(Command::new(program).arg("features"))?;
    let said: Value = serde_json::from_str(&said).context("reading features")?;
    let mut lines = BTreeSet::new();
    flatten(&said, "", &mut lines);
    ensure!(lines.len() > 100, "{} features", lines.len());
    Ok(lines)
}

fn flatten(value: &Value, path: &str, lines: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                flatten(value, &format!("{path}/{name}"), lines);
            }
        }
        Value::Array(items) => {
            for item in items {
                let item = item
                    .as_str()
                    .map_or_else(|| item.to_string(), str::to_owned);
                lines.insert(format!("{path}/{item}"));
            }
        }
        other => {
            lines.insert(format!("{path}={other}"));
        }
    }
}
