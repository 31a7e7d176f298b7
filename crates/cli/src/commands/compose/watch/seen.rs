//! Files as they were when they were last looked at. What changed is told by comparing, not by what
//! the kernel says happened: a file that came and went meanwhile is nothing, and one that was
//! renamed over another is a change of that one.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use berth_compose::develop::{Change, Now, Rules};

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Directory,
    Other {
        inode: u64,
        mode: u32,
        length: u64,
        modified: (i64, i64),
    },
}

impl Mark {
    fn of(found: &Metadata) -> Self {
        if found.is_dir() {
            return Self::Directory;
        }
        Self::Other {
            inode: found.ino(),
            mode: found.mode(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        }
    }

    fn now(self) -> Now {
        match self {
            Self::Directory => Now::Directory,
            Self::Other { .. } => Now::There,
        }
    }
}

/// A directory that has to be watched; the inode tells it from another of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    pub path: PathBuf,
    pub inode: u64,
}

#[derive(Debug, Default)]
pub struct Seen {
    rules: Vec<Rules>,
    files: BTreeMap<PathBuf, Mark>,
}

impl Seen {
    pub fn new(rules: Vec<Rules>) -> Self {
        Self {
            rules,
            files: BTreeMap::new(),
        }
    }

    /// What is watched: each directory or file once, and none within another.
    pub fn roots(&self) -> Vec<PathBuf> {
        let triggers = self.rules.iter().flat_map(|rules| &rules.triggers);
        outermost(triggers.map(|trigger| trigger.path.clone()).collect())
    }

    fn takes(&self, path: &Path) -> bool {
        self.rules.iter().any(|rules| rules.takes(path))
    }

    fn descends(&self, path: &Path) -> bool {
        self.rules.iter().any(|rules| rules.descends(path))
    }

    /// Whether what happened to a path may matter, be it one above what is watched.
    pub fn concerns(&self, path: &Path) -> bool {
        self.takes(path)
            || self.descends(path)
            || self.roots().iter().any(|root| root.starts_with(path))
    }

    /// Looks at these places and below them. `enter` is told of each directory before it is read,
    /// so that nothing that comes into it later is lost.
    pub fn look(&mut self, places: Vec<PathBuf>, enter: &mut dyn FnMut(Directory)) -> Vec<Change> {
        let mut changes = Vec::new();
        for place in self.within_roots(places) {
            let mut found = BTreeMap::new();
            self.walk(&place, &mut found, enter);
            let known = self.files.range(place.clone()..);
            let known = known.take_while(|(path, _)| path.starts_with(&place));
            let gone: Vec<PathBuf> = known
                .filter(|(path, _)| !found.contains_key(*path))
                .map(|(path, _)| path.clone())
                .collect();
            for path in gone {
                self.files.remove(&path);
                let now = Now::Gone;
                changes.push(Change { path, now });
            }
            for (path, mark) in found {
                if self.files.insert(path.clone(), mark) != Some(mark) {
                    let now = mark.now();
                    changes.push(Change { path, now });
                }
            }
        }
        changes
    }

    /// A place above what is watched stands for that.
    fn within_roots(&self, places: Vec<PathBuf>) -> Vec<PathBuf> {
        let roots = self.roots();
        let mut within = Vec::new();
        for place in places {
            let below = roots.iter().filter(|root| root.starts_with(&place));
            within.extend(below.cloned());
            if roots.iter().any(|root| place.starts_with(root)) {
                within.push(place);
            }
        }
        outermost(within)
    }

    /// Links on the way are not followed: what they lead to may be anywhere.
    fn walk(
        &self,
        path: &Path,
        found: &mut BTreeMap<PathBuf, Mark>,
        enter: &mut dyn FnMut(Directory),
    ) {
        // Of a link that is named in the files what it leads to is meant.
        let is_named = self.rules.iter().any(|rules| rules.names(path));
        let metadata = match is_named {
            true => fs::metadata(path),
            false => fs::symlink_metadata(path),
        };
        // What is gone by now is told by its absence.
        let Ok(metadata) = metadata else {
            return;
        };
        if self.takes(path) {
            found.insert(path.to_owned(), Mark::of(&metadata));
        }
        if !metadata.is_dir() || !self.descends(path) {
            return;
        }
        enter(Directory {
            path: path.to_owned(),
            inode: metadata.ino(),
        });
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            self.walk(&entry.path(), found, enter);
        }
    }

    /// Everything below a directory or file that concerns a service, as it is now.
    pub fn all(&self, root: &Path) -> Vec<Change> {
        let known = self.files.range(root.to_owned()..);
        known
            .take_while(|(path, _)| path.starts_with(root))
            .map(|(path, mark)| Change {
                path: path.clone(),
                now: mark.now(),
            })
            .collect()
    }
}

