//! The owners of a root filesystem as a container in a user namespace sees them.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use berth_shim_client::Mount;

use crate::error::{Error, Result};
use crate::handlers::Runner;
use crate::request::{IdRange, UserNamespace};

/// What a shim is told about them.
pub(super) enum Owners {
    /// They are the host's.
    AsTheyAre,
    /// All layers are shown in the container's user namespace, and kept on the disk as they are.
    Mapped,
    /// containerd's mounts map the image's layers only: what is written is on the disk with the
    /// host's ids, the root directory before anything else.
    MappedByContainerd(UserNamespace),
}

impl Owners {
    pub(super) fn of(runner: &Runner, user: Option<&UserNamespace>) -> Self {
        match (runner, user) {
            (_, None) => Self::AsTheyAre,
            (Runner::Own, Some(_)) => Self::Mapped,
            (Runner::Foreign(_), Some(user)) => Self::MappedByContainerd(user.clone()),
        }
    }

    /// With the option `context`, if there is one. Blocking: may change the owner of the writable
    /// layer's root.
    pub(super) fn shim_mount(
        &self,
        mount: berth_snapshots::Mount,
        context: Option<&str>,
    ) -> Result<Mount> {
        let berth_snapshots::Mount {
            kind,
            source,
            target,
            mut options,
        } = mount;
        if let (Some(context), "overlay") = (context, kind.as_str()) {
            options.push(context.to_owned());
        }
        match self {
            Self::AsTheyAre => {}
            Self::Mapped => options.push("idmap".to_owned()),
            Self::MappedByContainerd(user) => {
                let upper = options.iter().find_map(|o| o.strip_prefix("upperdir="));
                if let Some(upper) = upper {
                    give(Path::new(upper), user)?;
                }
                options.push(format!("uidmap={}", ranges(&user.uids)));
                options.push(format!("gidmap={}", ranges(&user.gids)));
            }
        }
        Ok(Mount {
            kind,
            source,
            target,
            options,
        })
    }
}

/// Once: a container is started once, and its layer is made with the image's owners.
fn give(upper: &Path, user: &UserNamespace) -> Result<()> {
    let failed = |source| Error::State {
        action: "give away",
        path: upper.to_owned(),
        source,
    };
    let looks = std::fs::symlink_metadata(upper).map_err(failed)?;
    let uid = outside(&user.uids, looks.uid());
    let gid = outside(&user.gids, looks.gid());
    chown(upper, uid, gid).map_err(failed)
}

/// `None` for one that the namespace has not.
fn outside(ranges: &[IdRange], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside)?;
        (offset < range.length).then(|| range.outside.checked_add(offset))?
    })
}

fn ranges(ranges: &[IdRange]) -> String {
    let range = |range: &IdRange| format!("{}:{}:{}", range.inside, range.outside, range.length);
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserNamespace {
        let range = IdRange {
            inside: 0,
            outside: 70_000,
            length: 10,
        };
        UserNamespace {
            uids: vec![range],
            gids: vec![range],
        }
    }

    #[test]
    fn containerd_s_mounts_are_told_the_ranges_and_find_the_upper_root_mapped() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root: another owner");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(3), Some(11)).unwrap();
        let mount = berth_snapshots::Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![format!("upperdir={}", dir.path().display())],
        };
        let told = Owners::MappedByContainerd(user()).shim_mount(mount.clone(), None);
        let told = told.unwrap();
        assert_eq!(
            told.options[1..],
            ["uidmap=0:70000:10", "gidmap=0:70000:10"]
        );
        let looks = std::fs::metadata(dir.path()).unwrap();
        // Group 11 is not in the namespace.
        assert_eq!((looks.uid(), looks.gid()), (70_003, 11));
        let own = Owners::Mapped.shim_mount(mount, None).unwrap();
        assert_eq!(own.options[1..], ["idmap"]);
    }
}
