//! Which crate may depend on which. The table is the architecture: a new arrow
//! is a decision, taken here and not in passing in a manifest.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{cargo, stdout};
use crate::workspace;

/// A crate and what it may use, from the bottom up. Test fixtures are free to
/// every crate's tests.
const ALLOWED: &[(&str, &[&str])] = &[
    ("berth-names", &[]),
    ("berth-faults", &[]),
    ("berth-api", &[]),
    ("berth-kernel", &[]),
    ("berth-copytree", &[]),
    ("berth-rootless", &["berth-kernel"]),
    ("berth-cdi", &[]),
    ("berth-ignore", &[]),
    ("berth-seccomp", &[]),
    ("berth-cgroups", &["berth-kernel", "berth-names"]),
    ("berth-criu", &["berth-kernel"]),
    (
        "berth-executor",
        &[
            "berth-criu",
            "berth-cgroups",
            "berth-seccomp",
            "berth-copytree",
            "berth-kernel",
            "berth-names",
        ],
    ),
    (
        "berth-oci",
        &[
            "berth-executor",
            "berth-criu",
            "berth-cgroups",
            "berth-kernel",
            "berth-names",
        ],
    ),
    (
        "containerd-shim-berth-v1",
        &[
            "berth-executor",
            "berth-criu",
            "berth-cgroups",
            "berth-seccomp",
            "berth-api",
            "berth-kernel",
            "berth-names",
        ],
    ),
    (
        "berth-shim-client",
        &["berth-api", "berth-kernel", "berth-names", "berth-faults"],
    ),
    ("berth-metadata", &["berth-names", "berth-faults"]),
    (
        "berth-content",
        &["berth-kernel", "berth-names", "berth-faults"],
    ),
    ("berth-registry", &["berth-names"]),
    ("berth-plugins", &[]),
    (
        "berth-snapshots",
        &["berth-kernel", "berth-names", "berth-faults"],
    ),
    ("berth-unpack", &["berth-kernel", "berth-names"]),
    (
        "berth-unpack-worker",
        &["berth-unpack", "berth-seccomp", "berth-kernel"],
    ),
    (
        "berth-images",
        &[
            "berth-content",
            "berth-registry",
            "berth-snapshots",
            "berth-unpack-worker",
            "berth-unpack",
            "berth-metadata",
            "berth-kernel",
            "berth-names",
            "berth-faults",
        ],
    ),
    (
        "berth-network",
        &[
            "berth-plugins",
            "berth-metadata",
            "berth-kernel",
            "berth-names",
            "berth-faults",
        ],
    ),
    (
        "berth-lifecycle",
        &[
            "berth-cdi",
            "berth-images",
            "berth-network",
            "berth-snapshots",
            "berth-metadata",
            "berth-shim-client",
            "berth-criu",
            "berth-unpack",
            "berth-cgroups",
            "berth-seccomp",
            "berth-copytree",
            "berth-kernel",
            "berth-names",
            "berth-faults",
        ],
    ),
    ("berth-tls", &[]),
    ("berth-streaming", &["berth-tls"]),
    (
        "berth-cri",
        &[
            "berth-streaming",
            "berth-lifecycle",
            "berth-images",
            "berth-network",
            "berth-registry",
            "berth-cgroups",
            "berth-api",
            "berth-names",
        ],
    ),
    (
        "berth-standalone",
        &[
            "berth-lifecycle",
            "berth-images",
            "berth-network",
            "berth-plugins",
            "berth-metadata",
            "berth-names",
            "berth-faults",
        ],
    ),
    (
        "berth-build",
        &[
            "berth-ignore",
            "berth-lifecycle",
            "berth-images",
            "berth-network",
            "berth-metadata",
            "berth-registry",
            "berth-unpack",
            "berth-kernel",
            "berth-names",
        ],
    ),
    (
        "berth-engine",
        &[
            "berth-build",
            "berth-standalone",
            "berth-tls",
            "berth-lifecycle",
            "berth-images",
            "berth-network",
            "berth-plugins",
            "berth-snapshots",
            "berth-metadata",
            "berth-registry",
            "berth-unpack",
            "berth-cgroups",
            "berth-kernel",
            "berth-names",
        ],
    ),
    (
        "berthd",
        &[
            "berth-build",
            "berth-cri",
            "berth-engine",
            "berth-standalone",
            "berth-streaming",
            "berth-tls",
            "berth-lifecycle",
            "berth-images",
            "berth-network",
            "berth-plugins",
            "berth-snapshots",
            "berth-content",
            "berth-metadata",
            "berth-registry",
            "berth-rootless",
            "berth-unpack-worker",
            "berth-shim-client",
            "berth-cgroups",
            "berth-api",
            "berth-kernel",
            "berth-names",
            "berth-faults",
        ],
    ),
    ("berth-compose", &["berth-ignore"]),
    // It knows the daemon by its socket alone.
    ("berth-cli", &["berth-compose", "berth-ignore"]),
    ("berth-testkit", &["berth-api", "berth-names"]),
    ("xtask", &["berth-testkit", "berth-api", "berth-names"]),
];