/// Without those that are within another.
fn outermost(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.sort();
    paths.dedup();
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !kept.last().is_some_and(|last| path.starts_with(last)) {
            kept.push(path);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::testing::rules;
    use super::*;

    fn told(changes: Vec<Change>, root: &Path) -> Vec<String> {
        let mut told: Vec<String> = changes
            .iter()
            .map(|change| {
                let sign = match change.now {
                    Now::Gone => '-',
                    Now::Directory => '/',
                    Now::There => '+',
                };
                let below = change.path.strip_prefix(root).unwrap();
                format!("{sign}{}", below.display())
            })
            .collect();
        told.sort();
        told
    }

    struct World {
        _scratch: tempfile::TempDir,
        root: PathBuf,
        seen: Seen,
    }

    impl World {
        fn new(ignore: &str) -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let root = scratch.path().canonicalize().unwrap().join("src");
            fs::create_dir_all(root.join("deep/er")).unwrap();
            fs::write(root.join("deep/er/a"), "a").unwrap();
            let seen = Seen::new(vec![rules(&root, ignore)]);
            let mut world = Self {
                _scratch: scratch,
                root,
                seen,
            };
            world.look("");
            world
        }

        fn look(&mut self, place: &str) -> Vec<String> {
            let place = self.root.join(place);
            told(self.seen.look(vec![place], &mut |_| {}), &self.root)
        }
    }

    #[test]
    fn only_what_differs_is_told_and_once() {
        let mut world = World::new("");
        let root = world.root.clone();
        assert!(world.look("").is_empty());
        fs::write(root.join("new"), "1").unwrap();
        fs::write(root.join("passing"), "1").unwrap();
        fs::remove_file(root.join("passing")).unwrap();
        assert_eq!(world.look(""), ["+new"]);
        // As editors save: another file of that name.
        fs::write(root.join("new.tmp"), "2").unwrap();
        fs::rename(root.join("new.tmp"), root.join("new")).unwrap();
        assert_eq!(world.look(""), ["+new"]);
        fs::rename(root.join("deep"), root.join("moved")).unwrap();
        let moved = [
            "+moved/er/a",
            "-deep",
            "-deep/er",
            "-deep/er/a",
            "/moved",
            "/moved/er",
        ];
        assert_eq!(world.look(""), moved);
        fs::remove_file(root.join("moved/er/a")).unwrap();
        fs::write(root.join("new"), "3").unwrap();
        assert_eq!(world.look("moved"), ["-moved/er/a"]);
        assert_eq!(world.look("new"), ["+new"]);
    }

    #[test]
    fn links_are_files_wherever_they_lead() {
        let mut world = World::new("");
        let outside = world.root.parent().unwrap().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "x").unwrap();
        symlink(&outside, world.root.join("link")).unwrap();
        assert_eq!(world.look(""), ["+link"]);
        fs::write(outside.join("secret"), "other").unwrap();
        assert!(world.look("").is_empty());
    }

    #[test]
    fn what_is_left_out_is_not_entered() {
        let mut world = World::new("deep");
        let mut entered = Vec::new();
        let root = world.root.clone();
        let mut enter = |directory: Directory| entered.push(directory.path);
        world.seen.look(vec![root.clone()], &mut enter);
        assert_eq!(entered, std::slice::from_ref(&root));
        assert!(world.seen.all(&root.join("deep")).is_empty());
        assert!(!world.seen.concerns(&root.join("deep/er/b")));
        assert!(world.seen.concerns(root.parent().unwrap()));
    }

    #[test]
    fn the_whole_directory_may_go_and_come_back() {
        let mut world = World::new("");
        let aside = world.root.with_extension("old");
        fs::rename(&world.root, &aside).unwrap();
        assert_eq!(world.look(""), ["-", "-deep", "-deep/er", "-deep/er/a"]);
        fs::rename(&aside, &world.root).unwrap();
        let above = world.root.parent().unwrap().to_owned();
        let back = world.seen.look(vec![above], &mut |_| {});
        assert_eq!(
            told(back, &world.root),
            ["+deep/er/a", "/", "/deep", "/deep/er"]
        );
    }
}
