//! Makes the mounts of a snapshot without attaching them anywhere.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};

use crate::Mount;

/// A detached mount; it is gone when this is dropped.
pub struct Mounted {
    root: OwnedFd,
}

impl Mounted {
    /// Makes the mount as the executor does: one `lowerdir+` a layer.
    ///
    /// # Panics
    /// If the kernel refuses, or the list is not one mount on the root.
    pub fn new(mounts: &[Mount]) -> Self {
        let [mount] = mounts else {
            panic!("one mount expected, got {mounts:?}")
        };
        assert_eq!(mount.target, "", "a root mount has no target");
        let root = match mount.kind.as_str() {
            "overlay" => overlay(mount),
            "bind" => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                open_tree(CWD, mount.source.as_str(), flags).expect("open_tree")
            }
            other => panic!("mount kind {other:?} is not known to this suite"),
        };
        Self { root }
    }

    /// A path to the mount's root, good as long as the mount is.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()))
    }
}

fn overlay(mount: &Mount) -> OwnedFd {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("fsopen");
    for option in &mount.options {
        let set = match option.split_once('=') {
            Some(("lowerdir", lowers)) => lowers
                .split(':')
                .try_for_each(|lower| fsconfig_set_string(&context, "lowerdir+", lower)),
            Some((key, value)) => fsconfig_set_string(&context, key, value),
            None => fsconfig_set_flag(&context, option.as_str()),
        };
        set.unwrap_or_else(|errno| panic!("overlay option {option:.200}: {errno}"));
    }
    fsconfig_create(&context).expect("fsconfig create");
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .expect("fsmount")
}
