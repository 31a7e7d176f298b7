//! SELinux labels: of processes, and of the files that they may change.
//!
//! Containers of different pods have the same type; what keeps them apart is the level, a pair of
//! categories that each pod has of its own (multi-category security).

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::request::SelinuxOptions;

const ATTRIBUTE: &str = "security.selinux";
const CATEGORIES: u16 = 1024;
/// Directories inside each other, while a volume is relabelled.
const MAX_DEPTH: usize = 200;
/// Never relabelled: the host would not work any more.
const SYSTEM: [&str; 15] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/opt", "/proc", "/root", "/run",
    "/sbin", "/sys", "/usr", "/var",
];

/// A level with two categories that no level of `taken` has both of. `random` gives any numbers.
pub(super) fn choose_level(
    taken: &[String],
    mut random: impl FnMut() -> Result<(u16, u16)>,
) -> Result<String> {
    loop {
        let (a, b) = random()?;
        let (a, b) = (a % CATEGORIES, b % CATEGORIES);
        let level = format!("s0:c{},c{}", a.min(b), a.max(b));
        if a != b && !taken.contains(&level) {
            return Ok(level);
        }
    }
}

/// `user:role:type:level`; parts that are not given are those that containers usually have, and
/// `level`.
pub(super) fn of_process(options: &SelinuxOptions, level: &str) -> Result<String> {
    let parts = [
        (&options.user, "system_u"),
        (&options.role, "system_r"),
        (&options.kind, "container_t"),
        (&options.level, level),
    ];
    // A level is the only part with colons; quotes would end the mount option that has a label.
    let odd = |part: &str| part.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
    let last = parts.len() - 1;
    for (number, (part, _)) in parts.iter().enumerate() {
        if odd(part) || (number < last && part.contains(':')) {
            let problem = format!("{part:?} is not part of a label");
            return Err(Error::invalid("selinux_options", problem));
        }
    }
    let filled = parts.map(|(part, usual)| if part.is_empty() { usual } else { part });
    Ok(filled.join(":"))
}

/// Of the files that a process with these options may change.
pub(super) fn of_files(options: &SelinuxOptions, level: &str) -> String {
    let given = Some(options.level.as_str()).filter(|level| !level.is_empty());
    format!(
        "system_u:object_r:container_file_t:{}",
        given.unwrap_or(level)
    )
}

/// Gives the label to all that is at `path` and below it; links get it themselves, and none is
/// followed. File systems without labels are left alone. Blocking.
pub(super) fn relabel(path: &Path, label: &str) -> Result<()> {
    let failed = |errno: Errno| Error::State {
        action: "relabel",
        path: path.to_owned(),
        source: errno.into(),
    };
    let real = std::fs::canonicalize(path).map_err(|source| Error::State {
        action: "find",
        path: path.to_owned(),
        source,
    })?;
    if SYSTEM.iter().any(|system| real == Path::new(system)) {
        let problem = format!("{path:?} is the host's own: it is not relabelled");
        return Err(Error::invalid("mounts.selinux_relabel", problem));
    }
    set(rustix::fs::lsetxattr(
        &real,
        ATTRIBUTE,
        label.as_bytes(),
        XattrFlags::empty(),
    ))
    .map_err(failed)?;
    match open(CWD, &real) {
        Ok(directory) => below(directory.as_fd(), label, 0).map_err(failed),
        Err(Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

fn below(directory: BorrowedFd<'_>, label: &str, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let names = Dir::read_from(directory)?
        .map(|entry| Ok(entry?.file_name().to_owned()))
        .collect::<Result<Vec<CString>, Errno>>()?;
    let here = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    for name in names
        .iter()
        .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
    {
        // By the directory's handle, and not through a link that has the name.
        let place = [&here, name.to_bytes()].concat();
        let labelled =
            rustix::fs::lsetxattr(&place[..], ATTRIBUTE, label.as_bytes(), XattrFlags::empty());
        match set(labelled) {
            // Gone meanwhile.
            Err(Errno::NOENT) => continue,
            done => done?,
        }
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            match open(directory, name) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                inner => below(inner?.as_fd(), label, depth + 1)?,
            }
        }
    }
    Ok(())
}

fn open<P: rustix::path::Arg>(at: BorrowedFd<'_>, path: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

fn set(labelled: Result<(), Errno>) -> Result<(), Errno> {
    match labelled {
        Err(Errno::OPNOTSUPP) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn options(level: &str, kind: &str) -> SelinuxOptions {
        SelinuxOptions {
            level: level.to_owned(),
            kind: kind.to_owned(),
            ..SelinuxOptions::default()
        }
    }

    #[test]
    fn a_label_has_four_parts_and_the_pod_s_level_unless_it_names_one() {
        let label = |level: &str, kind: &str| of_process(&options(level, kind), "s0:c1,c2");
        assert_eq!(
            label("", "").unwrap(),
            "system_u:system_r:container_t:s0:c1,c2"
        );
        assert_eq!(
            label("s0:c7,c8", "spc_t").unwrap(),
            "system_u:system_r:spc_t:s0:c7,c8"
        );
        for kind in ["a b", "a:b", "a\"b", "a\nb"] {
            assert!(label("", kind).is_err(), "{kind:?}");
        }
        let files = |level| of_files(&options(level, ""), "s0:c1,c2");
        assert_eq!(files(""), "system_u:object_r:container_file_t:s0:c1,c2");
        assert_eq!(files("s0"), "system_u:object_r:container_file_t:s0");
    }

    #[test]
    fn no_two_pods_share_their_categories() {
        // Equal, out of range, then a pair that is taken in the other order.
        let mut numbers = [(5, 5), (1029, 5), (9, 1), (1024 + 2, 1)].into_iter();
        let taken = ["s0:c1,c9".to_owned()];
        let level = choose_level(&taken, || Ok(numbers.next().unwrap())).unwrap();
        assert_eq!(level, "s0:c1,c2");
    }

    #[test]
    fn a_volume_is_relabelled_whole_and_nothing_behind_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("deep")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(volume.join("deep/file"), "").unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let read = |path: &Path| {
            let mut value = [0; 128];
            let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value[..])?;
            Ok::<_, Errno>(String::from_utf8_lossy(&value[..length]).into_owned())
        };
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root: labels of files");
            return;
        }
        relabel(&volume, label).unwrap();
        if read(&volume) == Err(Errno::OPNOTSUPP) {
            eprintln!("skipped: needs a file system with labels");
            return;
        }
        for path in ["", "deep", "deep/file", "link"] {
            assert_eq!(read(&volume.join(path)).as_deref(), Ok(label), "{path}");
        }
        assert_ne!(read(&outside).as_deref(), Ok(label));
        assert!(matches!(
            relabel(Path::new("/etc/../usr"), label),
            Err(Error::Invalid { .. })
        ));
    }
}
