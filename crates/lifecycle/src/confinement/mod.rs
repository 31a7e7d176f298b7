//! Security modules of this host's kernel: found once, when the daemon starts. What the kernel has not
//! is refused, since a container must not run with less than it asked for.

mod apparmor;
mod selinux;

use std::path::Path;

pub(crate) use apparmor::AppArmorHost;

use crate::error::{Error, Result};
use crate::request::{Security, SelinuxOptions};

/// What there is to confine containers with.
#[derive(Debug, Clone, Default)]
pub struct Confinement {
    apparmor: Option<AppArmorHost>,
    selinux: bool,
}

/// What a process is to be confined by; neither for a privileged one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
}

impl Confinement {
    /// Looks at the running kernel, and loads the default profile where it has AppArmor. Blocking.
    pub fn find() -> Self {
        let mut found = Self::below(Path::new("/"));
        if let Some(apparmor) = &mut found.apparmor {
            apparmor.load_default();
        }
        tracing::info!(
            apparmor = found.apparmor.is_some(),
            selinux = found.selinux,
            "looked for security modules"
        );
        found
    }

    fn below(root: &Path) -> Self {
        Self {
            apparmor: AppArmorHost::below(root),
            selinux: root.join("sys/fs/selinux/enforce").exists(),
        }
    }

    pub(crate) fn labels(&self, security: &Security) -> Result<Labels> {
        if security.privileged {
            return Ok(Labels::default());
        }
        Ok(Labels {
            apparmor: apparmor::profile(&security.apparmor, self.apparmor.as_ref())?,
            selinux: self.selinux_label(security.selinux.as_ref())?,
        })
    }

    /// Refuses the label of a pod where containers could not have it either.
    pub(crate) fn check_pod(&self, options: Option<&SelinuxOptions>) -> Result<()> {
        self.selinux_label(options).map(drop)
    }

    fn selinux_label(&self, options: Option<&SelinuxOptions>) -> Result<Option<String>> {
        match options {
            None => Ok(None),
            Some(_) if !self.selinux => {
                let problem = "the kernel of this host has no SELinux";
                Err(Error::invalid("selinux_options", problem))
            }
            Some(options) => selinux::label(options).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::AppArmor;
    use std::fs;

    #[test]
    fn modules_are_found_where_the_kernel_tells_of_them() {
        let root = tempfile::tempdir().unwrap();
        let found = Confinement::below(root.path());
        assert!(found.apparmor.is_none() && !found.selinux);
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/module/apparmor/parameters/enabled", "N\n");
        assert!(Confinement::below(root.path()).apparmor.is_none());
        write("sys/module/apparmor/parameters/enabled", "Y\n");
        write("sys/fs/selinux/enforce", "0");
        let found = Confinement::below(root.path());
        assert!(found.apparmor.is_some() && found.selinux);
    }

    #[test]
    fn a_label_needs_the_kernel() {
        let options = SelinuxOptions::default();
        let (with, without) = (
            Confinement {
                selinux: true,
                ..Confinement::default()
            },
            Confinement::default(),
        );
        assert!(with.selinux_label(Some(&options)).unwrap().is_some());
        assert!(without.check_pod(Some(&options)).is_err());
        assert_eq!(without.selinux_label(None).unwrap(), None);
    }

    #[test]
    fn a_privileged_container_is_not_confined() {
        let security = Security {
            privileged: true,
            apparmor: AppArmor::Localhost("no-such-profile".to_owned()),
            ..Security::default()
        };
        let labels = Confinement::default().labels(&security).unwrap();
        assert_eq!(labels, Labels::default());
    }
}
