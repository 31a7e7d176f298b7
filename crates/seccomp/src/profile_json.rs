//! Profiles from files.
//!
//! The format of container engines: the runtime specification's `seccomp`
//! section, in which rules may also say when they are meant
//! (`includes`/`excludes`: capabilities, architectures, kernel) and
//! architectures may be given as a map (`archMap`). Older files have one
//! `name` per rule.

use crate::architecture::Architecture;
use crate::default_profile::argument;
use crate::error::{Error, Result};
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;
use std::path::PathBuf;

/// Real profiles are tens of KiB.
const MAX_BYTES: usize = 1 << 20;

/// What a profile's conditional rules are decided for.
#[derive(Debug, Clone)]
pub struct Target {
    pub architecture: Architecture,
    /// The container's bounding set.
    pub capabilities: Vec<Capability>,
    /// Major and minor version of the running kernel; `None` passes every
    /// `minKernel`.
    pub kernel: Option<(u32, u32)>,
}

/// Reads a profile for a container without capabilities on this machine, as
/// for a `Localhost` profile of Kubernetes.
pub fn profile_from_json(json: &[u8]) -> Result<LinuxSeccomp> {
    profile_from_json_for(
        json,
        &Target {
            architecture: Architecture::native()?,
            capabilities: Vec::new(),
            kernel: None,
        },
    )
}

