//! The file system that a directory lies on.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::error::{Error, Result};

const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// A mounted file system, and how much fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    pub mount_point: PathBuf,
    /// What is mounted: a device, or a name such as `tmpfs`.
    pub source: String,
    pub bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// Blocking: the file system of `dir`, by the id of its mount. A bind mount is a mount of its own.
pub fn filesystem(dir: &Path) -> Result<Filesystem> {
    let failed = |source: std::io::Error| Error::State {
        action: "find the file system of",
        path: dir.to_owned(),
        source,
    };
    let stat = rustix::fs::statx(CWD, dir, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(|errno| failed(errno.into()))?;
    let size = rustix::fs::statvfs(dir).map_err(|errno| failed(errno.into()))?;
    let table = fs::read_to_string(MOUNT_TABLE).map_err(failed)?;
    // Mounts that came over the directory's own leave no line: it is its own best name then.
    let (mount_point, source) =
        mount(&table, stat.stx_mnt_id).unwrap_or_else(|| (dir.to_owned(), String::new()));
    Ok(Filesystem {
        mount_point,
        source,
        bytes: size.f_blocks.saturating_mul(size.f_frsize),
        inodes: size.f_files,
        inodes_free: size.f_ffree,
    })
}

/// Mount point and source of a mount, as `proc_pid_mountinfo(5)` lists them.
fn mount(table: &str, id: u64) -> Option<(PathBuf, String)> {
    let line = table.lines().find(|line| {
        let number = line.split(' ').next().and_then(|first| first.parse().ok());
        number == Some(id)
    })?;
    let (mount, filesystem) = line.split_once(" - ")?;
    let point = unescape(mount.split(' ').nth(4)?);
    let source = unescape(filesystem.split(' ').nth(1)?);
    Some((
        PathBuf::from(std::ffi::OsString::from_vec(point)),
        String::from_utf8_lossy(&source).into_owned(),
    ))
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &str) -> Vec<u8> {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let octal = (*byte == b'\\')
            .then(|| field.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(octal.unwrap_or(*byte));
        at += if octal.is_some() { 4 } else { 1 };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_id_and_its_name_is_plain() {
        let table = "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
                     210 21 8:2 / /var/lib/with\\040blank rw shared:5 - xfs /dev/mapper/a\\134b rw\n";
        let (point, source) = mount(table, 210).unwrap();
        assert_eq!(point, Path::new("/var/lib/with blank"));
        assert_eq!(source, "/dev/mapper/a\\b");
        assert_eq!(mount(table, 21).unwrap().0, Path::new("/"));
        assert!(mount(table, 2).is_none());
    }

    #[test]
    fn a_directory_and_one_below_it_are_on_the_same_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        let (above, found) = (filesystem(dir.path()).unwrap(), filesystem(&below).unwrap());
        assert_eq!(above.mount_point, found.mount_point);
        assert!(dir.path().starts_with(&found.mount_point), "{found:?}");
        assert!(found.bytes > 0 && found.mount_point.is_dir());
        assert!(filesystem(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn proc_is_a_file_system_of_its_own() {
        let found = filesystem(Path::new("/proc/self")).unwrap();
        assert_eq!(found.mount_point, Path::new("/proc"));
    }
}
