//! `develop.watch`: which changed files concern a service, and what is to be done about them.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};

use berth_ignore::Ignore;
use serde_json::Value;

use crate::error::{Error, Path, Result};
use crate::node::{Kind, Node};
use crate::project::Service;
use crate::show::value;

/// What editors write for themselves, and repositories: it comes and goes with each save.
const PASSING: [&str; 11] = [
    "**/.git",
    "**/.idea",
    "**/*___jb_tmp___",
    "**/*___jb_old___",
    "**/*~",
    "**/4913",
    "**/.*.sw?",
    "**/.*.kate-swp",
    "**/.#*",
    "**/#*#",
    "**/.nfs*",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Sync,
    Rebuild,
    Restart,
    SyncRestart,
    SyncExec,
}

impl Action {
    pub const ALL: [Self; 5] = [
        Self::Sync,
        Self::Rebuild,
        Self::Restart,
        Self::SyncRestart,
        Self::SyncExec,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Rebuild => "rebuild",
            Self::Restart => "restart",
            Self::SyncRestart => "sync+restart",
            Self::SyncExec => "sync+exec",
        }
    }

    /// Whether files are carried into the containers.
    pub fn carries(self) -> bool {
        matches!(self, Self::Sync | Self::SyncRestart | Self::SyncExec)
    }
}

/// One entry of `develop.watch`.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// A directory or a file, from the root.
    pub path: PathBuf,
    pub action: Action,
    /// Where it is in the containers.
    pub target: String,
    /// The command of `sync+exec`, as hooks are written.
    pub exec: Value,
    pub initial_sync: bool,
    ignore: Ignore,
    include: Option<Ignore>,
}

impl Trigger {
    /// Those of a service, none where it has no `develop`.
    ///
    /// # Errors
    /// With the place of what is missing, contradicts itself or cannot be read.
    pub fn of(service: &Node, path: &Path) -> Result<Vec<Self>> {
        let watch = service
            .get("develop")
            .and_then(|develop| develop.get("watch"));
        let path = path.key("develop").key("watch");
        let has_build = service.get("build").is_some_and(|build| !build.is_null());
        let items = watch.map(Node::items).unwrap_or_default().iter();
        items
            .enumerate()
            .map(|(index, item)| Self::read(item, &path.index(index), has_build))
            .collect()
    }

    fn read(node: &Node, path: &Path, has_build: bool) -> Result<Self> {
        let given = |field: &str| node.get(field).filter(|node| !node.is_null());
        let text = |field: &str| given(field).and_then(Node::scalar).unwrap_or_default();
        let at = |field: &str| given(field).unwrap_or(node).at.clone();
        let wrong = |field: &str, reason: &str| Error::field(&at(field), &path.key(field), reason);
        if text("path").is_empty() {
            return Err(wrong("path", "it has to say what is watched"));
        }
        let word = text("action");
        let action = Action::ALL.into_iter().find(|one| one.word() == word);
        let Some(action) = action else {
            let known = Action::ALL.map(Action::word).join(", ");
            return Err(wrong(
                "action",
                &format!("{word:?} is none; there are {known}"),
            ));
        };
        if action == Action::Rebuild && !has_build {
            return Err(wrong("action", "rebuild is for services that have a build"));
        }
        if action.carries() && !text("target").starts_with('/') {
            let reason = "files are carried to a path in the container, which begins with /";
            return Err(wrong("target", reason));
        }
        let exec = given("exec");
        let command = exec.and_then(|exec| exec.get("command"));
        if action == Action::SyncExec && command.is_none_or(Node::is_null) {
            return Err(wrong("exec", "sync+exec needs a command"));
        }
        let patterns = |field: &str| {
            let items = given(field).map(Node::items).unwrap_or_default();
            let words: Vec<String> = items.iter().filter_map(Node::scalar).collect();
            Ignore::of(words.iter().map(String::as_str))
                .map_err(|error| wrong(field, &error.to_string()))
        };
        Ok(Self {
            path: PathBuf::from(text("path")),
            action,
            target: text("target"),
            exec: exec.map_or(Value::Null, value),
            initial_sync: given("initial_sync").is_some_and(|on| on.kind == Kind::Bool(true)),
            ignore: patterns("ignore")?,
            include: Some(patterns("include")?).filter(|include| !include.is_empty()),
        })
    }

    /// Below what is watched: empty for that itself.
    fn below<'a>(&self, path: &'a FilePath) -> Option<&'a str> {
        path.strip_prefix(&self.path).ok()?.to_str()
    }

    /// In the containers.
    fn place(&self, below: &str) -> String {
        let whole = format!("{}/{below}", self.target.trim_end_matches('/'));
        match whole.trim_end_matches('/') {
            "" => "/".to_owned(),
            path => path.to_owned(),
        }
    }
}

/// A file that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub path: PathBuf,
    pub now: Now,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    Gone,
    Directory,
    /// A file, a link or whatever else.
    There,
}