/// Reads a profile and keeps the rules that are meant for `target`. Fields
/// that are not known are passed over; values that are not, are errors.
pub fn profile_from_json_for(json: &[u8], target: &Target) -> Result<LinuxSeccomp> {
    if json.len() > MAX_BYTES {
        return Err(Error::ProfileTooLarge {
            bytes: json.len(),
            limit: MAX_BYTES,
        });
    }
    let file: File = serde_json::from_slice(json).map_err(|source| Error::Json { source })?;
    let default_errno = errno("defaultErrno", file.default_errno, file.default_errno_ret)?;
    let mut rules = Vec::new();
    for rule in file.syscalls.unwrap_or_default() {
        rules.extend(rule.resolve(target)?);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(file.default_action)
        .set_default_errno_ret(default_errno)
        .set_architectures(architectures(file.architectures, file.arch_map, target))
        .set_flags(file.flags)
        .set_listener_path(file.listener_path)
        .set_listener_metadata(file.listener_metadata)
        .set_syscalls(Some(rules));
    Ok(profile)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<Architectures>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architectures {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    errno: Option<String>,
    args: Option<Vec<Argument>>,
    includes: Option<When>,
    excludes: Option<When>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: usize,
    #[serde(default)]
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct When {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Rule {
    fn resolve(self, target: &Target) -> Result<Option<LinuxSyscall>> {
        let names = match (self.name, self.names) {
            (Some(name), None) => vec![name],
            (None, Some(names)) => names,
            (Some(name), Some(names)) if names.is_empty() => vec![name],
            (Some(name), Some(_)) => {
                return Err(Error::InvalidField {
                    field: "name",
                    value: name,
                    problem: "is given beside names",
                });
            }
            (None, None) => Vec::new(),
        };
        let includes = self.includes.unwrap_or_default();
        let excludes = self.excludes.unwrap_or_default();
        if !includes.all_hold(target)? || excludes.any_holds(target)? {
            return Ok(None);
        }
        let arguments = self
            .args
            .filter(|arguments| !arguments.is_empty())
            .map(|arguments| {
                arguments
                    .into_iter()
                    .map(|given| argument(given.index, given.op, given.value, given.value_two))
                    .collect()
            });
        let mut rule = LinuxSyscall::default();
        rule.set_names(names)
            .set_action(self.action)
            .set_errno_ret(errno("errno", self.errno, self.errno_ret)?)
            .set_args(arguments);
        Ok(Some(rule))
    }
}

impl When {
    /// All capabilities, one of the architectures, at least the kernel.
    fn all_hold(&self, target: &Target) -> Result<bool> {
        let capabilities = self.caps.iter().flatten().all(|name| has(target, name));
        let architectures = self.arches.as_deref().unwrap_or_default();
        let architecture = architectures.is_empty()
            || architectures
                .iter()
                .any(|name| is(target.architecture, name));
        let kernel = self
            .min_kernel()?
            .is_none_or(|least| reaches(target, least));
        Ok(capabilities && architecture && kernel)
    }

    fn any_holds(&self, target: &Target) -> Result<bool> {
        let capability = self.caps.iter().flatten().any(|name| has(target, name));
        let architecture = self
            .arches
            .iter()
            .flatten()
            .any(|name| is(target.architecture, name));
        let kernel = self
            .min_kernel()?
            .is_some_and(|least| reaches(target, least));
        Ok(capability || architecture || kernel)
    }

    fn min_kernel(&self) -> Result<Option<(u32, u32)>> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let version = text
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        version.map(Some).ok_or_else(|| Error::InvalidField {
            field: "minKernel",
            value: text.chars().take(64).collect(),
            problem: "is not a version like 4.8",
        })
    }
}

fn has(target: &Target, name: &str) -> bool {
    target
        .capabilities
        .iter()
        .any(|capability| capability_name(*capability) == name)
}

/// `CAP_SYS_ADMIN` for `SysAdmin`, by the type's own serialisation.
fn capability_name(capability: Capability) -> String {
    match serde_json::to_value(capability) {
        Ok(serde_json::Value::String(name)) if name.starts_with("CAP_") => name,
        Ok(serde_json::Value::String(name)) => format!("CAP_{name}"),
        _ => String::new(),
    }
}

/// Architectures are named in conditions as Go names them, and by some
/// profiles as the specification does.
fn is(architecture: Architecture, name: &str) -> bool {
    let names: &[&str] = match architecture {
        Architecture::X86_64 => &["amd64", "SCMP_ARCH_X86_64"],
        Architecture::X86 => &["386", "x86", "SCMP_ARCH_X86"],
        Architecture::X32 => &["x32", "SCMP_ARCH_X32"],
        Architecture::Aarch64 => &["arm64", "SCMP_ARCH_AARCH64"],
        Architecture::Arm => &["arm", "SCMP_ARCH_ARM"],
    };
    // A profile for the machine covers the programs of its family.
    names.contains(&name)
        || architecture
            .family()
            .iter()
            .any(|member| *member != architecture && is(*member, name))
}

fn reaches(target: &Target, least: (u32, u32)) -> bool {
    target.kernel.is_none_or(|kernel| kernel >= least)
}

fn architectures(
    list: Option<Vec<Arch>>,
    map: Option<Vec<Architectures>>,
    target: &Target,
) -> Option<Vec<Arch>> {
    match map {
        Some(map) if !map.is_empty() => {
            let native = target.architecture.to_oci();
            let entry = map.into_iter().find(|entry| entry.architecture == native)?;
            let mut all = vec![entry.architecture];
            all.extend(entry.sub_architectures.unwrap_or_default());
            Some(all)
        }
        _ => list,
    }
}

/// The number, from either field; names as in errno(3) for the common ones.
fn errno(field: &'static str, name: Option<String>, number: Option<u32>) -> Result<Option<u32>> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(number);
    };
    let named = match name.as_str() {
        "EPERM" => Some(1),
        "ENOENT" => Some(2),
        "ESRCH" => Some(3),
        "EINTR" => Some(4),
        "EIO" => Some(5),
        "EBADF" => Some(9),
        "EAGAIN" => Some(11),
        "ENOMEM" => Some(12),
        "EACCES" => Some(13),
        "EBUSY" => Some(16),
        "ENODEV" => Some(19),
        "EINVAL" => Some(22),
        "ENOSYS" => Some(38),
        "EOPNOTSUPP" => Some(95),
        "EAFNOSUPPORT" => Some(97),
        other => other.parse().ok(),
    };
    match (named, number) {
        (Some(named), None) => Ok(Some(named)),
        (Some(named), Some(number)) if named == number => Ok(Some(named)),
        (Some(_), Some(_)) => Err(Error::InvalidField {
            field,
            value: name,
            problem: "contradicts the number beside it",
        }),
        (None, _) => Err(Error::InvalidField {
            field,
            value: name.chars().take(64).collect(),
            problem: "is not a known error",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(capabilities: &[Capability]) -> Target {
        Target {
            architecture: Architecture::X86_64,
            capabilities: capabilities.to_vec(),
            kernel: Some((6, 1)),
        }
    }

    fn names(json: &str, target: &Target) -> Vec<String> {
        let profile = profile_from_json_for(json.as_bytes(), target).unwrap();
        let rules = profile.syscalls().clone().unwrap();
        rules.iter().flat_map(|rule| rule.names().clone()).collect()
    }

    const CONDITIONAL: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS", "comment": "ignored",
        "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}
        ],
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}},
            {"name": "old", "action": "SCMP_ACT_ALLOW", "args": null},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["both"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390x"]},
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            {"names": ["set_tls"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["future"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
            {"names": ["gone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "excludes": {"minKernel": "5.0"}}
        ]}"#;

    #[test]
    fn conditional_rules_are_kept_for_those_they_are_meant_for() {
        let plain = names(CONDITIONAL, &target(&[]));
        assert_eq!(
            plain,
            ["read", "write", "old", "clone", "arch_prctl", "ptrace"]
        );
        let admin = names(CONDITIONAL, &target(&[Capability::SysAdmin]));
        assert_eq!(
            admin,
            ["read", "write", "old", "mount", "arch_prctl", "ptrace"]
        );
        let both = names(
            CONDITIONAL,
            &target(&[Capability::Bpf, Capability::SysAdmin]),
        );
        assert!(both.contains(&"both".to_owned()));
        let old = Target {
            kernel: Some((4, 4)),
            ..target(&[])
        };
        let old = names(CONDITIONAL, &old);
        assert!(old.contains(&"gone".to_owned()) && !old.contains(&"ptrace".to_owned()));
        let arm = Target {
            architecture: Architecture::Aarch64,
            ..target(&[])
        };
        assert!(names(CONDITIONAL, &arm).contains(&"set_tls".to_owned()));
    }

    #[test]
    fn the_head_of_a_profile_is_resolved() {
        let profile = profile_from_json_for(CONDITIONAL.as_bytes(), &target(&[])).unwrap();
        assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActErrno);
        assert_eq!(profile.default_errno_ret(), Some(38));
        let architectures = profile.architectures().clone().unwrap();
        assert_eq!(architectures, [Arch::ScmpArchX86_64, Arch::ScmpArchX86]);
        let clone = &profile.syscalls().as_ref().unwrap()[2];
        let argument = clone.args().as_ref().unwrap()[0];
        assert_eq!(argument.value(), 2_114_060_288);
        assert_eq!(argument.value_two(), Some(0));
        assert_eq!(argument.op(), LinuxSeccompOperator::ScmpCmpMaskedEq);
    }

    #[test]
    fn bad_profiles_are_refused() {
        for bad in [
            "",
            "[]",
            "{}",
            "null",
            r#"{"defaultAction": "ALLOW"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["NO_SUCH_FLAG"]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrno": "EWHAT"}"#,
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EPERM", "defaultErrnoRet": 2}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"]}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "LIKE"}]}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [{"index": -1, "op": "SCMP_CMP_EQ"}]}]}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "new"}}]}"#,
        ] {
            assert!(
                profile_from_json_for(bad.as_bytes(), &target(&[])).is_err(),
                "{bad}"
            );
        }
        let large = vec![b' '; MAX_BYTES + 1];
        assert!(matches!(
            profile_from_json_for(&large, &target(&[])),
            Err(Error::ProfileTooLarge { .. })
        ));
    }
}
