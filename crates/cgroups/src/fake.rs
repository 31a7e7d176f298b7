//! A directory tree that looks like cgroup hierarchies, for tests.

use crate::cgroup::Cgroup;
use crate::host::CgroupHost;
use crate::path::CgroupPath;
use std::fs;
use std::path::Path;

pub(crate) struct FakeTree {
    dir: tempfile::TempDir,
}

impl FakeTree {
    /// v1 hierarchies with these names.
    pub(crate) fn v1(hierarchies: &[&str]) -> Self {
        let tree = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for name in hierarchies {
            fs::create_dir(tree.root().join(name)).unwrap();
        }
        tree
    }

    /// A unified tree whose root offers `controllers`.
    pub(crate) fn v2(controllers: &str) -> Self {
        let tree = Self::v1(&[]);
        tree.put(".", "cgroup.controllers", controllers);
        tree.put(".", "cgroup.subtree_control", "");
        tree
    }

    /// Adds a unified tree beside v1 hierarchies.
    pub(crate) fn and_unified(self, controllers: &str) -> Self {
        self.put("unified", "cgroup.controllers", controllers);
        self.put("unified", "cgroup.subtree_control", controllers);
        self
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn host(&self) -> CgroupHost {
        CgroupHost::detect_at(self.root()).unwrap()
    }

    /// A cgroup with its directories, as the kernel would fill them: on v2 it
    /// has the controllers of its root.
    pub(crate) fn cgroup(&self, path: &str) -> Cgroup {
        let path = CgroupPath::parse(path).unwrap();
        for hierarchy in self.host().hierarchies() {
            let directory = path.below(&hierarchy.mount_point);
            fs::create_dir_all(&directory).unwrap();
            if hierarchy.is_unified() {
                let offered = hierarchy.mount_point.join("cgroup.controllers");
                fs::copy(offered, directory.join("cgroup.controllers")).unwrap();
            }
        }
        self.host().open(&path).unwrap()
    }

    pub(crate) fn put(&self, directory: &str, file: &str, content: &str) {
        let directory = self.root().join(directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(file), content).unwrap();
    }

    pub(crate) fn get(&self, directory: &str, file: &str) -> String {
        fs::read_to_string(self.root().join(directory).join(file)).unwrap()
    }
}
