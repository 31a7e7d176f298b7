//! Security modules of this host's kernel: found once, when the daemon starts. What the kernel has not
//! is refused, since a container must not run with less than it asked for.

mod apparmor;
mod selinux;

use std::path::Path;

pub(crate) use apparmor::AppArmorHost;

use crate::error::{Error, Result};
use crate::request::{Security, SelinuxOptions};

/// The level of pods that were made before there were levels.
const LOWEST: &str = "s0";

/// What there is to confine containers with.
#[derive(Debug, Clone, Default)]
pub struct Confinement {
    apparmor: Option<AppArmorHost>,
    selinux: bool,
}

/// What a process is to be confined by; a privileged one by nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
    /// SELinux's label of the files that are the container's.
    pub files: Option<String>,
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

    /// `level` is the pod's, as [`Confinement::choose_level`] gave it.
    pub(crate) fn labels(&self, security: &Security, level: &str) -> Result<Labels> {
        if security.privileged {
            return Ok(Labels::default());
        }
        let mut labels = Labels {
            apparmor: apparmor::profile(&security.apparmor, self.apparmor.as_ref())?,
            ..Labels::default()
        };
        self.check_pod(security.selinux.as_ref())?;
        if self.selinux {
            let options = security.selinux.clone().unwrap_or_default();
            let level = if level.is_empty() { LOWEST } else { level };
            labels.selinux = Some(selinux::of_process(&options, level)?);
            labels.files = Some(selinux::of_files(&options, level));
        }
        Ok(labels)
    }

    /// Refuses options that no container could have.
    pub(crate) fn check_pod(&self, options: Option<&SelinuxOptions>) -> Result<()> {
        match options {
            None => Ok(()),
            Some(_) if !self.selinux => {
                let problem = "the kernel of this host has no SELinux";
                Err(Error::invalid("selinux_options", problem))
            }
            Some(options) => selinux::of_process(options, LOWEST).map(drop),
        }
    }

    /// The level of a new pod: the one that it asks for, or one that none of `taken` is; empty where
    /// there are no levels.
    pub(crate) fn choose_level(
        &self,
        options: Option<&SelinuxOptions>,
        taken: &[String],
        random: impl FnMut() -> Result<(u16, u16)>,
    ) -> Result<String> {
        match options.map(|options| options.level.as_str()) {
            _ if !self.selinux => Ok(String::new()),
            Some(given) if !given.is_empty() => Ok(given.to_owned()),
            _ => selinux::choose_level(taken, random),
        }
    }
}

/// Gives SELinux's label of files to all that is at `path`, without following a link.
pub(crate) fn relabel(path: &Path, label: &str) -> Result<()> {
    selinux::relabel(path, label)
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
        with.check_pod(Some(&options)).unwrap();
        assert!(without.check_pod(Some(&options)).is_err());
        let unasked = Security::default();
        let labels = with.labels(&unasked, "s0:c1,c2").unwrap();
        let expected = "system_u:system_r:container_t:s0:c1,c2";
        assert_eq!(labels.selinux.as_deref(), Some(expected));
        assert!(labels.files.unwrap().ends_with("container_file_t:s0:c1,c2"));
        assert_eq!(without.labels(&unasked, "").unwrap(), Labels::default());

        let random = || Ok((1, 2));
        let level = |host: &Confinement, options| host.choose_level(options, &[], random).unwrap();
        assert_eq!(level(&with, None), "s0:c1,c2");
        assert_eq!(level(&without, None), "");
        let asked = SelinuxOptions {
            level: "s0:c3,c4".to_owned(),
            ..options
        };
        assert_eq!(level(&with, Some(&asked)), "s0:c3,c4");
    }

    #[test]
    fn a_privileged_container_is_not_confined() {
        let security = Security {
            privileged: true,
            apparmor: AppArmor::Localhost("no-such-profile".to_owned()),
            ..Security::default()
        };
        let labels = Confinement::default().labels(&security, "").unwrap();
        assert_eq!(labels, Labels::default());
    }
}