const FIXTURES: &str = "berth-testkit";

/// Arrows upwards that tests may draw: the shim is tested through its client.
const IN_TESTS: &[(&str, &str)] = &[("containerd-shim-berth-v1", "berth-shim-client")];

/// One line for every arrow that the table does not have.
pub fn check() -> Result<Vec<String>> {
    broken(&manifests()?)
}

/// What cargo reads in the manifests of the workspace.
pub fn manifests() -> Result<Value> {
    let metadata = stdout(cargo().current_dir(workspace::root()).args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
    ]))?;
    serde_json::from_str(&metadata).context("reading cargo metadata")
}

fn broken(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata without packages")?;
    let members: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();

    let mut broken = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ALLOWED.iter().find(|(member, _)| *member == name) else {
            broken.push(format!(
                "{name} has no place in the table of xtask/src/lint/direction.rs"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let in_tests = dependency["kind"] == "dev" && tests_may_use(name, used);
            if members.contains(used) && !allowed.contains(&used) && !in_tests {
                broken.push(format!("{name} may not depend on {used}"));
            }
        }
    }
    Ok(broken)
}

/// Tests may use fixtures and whatever lies below; a crate may name itself to
/// switch features on.
fn tests_may_use(name: &str, used: &str) -> bool {
    let place = |name: &str| ALLOWED.iter().position(|(member, _)| *member == name);
    used == FIXTURES
        || used == name
        || IN_TESTS.contains(&(name, used))
        || place(used) < place(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependency: &str, kind: Value) -> Value {
        json!({ "packages": [
            { "name": name, "dependencies": [{ "name": dependency, "kind": kind }] },
            { "name": dependency, "dependencies": [] },
        ]})
    }

    #[test]
    fn arrows_upwards_are_found() {
        for (from, to, kind, expected) in [
            ("berth-names", "berth-cri", Value::Null, 1),
            ("berth-snapshots", "berth-testkit", Value::Null, 1),
            ("berth-snapshots", "berth-testkit", json!("dev"), 0),
            ("berth-snapshots", "berth-snapshots", json!("dev"), 0),
            ("berth-seccomp", "berth-kernel", json!("dev"), 0),
            ("berth-seccomp", "berth-kernel", Value::Null, 1),
            ("berth-kernel", "berth-seccomp", json!("dev"), 1),
            ("berthd", "berth-cri", Value::Null, 0),
        ] {
            let found = broken(&package(from, to, kind)).unwrap();
            assert_eq!(found.len(), expected, "{from} -> {to}: {found:?}");
        }
    }

    #[test]
    fn unknown_member_is_found() {
        let found =
            broken(&json!({ "packages": [{ "name": "new", "dependencies": [] }] })).unwrap();
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn table_has_no_way_back() {
        let place = |name: &str| ALLOWED.iter().position(|(member, _)| *member == name);
        for (from, allowed) in ALLOWED {
            for to in *allowed {
                assert!(place(to).is_some(), "{to} is not in the table");
                let ends = from == &"xtask" || from == &FIXTURES;
                assert!(
                    ends || place(to) < place(from),
                    "{from} -> {to} points upwards"
                );
            }
        }
    }
}
