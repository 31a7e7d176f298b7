//! Volumes of the local driver that are more than a directory: a filesystem that is mounted on it
//! while a container uses it, by the options `type`, `device` and `o` of mount(8).
//!
//! What is mounted is found by looking: a former daemon may have left it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_remount, unmount,
};

use crate::error::{Error, Result};

/// MS_BIND of mount(2): only this mount changes, not the filesystem.
const BIND: MountFlags = MountFlags::from_bits_retain(0x1000);
const KNOWN: [&str; 3] = ["type", "o", "device"];
const NEEDED: [&str; 2] = ["device", "type"];

/// Refuses what is no option of the driver, in Docker's words.
pub(crate) fn check(options: &BTreeMap<String, String>) -> Result<()> {
    if options.is_empty() {
        return Ok(());
    }
    if let Some(unknown) = options.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(Error::invalid(format!("invalid option: {unknown:?}")));
    }
    match NEEDED.iter().find(|key| !options.contains_key(**key)) {
        Some(missing) => Err(Error::invalid(format!(
            "missing required option: {missing:?}"
        ))),
        None => Ok(()),
    }
}

/// What mount(2) is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    bind: Option<Bind>,
    flags: MountFlags,
    /// What only the filesystem understands.
    data: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bind {
    One,
    WithAllBelow,
}

