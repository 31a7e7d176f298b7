//! Watches directories, and tells what changed in whole batches: once it has been quiet for a
//! moment. A thread of its own does so, as looking at files blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use berth_compose::develop::{Change, Rules};
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, INotifyWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::seen::{Directory, Seen};
use crate::error::{Error, Result};

/// So long nothing happens before a batch is told.
const QUIET: Duration = Duration::from_millis(300);
/// Where something happens all the time, a batch is told after this.
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub enum Told {
    Changes(Vec<Change>),
    /// Something cannot be watched.
    Trouble(Error),
}

enum Hint {
    Places(Vec<PathBuf>),
    /// The kernel had more to tell than it could hold.
    Lost,
    Trouble(notify::Error),
    Enough,
}

/// Files that are watched, for as long as this is held.
#[derive(Debug)]
pub struct Eyes {
    told: UnboundedReceiver<Told>,
    hints: mpsc::Sender<Hint>,
}

impl Eyes {
    /// Also gives what there is of `initial` paths, to be carried over before anything changes.
    pub fn open(rules: Vec<Rules>, initial: &[PathBuf]) -> Result<(Self, Vec<Change>)> {
        let (hints, received) = mpsc::channel();
        let (tell, told) = unbounded_channel();
        let mut looker = Looker::new(rules, hints.clone())?;
        let roots = looker.seen.roots();
        if let (_, Some(error)) = looker.look(roots) {
            return Err(error);
        }
        let all = initial.iter().flat_map(|path| looker.seen.all(path));
        let all = all.collect();
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || looker.run(&received, &tell))
            .map_err(|source| Error::Terminal("starting a thread", source))?;
        Ok((Self { told, hints }, all))
    }

    pub async fn next(&mut self) -> Told {
        match self.told.recv().await {
            Some(told) => told,
            // The thread ends with this alone.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Eyes {
    fn drop(&mut self) {
        let _ended = self.hints.send(Hint::Enough);
    }
}

fn watching(path: PathBuf, source: notify::Error) -> Error {
    Error::Watch { path, source }
}

struct Looker {
    seen: Seen,
    notify: INotifyWatcher,
    /// Inodes of directories that are watched.
    watched: BTreeMap<PathBuf, u64>,
}

impl Looker {
    fn new(rules: Vec<Rules>, hints: mpsc::Sender<Hint>) -> Result<Self> {
        let tell = move |event: notify::Result<notify::Event>| {
            // Who does not listen any more has no use for it.
            let _heard = match event {
                Ok(event) if event.need_rescan() => hints.send(Hint::Lost),
                Ok(event) if is_change(event.kind) => hints.send(Hint::Places(event.paths)),
                Ok(_) => return,
                Err(error) => hints.send(Hint::Trouble(error)),
            };
        };
        let notify = INotifyWatcher::new(tell, notify::Config::default());
        Ok(Self {
            seen: Seen::new(rules),
            notify: notify.map_err(|source| watching(PathBuf::from("."), source))?,
            watched: BTreeMap::new(),
        })
    }

    fn run(mut self, hints: &mpsc::Receiver<Hint>, tell: &UnboundedSender<Told>) {
        while let Ok(hint) = hints.recv() {
            let Some(mut places) = self.places(hint, tell) else {
                return;
            };
            if places.is_empty() {
                continue;
            }
            let begun = Instant::now();
            while begun.elapsed() < LONGEST {
                match hints.recv_timeout(QUIET) {
                    Ok(hint) => match self.places(hint, tell) {
                        Some(more) => places.extend(more),
                        None => return,
                    },
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            let (changes, failed) = self.look(places.into_iter().collect());
            let changes = Some(changes).filter(|changes| !changes.is_empty());
            let all = [failed.map(Told::Trouble), changes.map(Told::Changes)];
            if all
                .into_iter()
                .flatten()
                .any(|told| tell.send(told).is_err())
            {
                return;
            }
        }
    }

    /// Places to look at; `None` at the end.
    fn places(&self, hint: Hint, tell: &UnboundedSender<Told>) -> Option<BTreeSet<PathBuf>> {
        match hint {
            Hint::Enough => None,
            Hint::Lost => Some(self.seen.roots().into_iter().collect()),
            Hint::Places(mut places) => {
                places.retain(|place| self.seen.concerns(place));
                Some(places.into_iter().collect())
            }
            Hint::Trouble(error) => {
                let path = error.paths.first().cloned().unwrap_or_default();
                let trouble = Told::Trouble(watching(path, error));
                tell.send(trouble).ok().map(|()| BTreeSet::new())
            }
        }
    }

    /// Also tells the first directory that could not be watched.
    fn look(&mut self, places: Vec<PathBuf>) -> (Vec<Change>, Option<Error>) {
        self.forget_gone();
        // Whatever happened to a directory itself may have ended its watch, be it by another one of
        // its name: it is set up once more.
        let directories = places.iter().filter(|place| place.is_dir());
        let directories: Vec<PathBuf> = directories.cloned().collect();
        let is_below = |path: &PathBuf| directories.iter().any(|place| path.starts_with(place));
        self.watched.retain(|path, _| !is_below(path));
        let (notify, watched) = (&mut self.notify, &mut self.watched);
        let mut failed = None;
        let mut enter = |directory: Directory| {
            let problem = watch(notify, watched, directory);
            failed = failed.take().or(problem);
        };
        for root in self.seen.roots() {
            // Another may be put in its place, and one that is not there may come: until nothing
            // nearer comes while the watch is set up.
            let mut above = None;
            while above != nearest_above(&root) {
                above = nearest_above(&root);
                above.clone().into_iter().for_each(&mut enter);
            }
        }
        let changes = self.seen.look(places, &mut enter);
        (changes, failed)
    }

    /// Directories that are gone or are others by now. First of all: one that was moved is
    /// watched by the same number under its new name, which must not be taken away afterwards.
    fn forget_gone(&mut self) {
        let notify = &mut self.notify;
        self.watched.retain(|path, inode| {
            let is_same = inode_of(path) == Some(*inode);
            if !is_same {
                // The kernel may have done so by itself.
                let _forgotten = notify.unwatch(path);
            }
            is_same
        });
    }
}

fn watch(
    notify: &mut INotifyWatcher,
    watched: &mut BTreeMap<PathBuf, u64>,
    directory: Directory,
) -> Option<Error> {
    if watched.get(&directory.path) == Some(&directory.inode) {
        return None;
    }
    match notify.watch(&directory.path, RecursiveMode::NonRecursive) {
        Ok(()) => {
            watched.insert(directory.path, directory.inode);
            None
        }
        // It went away meanwhile, which its own directory tells.
        Err(_) if inode_of(&directory.path) != Some(directory.inode) => None,
        Err(error) => Some(watching(directory.path, error)),
    }
}

fn nearest_above(root: &Path) -> Option<Directory> {
    root.ancestors().skip(1).find_map(|path| {
        let inode = inode_of(path)?;
        path.is_dir().then(|| Directory {
            path: path.to_owned(),
            inode,
        })
    })
}

fn inode_of(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|found| found.ino())
}

/// Reading changes nothing: above all this program's own.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::rules;
    use super::*;

    async fn batch(eyes: &mut Eyes) -> Vec<String> {
        let told = tokio::time::timeout(Duration::from_secs(10), eyes.next()).await;
        match told.unwrap() {
            Told::Changes(changes) => {
                let name = |change: &Change| change.path.file_name().unwrap().to_owned();
                let names = changes.iter().map(name);
                names.map(|name| name.into_string().unwrap()).collect()
            }
            Told::Trouble(error) => panic!("{}", error.report()),
        }
    }

    async fn quiet(eyes: &mut Eyes) {
        let told = tokio::time::timeout(3 * QUIET, eyes.next()).await;
        assert!(told.is_err(), "{told:?}");
    }

    #[tokio::test]
    async fn many_changes_at_once_are_one_batch_whatever_became_of_directories() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap().join("src");
        // It is not there yet.
        let (mut eyes, all) = Eyes::open(vec![rules(&root, "left")], &[]).unwrap();
        assert!(all.is_empty());
        let aside = scratch.path().join("aside");
        fs::create_dir_all(aside.join("sub")).unwrap();
        fs::write(aside.join("sub/old"), "1").unwrap();
        fs::rename(&aside, &root).unwrap();
        assert_eq!(batch(&mut eyes).await, ["src", "sub", "old"]);
        for name in ["a", "b", "c"] {
            fs::write(root.join("sub").join(name), name).unwrap();
        }
        assert_eq!(batch(&mut eyes).await, ["a", "b", "c"]);
        fs::rename(root.join("sub"), root.join("moved")).unwrap();
        fs::create_dir(root.join("sub")).unwrap();
        batch(&mut eyes).await;
        // Both are watched: the one under its new name, the other although it has the old one.
        fs::write(root.join("moved/x"), "x").unwrap();
        assert_eq!(batch(&mut eyes).await, ["x"]);
        fs::write(root.join("sub/y"), "y").unwrap();
        assert_eq!(batch(&mut eyes).await, ["y"]);
        fs::create_dir(root.join("left")).unwrap();
        fs::write(root.join("left/z"), "z").unwrap();
        fs::read(root.join("sub/y")).unwrap();
        quiet(&mut eyes).await;
    }

    #[tokio::test]
    async fn a_file_is_watched_by_its_name_through_renames_over_it() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap().join("conf");
        fs::write(&root, "1").unwrap();
        let initial = std::slice::from_ref(&root);
        let (mut eyes, all) = Eyes::open(vec![rules(&root, "")], initial).unwrap();
        assert_eq!(all.len(), 1);
        for round in ["2", "3"] {
            let new = root.with_extension("new");
            fs::write(&new, round).unwrap();
            fs::rename(&new, &root).unwrap();
            assert_eq!(batch(&mut eyes).await, ["conf"]);
        }
        fs::write(scratch.path().join("other"), "x").unwrap();
        quiet(&mut eyes).await;
    }
}
