//! AppArmor: profiles that are loaded, and one of our own for containers that name none.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::request::AppArmor;

/// The name of our own profile.
const DEFAULT: &str = "berth-default";
const PARSER: &str = "apparmor_parser";

/// A kernel that has AppArmor.
#[derive(Debug, Clone)]
pub(crate) struct AppArmorHost {
    /// Loaded profiles, one a line: `name (mode)`.
    profiles: PathBuf,
    /// Where profiles are told common things (`tunables`, `abstractions`).
    includes: PathBuf,
    has_default: bool,
}

impl AppArmorHost {
    pub(super) fn below(root: &Path) -> Option<Self> {
        let enabled = root.join("sys/module/apparmor/parameters/enabled");
        let enabled = fs::read_to_string(enabled).ok()?;
        (enabled.trim() == "Y").then(|| Self {
            profiles: root.join("sys/kernel/security/apparmor/profiles"),
            includes: root.join("etc/apparmor.d"),
            has_default: false,
        })
    }

    /// Loads our own profile, over one that another version of this program left. Without it
    /// containers that name no profile have none, as the contract has it.
    pub(super) fn load_default(&mut self) {
        let has = |file: &str| self.includes.join(file).exists();
        let text = default_profile(has("tunables/global"), has("abstractions/base"));
        match load(&text) {
            Ok(()) => self.has_default = true,
            Err(error) => {
                tracing::warn!(%error, "the profile {DEFAULT} is not loaded: containers run without");
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        let loaded = fs::read_to_string(&self.profiles).unwrap_or_default();
        let mut names = loaded.lines().filter_map(|line| line.rsplit_once(" ("));
        names.any(|(known, _)| known == name)
    }
}

/// The profile of a process, on a host that may have AppArmor.
pub(super) fn profile(wanted: &AppArmor, host: Option<&AppArmorHost>) -> Result<Option<String>> {
    match (wanted, host) {
        (AppArmor::RuntimeDefault, Some(host)) if host.has_default => Ok(Some(DEFAULT.to_owned())),
        (AppArmor::RuntimeDefault, _) => Ok(None),
        // Without the module everything is.
        (AppArmor::Unconfined, None) => Ok(None),
        (AppArmor::Unconfined, Some(_)) => Ok(Some("unconfined".to_owned())),
        (AppArmor::Localhost(_), None) => {
            let problem = "the kernel of this host has no AppArmor";
            Err(Error::invalid("apparmor", problem))
        }
        (AppArmor::Localhost(name), Some(host)) if host.has(name) => Ok(Some(name.clone())),
        (AppArmor::Localhost(name), Some(_)) => {
            let problem = format!("profile {name:?} is not loaded: load it with {PARSER}");
            Err(Error::invalid("apparmor", problem))
        }
    }
}

/// Everything but what reaches the host past the container's namespaces: the kernel's own files in
/// procfs and sysfs, and mounts. `tunables`, `base`: whether the host has what they are included from.
fn default_profile(tunables: bool, base: bool) -> String {
    let head = match tunables {
        true => "#include <tunables/global>",
        false => "@{PROC}=/proc/",
    };
    let base = match base {
        true => "  #include <abstractions/base>\n",
        false => "",
    };
    format!(
        "{head}

profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
{base}
  capability,
  file,
  network,
  umount,

  signal (receive) peer=unconfined,
  signal (send, receive) peer={DEFAULT},
  ptrace (read, readby, trace, tracedby) peer={DEFAULT},

  deny mount,

  # Files of the kernel itself; those of processes begin with a digit, or are below self.
  deny @{{PROC}}/* w,
  deny @{{PROC}}/[^1-9s]*/** w,
  deny @{{PROC}}/s[^ey]*/** w,
  # Settings that are a namespace's: all of net, and shm*, sem and msg* of kernel.
  deny @{{PROC}}/sys/[^kn]** w,
  deny @{{PROC}}/sys/kernel/[^sm]** w,
  deny @{{PROC}}/sys/kernel/m[^s]** w,
  deny @{{PROC}}/sys/kernel/s[^eh]** w,
  deny @{{PROC}}/sys/kernel/se[^m]** w,
  deny @{{PROC}}/sys/kernel/sh[^m]** w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/kcore rwklx,
  deny @{{PROC}}/kmem rwklx,
  deny @{{PROC}}/mem rwklx,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"
    )
}

/// Hands the text to the parser, which compiles and loads it, in place of one of the same name.
fn load(text: &str) -> io::Result<()> {
    let mut parser = Command::new(PARSER)
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{PARSER}: {error}")))?;
    let written = parser
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(text.as_bytes()));
    let output = parser.wait_with_output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let words = words.trim();
        return Err(io::Error::other(format!(
            "{PARSER}: {}: {words}",
            output.status
        )));
    }
    written.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(dir: &Path, has_default: bool) -> AppArmorHost {
        let profiles = dir.join("profiles");
        fs::write(&profiles, "one (enforce)\nthe other (complain)\n").unwrap();
        AppArmorHost {
            profiles,
            includes: dir.to_owned(),
            has_default,
        }
    }

    #[test]
    fn a_profile_is_used_only_where_it_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path(), false);
        let found = |name: &str, host| profile(&AppArmor::Localhost(name.to_owned()), host);
        assert_eq!(found("one", Some(&host)).unwrap().as_deref(), Some("one"));
        assert!(found("the other", Some(&host)).unwrap().is_some());
        assert!(found("two", Some(&host)).is_err());
        assert!(found("one", None).is_err());
        assert_eq!(profile(&AppArmor::Unconfined, None).unwrap(), None);
        let unconfined = profile(&AppArmor::Unconfined, Some(&host)).unwrap();
        assert_eq!(unconfined.as_deref(), Some("unconfined"));
    }

    #[test]
    fn the_default_profile_is_for_those_who_name_none_where_it_could_be_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = AppArmor::RuntimeDefault;
        for (has_default, expected) in [(true, Some(DEFAULT)), (false, None)] {
            let host = host(dir.path(), has_default);
            assert_eq!(profile(&wanted, Some(&host)).unwrap().as_deref(), expected);
        }
        assert_eq!(profile(&wanted, None).unwrap(), None);
    }

    #[test]
    fn the_default_profile_is_one_block_of_whole_rules_and_includes_what_there_is() {
        for (tunables, base) in [(true, true), (false, false)] {
            let text = default_profile(tunables, base);
            assert_eq!(text.contains("#include <tunables/global>"), tunables);
            assert_eq!(text.contains("@{PROC}=/proc/"), !tunables);
            assert_eq!(text.contains("#include <abstractions/base>"), base);
            let (_, rules) = text.split_once(") {\n").unwrap();
            let rules = rules.trim_end().strip_suffix('}').unwrap();
            let mut rules = rules.lines().map(str::trim);
            let whole =
                |rule: &str| rule.is_empty() || rule.starts_with('#') || rule.ends_with(',');
            assert!(rules.all(whole), "{text}");
            for denied in [
                "deny mount,",
                "sysrq-trigger rwklx,",
                "/sys/kernel/security/**",
            ] {
                assert!(text.contains(denied), "{denied}");
            }
        }
    }
}