/// What a batch of changes asks of one service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Work {
    pub rebuild: bool,
    /// By the path in the containers. What is in a directory that is gone is left out.
    pub sync: BTreeMap<String, Change>,
    pub restart: bool,
    /// Commands, each once.
    pub exec: Vec<Value>,
}

impl Work {
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What changed files mean to one service.
#[derive(Debug, Clone)]
pub struct Rules {
    pub triggers: Vec<Trigger>,
    /// The directory of its build, and what is left out of that.
    context: Option<(PathBuf, Ignore)>,
    passing: Ignore,
}

impl Rules {
    pub fn of(service: &Service, context: Option<(PathBuf, Ignore)>) -> Result<Self> {
        let path = Path::of("services").key(&service.name);
        Ok(Self {
            triggers: Trigger::of(&service.node, &path)?,
            context,
            passing: Ignore::of(PASSING).unwrap_or_default(),
        })
    }

    /// Whether a path concerns the service.
    pub fn takes(&self, path: &FilePath) -> bool {
        self.triggers
            .iter()
            .any(|trigger| self.fires(trigger, path).is_some())
    }

    /// Whether it is named as what is watched.
    pub fn names(&self, path: &FilePath) -> bool {
        self.triggers.iter().any(|trigger| trigger.path == path)
    }

    /// Whether something in a directory may: if not, it need not be watched.
    pub fn descends(&self, directory: &FilePath) -> bool {
        self.triggers.iter().any(|trigger| {
            let Some(below) = trigger.below(directory) else {
                return false;
            };
            let out = |ignore: &Ignore, path: &str| {
                !path.is_empty() && ignore.excludes(path) && !ignore.has_exceptions()
            };
            let in_context = self.in_context(directory);
            !out(&trigger.ignore, below)
                && !out(&self.passing, below)
                && !in_context.is_some_and(|(ignore, path)| out(ignore, path))
        })
    }

    fn in_context<'a>(&'a self, path: &'a FilePath) -> Option<(&'a Ignore, &'a str)> {
        let (directory, ignore) = self.context.as_ref()?;
        Some((ignore, path.strip_prefix(directory).ok()?.to_str()?))
    }

    /// The path below what the trigger watches, if it is one for it. What is watched itself, by its
    /// own name, is left out by no rule.
    fn fires<'a>(&self, trigger: &Trigger, path: &'a FilePath) -> Option<&'a str> {
        let below = trigger.below(path)?;
        if below.is_empty() {
            return Some(below);
        }
        let is_out = trigger.ignore.excludes(below)
            || self.passing.excludes(below)
            || self
                .in_context(path)
                .is_some_and(|(ignore, path)| ignore.excludes(path));
        let is_in = trigger
            .include
            .as_ref()
            .is_none_or(|include| include.excludes(below));
        (is_in && !is_out).then_some(below)
    }

    pub fn work<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) -> Work {
        let mut work = Work::default();
        for change in changes {
            for trigger in &self.triggers {
                if let Some(below) = self.fires(trigger, &change.path) {
                    work.add(trigger, below, change);
                }
            }
        }
        work.collapse();
        work
    }
}

impl Work {
    fn add(&mut self, trigger: &Trigger, below: &str, change: &Change) {
        match trigger.action {
            Action::Rebuild => self.rebuild = true,
            Action::Restart | Action::SyncRestart => self.restart = true,
            Action::SyncExec if !self.exec.contains(&trigger.exec) => {
                self.exec.push(trigger.exec.clone());
            }
            Action::Sync | Action::SyncExec => {}
        }
        if trigger.action.carries() {
            self.sync.insert(trigger.place(below), change.clone());
        }
    }

