//! Copying what an image has at a volume's place.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Copies the directory that `path` leads to in the image at `root` into `volume`, which takes its
/// owner and mode. A path that is not there leaves the volume empty. Blocking.
pub fn up(root: BorrowedFd<'_>, path: &Path, volume: &Path) -> Result<()> {
    let failed = |below: &Path, errno: Errno| Error::VolumeCopy {
        path: path.join(below),
        source: errno.into(),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let from = match berth_kernel::open_in_root(root, path, flags, Mode::empty()) {
        Ok(from) => from,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR) => {
            let problem = format!("its volume {path:?} is a file in it, not a directory");
            return Err(Error::invalid("image", problem));
        }
        Err(errno) => return Err(failed(Path::new(""), errno)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::open(volume, flags, Mode::empty())
        .map_err(|errno| failed(Path::new(""), errno))?;
    berth_copytree::copy(from.as_fd(), to.as_fd())
        .map_err(|failure| failed(&failure.path, failure.errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn copied(image: &Path, path: &str) -> Result<tempfile::TempDir> {
        let volume = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let root = rustix::fs::open(image, flags, Mode::empty()).unwrap();
        up(root.as_fd(), Path::new(path), volume.path()).map(|()| volume)
    }

    fn is_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: needs root: owners and device nodes");
        }
        root
    }

    #[test]
    fn a_link_in_the_image_leads_nowhere_outside() {
        if !is_root() {
            return;
        }
        let image = tempfile::tempdir().unwrap();
        fs::create_dir_all(image.path().join("etc")).unwrap();
        fs::write(image.path().join("etc/own"), "").unwrap();
        symlink("/etc", image.path().join("absolute")).unwrap();
        symlink("../../../../../etc", image.path().join("climbing")).unwrap();
        for path in ["/absolute", "/climbing", "/../../etc"] {
            let volume = copied(image.path(), path).unwrap();
            let names: Vec<_> = fs::read_dir(volume.path()).unwrap().flatten().collect();
            assert_eq!(names.len(), 1, "{path}");
            assert!(volume.path().join("own").exists(), "{path}");
        }
        symlink("/proc/self/root/etc", image.path().join("magic")).unwrap();
        let volume = copied(image.path(), "/magic").unwrap();
        assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_missing_is_empty_and_what_is_no_directory_is_refused() {
        let image = tempfile::tempdir().unwrap();
        fs::write(image.path().join("file"), "").unwrap();
        let volume = copied(image.path(), "/nothing/here").unwrap();
        assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 0);
        assert!(matches!(
            copied(image.path(), "/file"),
            Err(Error::Invalid { .. })
        ));
    }
}
