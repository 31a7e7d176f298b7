//! A tree beside the targets that no layer may touch.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::archive::*;

/// Everything that can be told of a tree: names, types, owners, modes, times, links, content.
pub fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            String::new()
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
        } else {
            format!("device {} fifo {}", meta.rdev(), kind.is_fifo())
        };
        let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
        let (nlink, mtime, ctime) = (meta.nlink(), meta.mtime_nsec(), meta.ctime_nsec());
        let line = format!("{mode:o} {uid} {gid} {nlink} {mtime} {ctime} {content}");
        seen.insert(path, line);
    }
    seen
}

/// The tree beside the targets.
pub struct Canary {
    pub path: PathBuf,
    before: BTreeMap<PathBuf, String>,
    passwd: (u64, i64),
}

impl Canary {
    pub fn new(place: &Place) -> Self {
        let path = place.dir.path().join("canary");
        fs::create_dir_all(path.join("d/e")).unwrap();
        fs::write(path.join("f"), "untouched").unwrap();
        fs::write(path.join("d/g"), "untouched").unwrap();
        symlink("f", path.join("l")).unwrap();
        let before = picture(&path);
        Self {
            path,
            before,
            passwd: passwd(),
        }
    }

    pub fn check(&self, case: &str) {
        assert_eq!(
            picture(&self.path),
            self.before,
            "{case} reached the canary"
        );
        assert_eq!(passwd(), self.passwd, "{case} reached /etc/passwd");
    }
}

fn passwd() -> (u64, i64) {
    let meta = fs::metadata("/etc/passwd").unwrap();
    (meta.ino(), meta.ctime_nsec())
}