    fn collapse(&mut self) {
        let is_gone = |change: &Change| change.now == Now::Gone;
        let gone = self.sync.iter().filter(|(_, change)| is_gone(change));
        let gone: Vec<String> = gone.map(|(path, _)| format!("{path}/")).collect();
        self.sync.retain(|path, change| {
            !is_gone(change) || !gone.iter().any(|above| path.starts_with(above))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Result<Service> {
        let text = format!("services:\n  web:\n    image: x\n{text}");
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("compose.yaml"), text).unwrap();
        let options = crate::Options {
            files: vec![scratch.path().join("compose.yaml")],
            project_directory: Some("/p".into()),
            ..crate::Options::default()
        };
        crate::Project::load(&options).map(|project| project.services["web"].clone())
    }

    fn rules(entries: &str, ignore: &str) -> Rules {
        let context = (PathBuf::from("/p"), Ignore::parse(ignore).unwrap());
        let text = format!("    build: .\n    develop:\n      watch:\n{entries}");
        Rules::of(&service(&text).unwrap(), Some(context)).unwrap()
    }

    fn change(path: &str, now: Now) -> Change {
        Change {
            path: path.into(),
            now,
        }
    }

    fn targets(work: &Work) -> Vec<&str> {
        work.sync.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_batch_asks_for_each_thing_once() {
        let rules = rules(
            "        - {path: ./src, action: sync, target: /app}\n\
             \x20       - {path: ./conf, action: sync+restart, target: /etc/app/}\n\
             \x20       - {path: ./go.mod, action: rebuild}\n\
             \x20       - {path: ./hooks, action: sync+exec, target: /h, exec: {command: reload}}\n",
            "",
        );
        let there = |path| change(path, Now::There);
        let work = rules.work(&[there("/p/src/a/b.py"), there("/p/src"), there("/p/else")]);
        assert_eq!(targets(&work), ["/app", "/app/a/b.py"]);
        assert!(!work.rebuild && !work.restart && work.exec.is_empty());
        let work = rules.work(&[there("/p/conf/a"), there("/p/conf/b"), there("/p/go.mod")]);
        assert_eq!(targets(&work), ["/etc/app/a", "/etc/app/b"]);
        assert!(work.rebuild && work.restart);
        let work = rules.work(&[there("/p/hooks/a"), there("/p/hooks/b")]);
        assert_eq!(work.exec.len(), 1);
        assert_eq!(work.exec[0]["command"][0], "reload");
        assert!(
            rules
                .work(&[there("/p/source/x"), there("/p")])
                .is_nothing()
        );
    }

    #[test]
    fn what_is_left_out_neither_fires_nor_is_looked_into() {
        let rules = rules(
            "        - {path: ., action: sync, target: /app, ignore: [node_modules/, '**/*.log'],\n\
             \x20          include: ['**/*.js', '**/*.log', node_modules]}\n\
             \x20       - {path: ./skipped.txt, action: rebuild}\n",
            "dist\nskipped.txt\n",
        );
        for (path, taken) in [
            ("/p/a.js", true),
            ("/p/deep/er/a.js", true),
            ("/p/a.ts", false),
            ("/p/a.log", false),
            ("/p/node_modules/x.js", false),
            ("/p/dist/x.js", false),
            ("/p/.a.js.swp", false),
            ("/p/.git/a.js", false),
            // It is named itself.
            ("/p/skipped.txt", true),
            ("/elsewhere/a.js", false),
        ] {
            assert_eq!(rules.takes(FilePath::new(path)), taken, "{path}");
        }
        for (path, looked_into) in [
            ("/p", true),
            ("/p/deep", true),
            ("/p/node_modules", false),
            ("/p/node_modules/x", false),
            ("/p/dist", false),
            ("/p/.git", false),
            ("/elsewhere", false),
        ] {
            assert_eq!(rules.descends(FilePath::new(path)), looked_into, "{path}");
        }
    }

    #[test]
    fn exceptions_below_what_is_left_out_are_still_found() {
        let rules = rules(
            "        - {path: ., action: sync, target: /app}\n",
            "*\n!src/kept\n",
        );
        assert!(rules.descends(FilePath::new("/p/src")));
        assert!(rules.takes(FilePath::new("/p/src/kept/a")));
        assert!(!rules.takes(FilePath::new("/p/src/other")));
    }

    #[test]
    fn a_directory_that_is_gone_takes_along_what_was_in_it() {
        let rules = rules("        - {path: ./src, action: sync, target: /app}\n", "");
        let gone = |path| change(path, Now::Gone);
        let work = rules.work(&[gone("/p/src/a"), gone("/p/src/a/b"), gone("/p/src/ab")]);
        assert_eq!(targets(&work), ["/app/a", "/app/ab"]);
        let work = rules.work(&[gone("/p/src/a"), change("/p/src/a/b", Now::There)]);
        assert_eq!(targets(&work), ["/app/a", "/app/a/b"]);
    }

    #[test]
    fn what_cannot_be_watched_is_told_with_its_place() {
        for (entry, field, part) in [
            ("{action: sync, target: /a}", ".path", "what is watched"),
            ("{path: ., action: copy}", ".action", "sync+exec"),
            ("{path: ., action: rebuild}", ".action", "have a build"),
            ("{path: ., action: sync}", ".target", "begins with /"),
            (
                "{path: ., action: sync, target: a}",
                ".target",
                "begins with /",
            ),
            (
                "{path: ., action: sync+exec, target: /a}",
                ".exec",
                "a command",
            ),
            (
                "{path: ., action: restart, ignore: ['[']}",
                ".ignore",
                "no pattern",
            ),
            (
                "{path: ., action: restart, when: now}",
                ".when",
                "no such field",
            ),
        ] {
            let text = format!("    develop:\n      watch:\n        - {entry}\n");
            let told = service(&text).unwrap_err().to_string();
            let place = format!("services.web.develop.watch[0]{field}");
            assert!(told.contains(&place) && told.contains(part), "{told}");
            assert!(told.contains("compose.yaml:6:"), "{told}");
        }
    }
}
