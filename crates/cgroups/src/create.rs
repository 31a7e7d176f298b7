//! Making a cgroup's directories, and what its parents need for that.

use crate::control::ControlDir;
use crate::cpuset;
use crate::error::{Error, Result};
use crate::host::Topology;
use crate::layout::{Controller, Hierarchy, Layout};
use crate::path::CgroupPath;
use rustix::io::Errno;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Controllers that a v2 container always gets, because statistics come from
/// them even where nothing is limited.
const ALWAYS: [Controller; 6] = [
    Controller::Cpu,
    Controller::Cpuset,
    Controller::Memory,
    Controller::Blkio,
    Controller::Pids,
    Controller::Hugetlb,
];

/// Makes `path` in every hierarchy, and gives those of its levels that existed
/// in none, outermost first. On failure what this call made is removed again,
/// deepest first.
pub(crate) fn directories(topology: &Topology, path: &CgroupPath) -> Result<Vec<CgroupPath>> {
    let mut made = Vec::new();
    let mut new = path.levels();
    for hierarchy in &topology.hierarchies {
        let before = made.len();
        match in_hierarchy(topology.layout, hierarchy, path, &mut made) {
            Ok(()) => {
                let made = made.get(before..).unwrap_or_default();
                new.retain(|level| made.contains(&level.below(&hierarchy.mount_point)));
            }
            Err(error) if optional(topology.layout, hierarchy) && is_read_only(&error) => {}
            Err(error) => {
                undo(&made);
                return Err(error);
            }
        }
    }
    Ok(new)
}

fn in_hierarchy(
    layout: Layout,
    hierarchy: &Hierarchy,
    path: &CgroupPath,
    made: &mut Vec<PathBuf>,
) -> Result<()> {
    make(hierarchy, path, made)?;
    if hierarchy.is_unified() {
        refuse_threaded(hierarchy, path)?;
        if layout == Layout::V2 {
            // A controller that a parent cannot delegate is missed, by name,
            // when a value of it is asked for.
            let _ = enable_controllers(hierarchy, path, &ALWAYS);
        }
    } else if hierarchy.has(Controller::Cpuset) {
        cpuset::seed(&hierarchy.mount_point, path)?;
    }
    Ok(())
}

