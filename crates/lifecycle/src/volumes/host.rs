//! What bind mounts need of the host before they are made.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::confinement::relabel;
use crate::error::{Error, Result};
use crate::request::{MountRequest, Propagation};

/// Sees to it that the sources of the mounts are there, and propagate as asked. A directory that
/// is missing is made, as users of other runtimes are used to. Blocking.
///
/// Those that are to be relabelled get `label`, if SELinux gives the container one.
pub fn ensure(mounts: &[MountRequest], label: Option<&str>) -> Result<()> {
    let of_host = |mount: &&MountRequest| mount.image.is_none() && mount.tmpfs.is_none();
    for mount in mounts.iter().filter(of_host) {
        let path = Path::new(&mount.host_path);
        present(path)?;
        if mount.propagation != Propagation::Private {
            propagates(path, mount.propagation)?;
        }
        if let (true, Some(label)) = (mount.selinux_relabel, label) {
            relabel(path, label)?;
        }
    }
    Ok(())
}

fn present(path: &Path) -> Result<()> {
    let bad = |problem: String| Error::invalid("mounts.host_path", problem);
    match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(missing) if missing.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(bad(format!("{path:?} is a link to nothing")));
            }
            tracing::info!(path = %path.display(), "making the missing directory of a mount");
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .map_err(|error| bad(format!("{path:?} is missing and cannot be made: {error}")))
        }
        Err(error) => Err(bad(format!("{path:?}: {error}"))),
    }
}

/// What is mounted later on the host appears in the container only where the source's mount sends
/// it, and the other way round only where it is shared (mount_namespaces(7)). Without this check
/// the container would run and nothing would ever propagate.
fn propagates(path: &Path, wanted: Propagation) -> Result<()> {
    const TABLE: &str = "/proc/thread-self/mountinfo";
    let unreadable = |source: std::io::Error| Error::State {
        action: "look up the mount of",
        path: path.to_owned(),
        source,
    };
    let found = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(|errno| unreadable(errno.into()))?;
    let table = fs::read_to_string(TABLE).map_err(unreadable)?;
    let (point, peers) = mount_of(&table, found.stx_mnt_id).ok_or_else(|| {
        Error::invalid(
            "mounts.host_path",
            format!("{path:?} lies on no mount of this host"),
        )
    })?;
    let fits = match wanted {
        Propagation::Private => true,
        Propagation::HostToContainer => peers.shared || peers.receives,
        Propagation::Bidirectional => peers.shared,
    };
    if fits {
        return Ok(());
    }
    let kind = match wanted {
        Propagation::Bidirectional => "PROPAGATION_BIDIRECTIONAL needs a shared mount",
        _ => "PROPAGATION_HOST_TO_CONTAINER needs a shared or slave mount",
    };
    let problem = format!(
        "{kind}: {path:?} lies on {point:?}, which is private; `mount --make-rshared {point}` \
         changes that"
    );
    Err(Error::invalid("mounts.propagation", problem))
}

#[derive(Debug, PartialEq, Eq)]
struct Peers {
    shared: bool,
    receives: bool,
}

/// Mount point and propagation of the mount with this id, from a table of proc_pid_mountinfo(5).
fn mount_of(table: &str, id: u64) -> Option<(&str, Peers)> {
    table.lines().find_map(|line| {
        let mut fields = line.split(' ');
        if fields.next()?.parse::<u64>().ok()? != id {
            return None;
        }
        let point = fields.nth(3)?;
        let tags: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
        let tagged = |prefix| tags.iter().any(|tag| tag.starts_with(prefix));
        let peers = Peers {
            shared: tagged("shared:"),
            receives: tagged("master:"),
        };
        Some((point, peers))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn propagation_is_read_from_the_mount_that_holds_the_path() {
        let table = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:5 / /private rw - tmpfs tmpfs rw
31 22 0:6 /sub /slave\\040dir rw,nosuid master:7 propagate_from:2 - tmpfs tmpfs rw
32 22 0:7 / /both rw shared:9 master:7 - tmpfs tmpfs rw
";
        let peers = |shared, receives| Peers { shared, receives };
        assert_eq!(mount_of(table, 22), Some(("/", peers(true, false))));
        assert_eq!(mount_of(table, 30), Some(("/private", peers(false, false))));
        let slave = Some(("/slave\\040dir", peers(false, true)));
        assert_eq!(mount_of(table, 31), slave);
        assert_eq!(mount_of(table, 32), Some(("/both", peers(true, true))));
        assert_eq!(mount_of(table, 33), None);
    }

    #[test]
    fn a_missing_directory_is_made_and_a_dead_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mount = |name: &str| MountRequest {
            host_path: dir.path().join(name).display().to_string(),
            ..MountRequest::default()
        };
        ensure(&[mount("new/deep")], None).unwrap();
        assert!(dir.path().join("new/deep").is_dir());
        std::os::unix::fs::symlink("nowhere", dir.path().join("dead")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for bad in ["dead", "file/below"] {
            let error = ensure(&[mount(bad)], None).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{bad}: {error}");
        }
        ensure(&[mount("file")], None).unwrap();
    }
}
