//! AppArmor profiles and SELinux labels: what this host's kernel has of them is found once, and
//! what it has not is refused, since a container must not run with less than it asked for.

use std::path::Path;
use std::sync::LazyLock;

use crate::error::{Error, Result};
use crate::request::{AppArmor, Security, SelinuxOptions};

/// Security modules of the kernel.
struct Modules {
    apparmor: bool,
    selinux: bool,
}

static MODULES: LazyLock<Modules> = LazyLock::new(|| {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    Modules {
        apparmor: enabled.is_ok_and(|text| text.trim() == "Y"),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
    }
});

/// Loaded profiles, one a line: `name (mode)`.
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// What a process is to be confined by; neither for a privileged one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
}

pub(super) fn of(security: &Security) -> Result<Labels> {
    if security.privileged {
        return Ok(Labels::default());
    }
    Ok(Labels {
        apparmor: apparmor(&security.apparmor, MODULES.apparmor, Path::new(PROFILES))?,
        selinux: selinux(security.selinux.as_ref(), MODULES.selinux)?,
    })
}

/// Refuses the label of a pod where containers could not have it either.
pub(crate) fn check_pod(options: Option<&SelinuxOptions>) -> Result<()> {
    selinux(options, MODULES.selinux).map(drop)
}

fn apparmor(wanted: &AppArmor, enabled: bool, profiles: &Path) -> Result<Option<String>> {
    let name = match wanted {
        AppArmor::RuntimeDefault => return Ok(None),
        // Without the module everything is.
        AppArmor::Unconfined if !enabled => return Ok(None),
        AppArmor::Unconfined => return Ok(Some("unconfined".to_owned())),
        AppArmor::Localhost(name) => name,
    };
    if !enabled {
        let problem = "the kernel of this host has no AppArmor";
        return Err(Error::invalid("apparmor", problem));
    }
    let loaded = std::fs::read_to_string(profiles).unwrap_or_default();
    let is_it = |line: &str| {
        line.rsplit_once(" (")
            .is_some_and(|(known, _)| known == name)
    };
    if loaded.lines().any(is_it) {
        Ok(Some(name.clone()))
    } else {
        let problem = format!("profile {name:?} is not loaded: load it with apparmor_parser");
        Err(Error::invalid("apparmor", problem))
    }
}

/// `user:role:type:level`; parts that are not given are those that containers usually have.
fn selinux(options: Option<&SelinuxOptions>, enabled: bool) -> Result<Option<String>> {
    let Some(options) = options else {
        return Ok(None);
    };
    if !enabled {
        let problem = "the kernel of this host has no SELinux";
        return Err(Error::invalid("selinux_options", problem));
    }
    let parts = [
        (&options.user, "system_u"),
        (&options.role, "system_r"),
        (&options.kind, "container_t"),
        (&options.level, "s0"),
    ];
    let odd = |part: &str| part.chars().any(|c| c.is_whitespace() || c.is_control());
    if let Some((part, _)) = parts.iter().find(|(part, _)| odd(part)) {
        let problem = format!("{part:?} is not part of a label");
        return Err(Error::invalid("selinux_options", problem));
    }
    let filled = parts.map(|(part, usual)| if part.is_empty() { usual } else { part });
    Ok(Some(filled.join(":")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_used_only_where_it_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = dir.path().join("profiles");
        std::fs::write(&profiles, "one (enforce)\nthe other (complain)\n").unwrap();
        let local = |name: &str| AppArmor::Localhost(name.to_owned());
        let found = |wanted: &AppArmor, enabled| apparmor(wanted, enabled, &profiles);
        assert_eq!(found(&local("one"), true).unwrap().as_deref(), Some("one"));
        assert!(found(&local("the other"), true).unwrap().is_some());
        assert!(found(&local("two"), true).is_err());
        assert!(found(&local("one"), false).is_err());
        assert_eq!(found(&AppArmor::RuntimeDefault, false).unwrap(), None);
        assert_eq!(found(&AppArmor::Unconfined, false).unwrap(), None);
    }

    #[test]
    fn a_label_has_four_parts_and_needs_the_kernel() {
        let level = SelinuxOptions {
            level: "s0:c1,c2".to_owned(),
            ..SelinuxOptions::default()
        };
        let label = selinux(Some(&level), true).unwrap();
        assert_eq!(
            label.as_deref(),
            Some("system_u:system_r:container_t:s0:c1,c2")
        );
        assert!(selinux(Some(&level), false).is_err());
        assert_eq!(selinux(None, false).unwrap(), None);
        let odd = SelinuxOptions {
            kind: "a b".to_owned(),
            ..SelinuxOptions::default()
        };
        assert!(selinux(Some(&odd), true).is_err());
    }

    #[test]
    fn a_privileged_container_is_not_confined() {
        let security = Security {
            privileged: true,
            apparmor: AppArmor::Localhost("no-such-profile".to_owned()),
            ..Security::default()
        };
        assert_eq!(of(&security).unwrap(), Labels::default());
    }
}