fn parse(options: &str) -> Wanted {
    let mut wanted = Wanted {
        bind: None,
        flags: MountFlags::empty(),
        data: Vec::new(),
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (flag, on) = match option {
            "bind" => {
                wanted.bind = Some(Bind::One);
                continue;
            }
            "rbind" => {
                wanted.bind = Some(Bind::WithAllBelow);
                continue;
            }
            "defaults" | "nofail" | "_netdev" => continue,
            "ro" => (MountFlags::RDONLY, true),
            "rw" => (MountFlags::RDONLY, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "noatime" => (MountFlags::NOATIME, true),
            "atime" => (MountFlags::NOATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "diratime" => (MountFlags::NODIRATIME, false),
            "relatime" => (MountFlags::RELATIME, true),
            "norelatime" => (MountFlags::RELATIME, false),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "nostrictatime" => (MountFlags::STRICTATIME, false),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "async" => (MountFlags::SYNCHRONOUS, false),
            "dirsync" => (MountFlags::DIRSYNC, true),
            other => {
                wanted.data.push(other.to_owned());
                continue;
            }
        };
        wanted.flags.set(flag, on);
    }
    wanted
}

/// Whether nothing is to be written to the volume.
pub(crate) fn is_read_only(options: &BTreeMap<String, String>) -> bool {
    let given = options.get("o").map_or("", String::as_str);
    parse(given).flags.contains(MountFlags::RDONLY)
}

/// The kernel's NFS takes addresses alone.
fn resolve(data: &mut [String]) -> Result<()> {
    for option in data {
        let Some(host) = option.strip_prefix("addr=") else {
            continue;
        };
        if host.parse::<IpAddr>().is_ok() {
            continue;
        }
        let found = (host, 0)
            .to_socket_addrs()
            .ok()
            .and_then(|mut all| all.next());
        let address = found
            .ok_or_else(|| {
                Error::invalid(format!(
                    "error resolving passed in network volume address: {host}"
                ))
            })?
            .ip();
        *option = format!("addr={address}");
    }
    Ok(())
}

/// Mounts what the options say on `place`, unless something is there. Blocking, for as long as the
/// filesystem takes: one of a server may take long.
pub(crate) fn mount_on(place: &Path, options: &BTreeMap<String, String>) -> Result<()> {
    if is_mounted(place) {
        return Ok(());
    }
    let option = |key: &str| options.get(key).map_or("", String::as_str);
    let (device, kind) = (option("device"), option("type"));
    let mut wanted = parse(option("o"));
    if kind.starts_with("nfs") || kind == "cifs" {
        resolve(&mut wanted.data)?;
    }
    let mounted = match wanted.bind {
        Some(bind) => bound(Path::new(device), place, bind, wanted.flags),
        None => {
            let data = CString::new(wanted.data.join(",")).unwrap_or_default();
            mount(device, place, kind, wanted.flags, data.as_c_str())
        }
    };
    mounted.map_err(|errno| {
        Error::invalid(format!(
            "error while mounting volume '{}': failed to mount local volume: mount {device}:{}, \
             type: {kind}, o: {}: {}",
            place.display(),
            place.display(),
            option("o"),
            std::io::Error::from(errno)
        ))
    })
}

/// The kernel binds first, and takes flags afterwards.
fn bound(device: &Path, place: &Path, bind: Bind, flags: MountFlags) -> Result<(), Errno> {
    match bind {
        Bind::One => mount_bind(device, place)?,
        Bind::WithAllBelow => mount_bind_recursive(device, place)?,
    }
    if flags.is_empty() {
        return Ok(());
    }
    let changed = mount_remount(place, BIND | flags, c"");
    if changed.is_err() {
        let _ = unmount(place, UnmountFlags::DETACH);
    }
    changed
}

/// Unmounts it; what is not mounted is no failure. What still uses it keeps it alive.
pub(crate) fn unmount_from(place: &Path) -> Result<()> {
    while is_mounted(place) {
        unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|errno| Error::file("unmount", place)(errno.into()))?;
    }
    Ok(())
}

fn is_mounted(place: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(CWD, place, flags, StatxFlags::TYPE);
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn options_are_known_and_whole() {
        assert!(check(&options(&[])).is_ok());
        assert!(check(&options(&[("type", "tmpfs"), ("device", "tmpfs")])).is_ok());
        let text = |pairs| check(&options(pairs)).unwrap_err().to_string();
        assert_eq!(text(&[("size", "1")]), "invalid option: \"size\"");
        assert_eq!(
            text(&[("type", "nfs")]),
            "missing required option: \"device\""
        );
        assert_eq!(
            text(&[("device", "x")]),
            "missing required option: \"type\""
        );
    }

    #[test]
    fn flags_are_the_kernels_and_the_rest_the_filesystems() {
        let wanted = parse("ro,addr=10.0.0.1,nosuid,suid,,size=1m");
        assert_eq!(wanted.flags, MountFlags::RDONLY);
        assert_eq!(wanted.data, ["addr=10.0.0.1", "size=1m"]);
        assert!(is_read_only(&options(&[("o", "bind,ro")])));
        assert!(!is_read_only(&options(&[("o", "ro,rw")])) && !is_read_only(&options(&[])));
        assert_eq!(parse("rbind,ro").bind, Some(Bind::WithAllBelow));
    }

    #[test]
    fn a_filesystem_is_mounted_once_and_goes() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root: mounts");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (place, device) = (dir.path().join("place"), dir.path().join("device"));
        std::fs::create_dir(&place).unwrap();
        std::fs::create_dir(&device).unwrap();
        std::fs::write(device.join("file"), "").unwrap();
        let text = device.display().to_string();
        let bind = options(&[("type", "none"), ("device", &text), ("o", "bind,ro")]);
        for _ in 0..2 {
            mount_on(&place, &bind).unwrap();
            assert!(place.join("file").exists());
            assert!(std::fs::write(place.join("new"), "").is_err());
        }
        for _ in 0..2 {
            unmount_from(&place).unwrap();
            assert!(!place.join("file").exists());
        }
        let tmpfs = options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "mode=700")]);
        mount_on(&place, &tmpfs).unwrap();
        assert!(is_mounted(&place));
        unmount_from(&place).unwrap();
        let none = options(&[
            ("type", "none"),
            ("device", "/nowhere/at/all"),
            ("o", "bind"),
        ]);
        let error = mount_on(&place, &none).unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
    }
}