/// Before anything is passed on to it: only whole processes are moved here, and
/// the kernel takes them into neither a threaded cgroup nor, "domain invalid",
/// a new one beside or below it.
fn refuse_threaded(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<()> {
    let kind = |directory: &Path| {
        let kind = ControlDir::new(directory.to_owned()).read_optional("cgroup.type")?;
        Ok(kind.map(|kind| kind.trim().to_owned()))
    };
    let leaf = path.below(&hierarchy.mount_point);
    let kind_of_leaf = match kind(&leaf)? {
        Some(kind) if kind == "threaded" || kind == "domain invalid" => kind,
        _ => return Ok(()),
    };
    let (mut above, mut kind_above) = (leaf.clone(), kind_of_leaf.clone());
    let levels = levels(&hierarchy.mount_point, path);
    for directory in levels.into_iter().rev().skip(1) {
        if let Some(kind) = kind(&directory)?
            && kind != "domain invalid"
        {
            (above, kind_above) = (directory, kind);
            break;
        }
    }
    Err(Error::Threaded {
        path: leaf,
        kind: kind_of_leaf,
        above,
        kind_above,
    })
}

/// Nothing but naming and killing depends on a hierarchy without controllers
/// and on the unified tree beside v1; in a container they may be read-only.
fn optional(layout: Layout, hierarchy: &Hierarchy) -> bool {
    hierarchy.controllers.is_empty() || (layout == Layout::Hybrid && hierarchy.is_unified())
}

fn is_read_only(error: &Error) -> bool {
    error.raw_os_error() == Some(Errno::ROFS.raw_os_error())
}

fn make(hierarchy: &Hierarchy, path: &CgroupPath, made: &mut Vec<PathBuf>) -> Result<()> {
    let leaf = path.below(&hierarchy.mount_point);
    match fs::create_dir(&leaf) {
        Ok(()) => {
            made.push(leaf);
            return Ok(());
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::CreateDir { path: leaf, source }),
    }
    for directory in levels(&hierarchy.mount_point, path) {
        match fs::create_dir(&directory) {
            Ok(()) => made.push(directory),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => {
                return Err(Error::CreateDir {
                    path: directory,
                    source,
                });
            }
        }
    }
    Ok(())
}

fn undo(made: &[PathBuf]) {
    for directory in made.iter().rev() {
        // Somebody else may have moved in; then it is theirs.
        let _ = fs::remove_dir(directory);
    }
}

/// The directories of `path`, outermost first, the mount point excluded.
pub(crate) fn levels(mount_point: &Path, path: &CgroupPath) -> Vec<PathBuf> {
    let mut directory = mount_point.to_owned();
    path.components()
        .map(|component| {
            directory.push(component);
            directory.clone()
        })
        .collect()
}

/// Passes controllers down the unified tree to `path`, by adding them to
/// `cgroup.subtree_control` of each parent that offers them and does not pass
/// them on yet. Controllers that the root does not offer are passed over.
pub(crate) fn enable_controllers(
    hierarchy: &Hierarchy,
    path: &CgroupPath,
    wanted: &[Controller],
) -> Result<()> {
    let mut parents = levels(&hierarchy.mount_point, path);
    parents.pop();
    parents.insert(0, hierarchy.mount_point.clone());
    for parent in parents {
        let parent = ControlDir::new(parent);
        let offered = parent.read("cgroup.controllers")?;
        let passed_on = parent.read("cgroup.subtree_control")?;
        let missing: Vec<String> = wanted
            .iter()
            .map(|controller| controller.v2_name())
            .filter(|name| lists(&offered, name) && !lists(&passed_on, name))
            .map(|name| format!("+{name}"))
            .collect();
        if missing.is_empty() {
            continue;
        }
        let all = missing.join(" ");
        if is_inhabited(&parent)? {
            // cpu, cpuset and pids alone the kernel would pass on, and make
            // the parent "domain threaded": no process could join a cgroup
            // below it any more.
            let busy = Errno::BUSY.into();
            return Err(parent.write_error("cgroup.subtree_control", &all, busy));
        }
        let Err(first) = parent.write("cgroup.subtree_control", &all) else {
            continue;
        };
        if missing.len() == 1 {
            return Err(first);
        }
        // One that cannot be delegated here must not take the others along.
        let mut failure = None;
        for single in &missing {
            if let Err(error) = parent.write("cgroup.subtree_control", single) {
                failure.get_or_insert(error);
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
    }
    Ok(())
}

/// True if processes are in the cgroup itself. The root, which has no type,
/// may have processes and children.
fn is_inhabited(parent: &ControlDir) -> Result<bool> {
    if !parent.has("cgroup.type") {
        return Ok(false);
    }
    let processes = parent.read_optional("cgroup.procs")?;
    Ok(processes.is_some_and(|processes| !processes.trim().is_empty()))
}

/// True if a space-separated list holds `name`.
pub(crate) fn lists(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|item| item == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;
    use crate::host::CgroupHost;

    fn path(text: &str) -> CgroupPath {
        CgroupPath::parse(text).unwrap()
    }

    #[test]
    fn what_was_made_is_removed_when_a_later_hierarchy_fails() {
        let tree = FakeTree::v1(&["blkio", "cpu", "memory"]);
        std::fs::create_dir(tree.root().join("cpu/mine")).unwrap();
        // A file in the way makes the last hierarchy fail.
        tree.put("memory", "mine", "");
        let host = tree.host();
        let error = host.create(&path("/mine/a/b")).unwrap_err();
        assert!(
            matches!(&error, Error::CreateDir { path, .. } if path.ends_with("memory/mine/a/b"))
        );
        assert!(!tree.root().join("blkio/mine").exists());
        assert!(tree.root().join("cpu/mine").exists(), "it was there before");
        assert!(!tree.root().join("cpu/mine/a").exists());
    }

    #[test]
    fn parents_are_made_and_a_cgroup_that_exists_is_taken() {
        let tree = FakeTree::v1(&["cpu", "systemd"]);
        let host = tree.host();
        let first = host.create(&path("/a/b/c")).unwrap();
        assert!(first.created() && first.exists());
        assert_eq!(
            first.created_levels(),
            [path("/a"), path("/a/b"), path("/a/b/c")]
        );
        let second = host.create(&path("/a/b/c")).unwrap();
        assert!(!second.created() && second.created_levels().is_empty());
        std::fs::create_dir_all(tree.root().join("cpu/a/x")).unwrap();
        let third = host.create(&path("/a/x/y")).unwrap();
        assert_eq!(third.created_levels(), [path("/a/x/y")]);
        assert!(!host.open(&path("/a")).unwrap().remove_empty().unwrap());
        assert!(third.remove_empty().unwrap() && third.remove_empty().unwrap());
        assert!(tree.root().join("systemd/a/b/c").is_dir());
        first.remove().unwrap();
        assert!(tree.root().join("systemd/a/b").is_dir());
        assert!(host.open(&path("/a/b/c")).unwrap_err().is_not_found());
    }

    #[test]
    fn controllers_are_passed_down_where_they_are_offered_and_missing() {
        let tree = FakeTree::v2("cpu memory pids misc");
        tree.put("a", "cgroup.controllers", "cpu memory\n");
        tree.put("a", "cgroup.subtree_control", "cpu\n");
        let host = tree.host();
        host.create(&path("/a/b")).unwrap();
        assert_eq!(
            tree.get(".", "cgroup.subtree_control"),
            "+cpu +memory +pids"
        );
        assert_eq!(tree.get("a", "cgroup.subtree_control"), "+memory");
        assert!(!tree.root().join("a/b/cgroup.subtree_control").exists());
    }

    #[test]
    fn a_cgroup_with_processes_passes_nothing_on() {
        let tree = FakeTree::v2("cpu memory");
        tree.put("a", "cgroup.controllers", "cpu\n");
        tree.put("a", "cgroup.subtree_control", "");
        tree.put("a", "cgroup.type", "domain\n");
        tree.put("a", "cgroup.procs", "17\n");
        let host = tree.host();
        host.create(&path("/a/b")).unwrap();
        assert_eq!(tree.get("a", "cgroup.subtree_control"), "");
        tree.put("a", "cgroup.procs", "");
        host.create(&path("/a/c")).unwrap();
        assert_eq!(tree.get("a", "cgroup.subtree_control"), "+cpu");
    }

    #[test]
    fn a_threaded_cgroup_is_refused_with_the_one_that_makes_it_so() {
        let tree = FakeTree::v2("cpu memory");
        tree.put("a", "cgroup.type", "domain threaded\n");
        tree.put("a/t", "cgroup.type", "threaded\n");
        tree.put("a/t", "cgroup.subtree_control", "");
        let host = tree.host();
        let error = host.create(&path("/a/t")).unwrap_err().to_string();
        assert!(error.contains("\"threaded\""), "{error}");
        assert!(
            error.contains("/a, whose type is \"domain threaded\""),
            "{error}"
        );
        assert!(tree.root().join("a/t").is_dir(), "it was there before");
        assert_eq!(tree.get("a/t", "cgroup.subtree_control"), "");
        assert!(host.create(&path("/a")).is_ok());
    }

    #[test]
    fn a_hybrid_unified_tree_is_left_alone_until_something_of_it_is_asked_for() {
        let tree = FakeTree::v1(&["cpu"]).and_unified("hugetlb");
        tree.put("unified", "cgroup.subtree_control", "");
        let host: CgroupHost = tree.host();
        host.create(&path("/a")).unwrap();
        assert_eq!(tree.get("unified", "cgroup.subtree_control"), "");
        enable_controllers(
            host.hierarchies().iter().find(|h| h.is_unified()).unwrap(),
            &path("/a"),
            &[Controller::Hugetlb],
        )
        .unwrap();
        assert_eq!(tree.get("unified", "cgroup.subtree_control"), "+hugetlb");
    }
}
