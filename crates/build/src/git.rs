//! Git repositories, by the machine's git: what `ADD` and a remote context name.
//!
//! Nothing of this machine's has a part in it: no configuration, no credentials, no hooks, no keys, and
//! only `http`, `https` and `git` are spoken. What a repository may take on the disk is limited.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, blocking};
use crate::tree::{Node, NodeKind, Root, Tree};

/// Bytes of git's own answers that are read.
const LARGEST_ANSWER: u64 = 1 << 20;
/// Between two looks at what a repository takes.
const LOOK: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// Characters of what git complains of that people see.
const SHOWN: usize = 400;
/// What is fetched through, and nothing else of the daemon's environment.
const ENVIRONMENT: [&str; 13] = [
    "PATH",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "LANG",
];
const SETTINGS: [&str; 8] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.symlinks=true",
    "credential.helper=",
    "protocol.file.allow=never",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
    "advice.detachedHead=false",
];

/// What a repository may take while it is here.
#[derive(Debug, Clone, Copy)]
struct Limit {
    bytes: u64,
    entries: u64,
}

const LIMIT: Limit = Limit {
    bytes: 32 << 30,
    entries: 8_000_000,
};

/// Where a repository is, and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    pub url: String,
    /// A branch, a tag or a commit; `HEAD` where none is named.
    pub reference: String,
    /// Below its root; empty for all of it.
    pub directory: String,
}

impl Repository {
    /// `URL#reference:directory`; none if that is no repository.
    ///
    /// # Errors
    /// If it is one that is not fetched.
    pub fn parse(source: &str) -> Result<Option<Self>> {
        let (url, fragment) = source.split_once('#').unwrap_or((source, ""));
        let lower = url.to_ascii_lowercase();
        let has_host = |scheme: &str| lower.starts_with(scheme);
        if has_host("ssh://") || (lower.starts_with("git@") && lower.contains(':')) {
            return Err(Error::invalid(format!(
                "{source}: the daemon has no keys: name the repository by https, or clone it in \
                 RUN --mount=type=ssh"
            )));
        }
        let path = lower.split('?').next().unwrap_or_default();
        let by_http = (has_host("http://") || has_host("https://")) && path.ends_with(".git");
        if !by_http && !has_host("git://") {
            return Ok(None);
        }
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let is_odd = |letter: char| letter.is_control() || " ~^?*[\\:".contains(letter);
        if reference.starts_with('-') || reference.contains("..") || reference.contains(is_odd) {
            return Err(Error::invalid(format!(
                "{source}: {reference:?} is no branch, tag or commit"
            )));
        }
        Ok(Some(Self {
            url: url.to_owned(),
            reference: match reference {
                "" => "HEAD".to_owned(),
                name => name.to_owned(),
            },
            directory: directory.to_owned(),
        }))
    }

    /// The commit that is meant now.
    pub async fn commit(&self, root: &Path, cancel: &CancellationToken) -> Result<String> {
        if is_commit(&self.reference) {
            return Ok(self.reference.clone());
        }
        let place = Place::make(root, LIMIT)?;
        let git = Git::new(self, &place, cancel);
        let peeled = format!("{}^{{}}", self.reference);
        let listed = git
            .run(&["ls-remote", "--", &self.url, &self.reference, &peeled])
            .await?;
        chosen(&listed, &self.reference).ok_or_else(|| {
            git.failed(format!(
                "it has no {}: name a branch, a tag or a whole commit",
                self.reference
            ))
        })
    }

    /// Fetches a commit of it into a directory of its own below `root`.
    pub async fn check_out(
        &self,
        commit: &str,
        keeps_git: bool,
        root: &Path,
        cancel: &CancellationToken,
    ) -> Result<Checkout> {
        self.check_out_within(commit, keeps_git, Place::make(root, LIMIT)?, cancel)
            .await
    }

    async fn check_out_within(
        &self,
        commit: &str,
        keeps_git: bool,
        place: Place,
        cancel: &CancellationToken,
    ) -> Result<Checkout> {
        let git = Git::new(self, &place, cancel);
        let tree = place.tree().display().to_string();
        let inside = |arguments: &[&str]| -> Vec<String> {
            let own = ["-C", tree.as_str()];
            own.iter()
                .chain(arguments)
                .map(|word| (*word).to_owned())
                .collect()
        };
        git.run(&["init", "--quiet", "--template=", "--", &tree])
            .await?;
        // A server may give single commits by their names of refs alone.
        let shallow = [
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--",
            &self.url,
        ];
        let by_commit = git.run(&inside(&[&shallow[..], &[commit]].concat())).await;
        match by_commit {
            Ok(_) => {}
            Err(Error::Git { .. }) if is_commit(&self.reference) => {
                let all = ["fetch", "--quiet", "--tags", "--", &self.url];
                let heads = "+refs/heads/*:refs/remotes/origin/*";
                git.run(&inside(&[&all[..], &[heads]].concat())).await?;
            }
            Err(Error::Git { .. }) => {
                let by_name = [&shallow[..], &[&self.reference]].concat();
                git.run(&inside(&by_name)).await?;
            }
            Err(error) => return Err(error),
        }
        let exact = format!("{commit}^{{commit}}");
        let arguments = inside(&["rev-parse", "--verify", "--quiet", &exact]);
        let moved = |_| git.failed(format!("{} moved meanwhile: build again", self.reference));
        git.run(&arguments).await.map_err(moved)?;
        git.run(&inside(&[
            "checkout", "--quiet", "--detach", "--force", commit,
        ]))
        .await?;
        if fs::symlink_metadata(place.tree().join(".gitmodules")).is_ok() {
            let arguments = [
                "submodule",
                "--quiet",
                "update",
                "--init",
                "--recursive",
                "--depth=1",
            ];
            git.run(&inside(&arguments)).await?;
        }
        let time = git
            .run(&inside(&["show", "-s", "--format=%ct", commit]))
            .await?;
        let time = time.trim().parse().unwrap_or(0);
        let directory = self.directory.clone();
        blocking("opening a repository", move || {
            Checkout::open(place, &directory, keeps_git, time)
        })
        .await
    }
}

/// Forty letters of SHA-1, or sixty-four of SHA-256.
fn is_commit(reference: &str) -> bool {
    matches!(reference.len(), 40 | 64) && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What `ls-remote` says of a name: a branch before a tag, and of a tag the commit it is of.
fn chosen(listed: &str, reference: &str) -> Option<String> {
    let refs: Vec<(&str, &str)> = listed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(commit, _)| is_commit(commit))
        .collect();
    let wanted = [
        reference.to_owned(),
        format!("refs/heads/{reference}"),
        format!("refs/tags/{reference}^{{}}"),
        format!("refs/tags/{reference}"),
        format!("refs/{reference}"),
    ];
    let mut found = wanted
        .iter()
        .filter_map(|name| refs.iter().find(|(_, known)| known == name));
    found.next().map(|(commit, _)| (*commit).to_owned())
}

/// A directory for as long as a repository is needed.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    limit: Limit,
}

impl Place {
    fn make(root: &Path, limit: Limit) -> Result<Self> {
        let path = root.join(format!("git-{:016x}", fastrand::u64(..)));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(Error::file("create", &path))?;
        Ok(Self { path, limit })
    }

    fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

struct Git<'a> {
    repository: &'a Repository,
    place: &'a Place,
    cancel: &'a CancellationToken,
}

impl<'a> Git<'a> {
    fn new(repository: &'a Repository, place: &'a Place, cancel: &'a CancellationToken) -> Self {
        Self {
            repository,
            place,
            cancel,
        }
    }

    fn failed(&self, problem: impl Into<String>) -> Error {
        Error::Git {
            url: self.repository.url.clone(),
            problem: problem.into(),
        }
    }

    fn command(&self, arguments: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let mut command = Command::new("git");
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.args(arguments).env_clear();
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("HOME", &self.place.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("GIT_ALLOW_PROTOCOL", "http:https:git")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// What git answers. It and what it started are gone when this returns.
    async fn run(&self, arguments: &[impl AsRef<std::ffi::OsStr>]) -> Result<String> {
        let mut child = self
            .command(arguments)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::invalid(
                    "git is not installed on this machine, and repositories are fetched by it: \
                     install git, or clone the repository and build the directory",
                ),
                _ => Error::file("start", "git")(error),
            })?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let _ends = Group(group);
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let ended = async {
            let (out, err) = tokio::join!(text(out), text(err));
            (child.wait().await, out, err)
        };
        let (status, out, err) = tokio::select! {
            ended = ended => ended,
            taken = self.beyond() => return Err(self.failed(taken)),
            () = tokio::time::sleep(LONGEST) => {
                return Err(self.failed(format!("it took more than {} minutes", LONGEST.as_secs() / 60)));
            }
            () = self.cancel.cancelled() => return Err(Error::Cancelled),
        };
        match status.map_err(Error::file("wait for", "git"))?.success() {
            true => Ok(out),
            false => {
                let problem: String = err.trim().chars().take(SHOWN).collect();
                Err(self.failed(problem))
            }
        }
    }

    /// Returns when the repository takes too much.
    async fn beyond(&self) -> String {
        loop {
            tokio::time::sleep(LOOK).await;
            let (path, limit) = (self.place.path.clone(), self.place.limit);
            let is_beyond = blocking("looking at a repository", move || {
                let mut left = limit;
                Ok(!fits(&path, &mut left))
            });
            if is_beyond.await.unwrap_or(false) {
                let Limit { bytes, entries } = self.place.limit;
                return format!("it takes more than {bytes} bytes or {entries} files");
            }
        }
    }
}

/// Whether what is at a path, and below it, is within what is left of a limit.
fn fits(path: &Path, left: &mut Limit) -> bool {
    let Ok(entries) = fs::read_dir(path) else {
        // It went away meanwhile.
        return true;
    };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let taken =
            (left.bytes.checked_sub(metadata.blocks() * 512)).zip(left.entries.checked_sub(1));
        let Some((bytes, entries)) = taken else {
            return false;
        };
        *left = Limit { bytes, entries };
        if metadata.is_dir() && !fits(&entry.path(), left) {
            return false;
        }
    }
    true
}

/// Ends everything of a process group.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The beginning of what is written; the rest is read, and let go.
async fn text(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else {
        return String::new();
    };
    let mut bytes = Vec::new();
    let _ended = (&mut from)
        .take(LARGEST_ANSWER)
        .read_to_end(&mut bytes)
        .await;
    let _ended = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The files of a commit: root's, with the two modes that git knows, at the commit's time.
pub struct Checkout {
    root: Root,
    time: u64,
    _place: Place,
}

impl Checkout {
    fn open(place: Place, directory: &str, keeps_git: bool, time: u64) -> Result<Self> {
        let whole = place.tree();
        let git = whole.join(".git");
        let root = open(&whole)?;
        let resolved = root.resolve(directory)?;
        let kind = root.node(&resolved)?.map(|node| node.kind);
        if kind != Some(NodeKind::Directory) {
            return Err(Error::invalid(format!(
                "{directory:?} is no directory of the repository"
            )));
        }
        if !keeps_git {
            fs::remove_dir_all(&git).map_err(Error::file("remove", &git))?;
        } else if !resolved.is_empty() {
            let to = whole.join(&resolved).join(".git");
            fs::rename(&git, &to).map_err(Error::file("make", to))?;
        }
        let root = match resolved.is_empty() {
            true => root,
            false => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let at = berth_kernel::open_without_links(&root.0, Path::new(&resolved), flags);
                let failed =
                    |errno: rustix::io::Errno| Error::file("open", directory)(errno.into());
                Root(at.map_err(failed)?)
            }
        };
        Ok(Self {
            root,
            time,
            _place: place,
        })
    }
}

fn open(path: &Path) -> Result<Root> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let opened = rustix::fs::openat(CWD, path, flags, Mode::empty());
    let failed = |errno: rustix::io::Errno| Error::file("open", path)(errno.into());
    opened.map(Root).map_err(failed)
}

impl Tree for Checkout {
    fn node(&self, path: &str) -> Result<Option<Node>> {
        let node = self.root.node(path)?;
        Ok(node.map(
            |Node {
                 kind,
                 mut attributes,
             }| {
                attributes.mode = match &kind {
                    NodeKind::File { .. } if attributes.mode & 0o111 == 0 => 0o644,
                    NodeKind::Symlink(_) => 0o777,
                    _ => 0o755,
                };
                (attributes.uid, attributes.gid) = (0, 0);
                attributes.mtime = self.time;
                attributes.xattrs.clear();
                Node { kind, attributes }
            },
        ))
    }

    fn list(&self, directory: &str) -> Result<Vec<String>> {
        self.root.list(directory)
    }

    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        self.root.open(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command as Now;

    #[test]
    fn repositories_are_told_from_files() {
        let parse = |source: &str| Repository::parse(source).unwrap();
        let whole = |url: &str, reference: &str, directory: &str| {
            Some(Repository {
                url: url.into(),
                reference: reference.into(),
                directory: directory.into(),
            })
        };
        let https = "https://h/x/y.git";
        assert_eq!(parse(https), whole(https, "HEAD", ""));
        assert_eq!(parse(&format!("{https}#v1:a/b")), whole(https, "v1", "a/b"));
        assert_eq!(parse(&format!("{https}#:a")), whole(https, "HEAD", "a"));
        assert_eq!(parse("git://h/y#b"), whole("git://h/y", "b", ""));
        for file in [
            "https://h/x.tar",
            "x.git",
            "/a/b.git",
            "file:///x.git",
            "https://h/x#y.git",
        ] {
            assert_eq!(parse(file), None, "{file}");
        }
        for refused in [
            "git@h:x/y.git",
            "ssh://h/x.git",
            "https://h/x.git#--upload-pack=x",
            "https://h/x.git#a b",
            "https://h/x.git#a..b",
        ] {
            assert!(Repository::parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_branch_comes_before_a_tag_and_a_tag_is_its_commit() {
        let (a, b, c) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
        let tags = format!("{a}\trefs/tags/v1\n{b}\trefs/tags/v1^{{}}\n");
        assert_eq!(chosen(&tags, "v1"), Some(b));
        assert_eq!(
            chosen(&format!("{tags}{c}\trefs/heads/v1\n"), "v1"),
            Some(c.clone())
        );
        assert_eq!(chosen(&format!("{c}\tHEAD\n"), "HEAD"), Some(c));
        assert_eq!(chosen("--x\tHEAD\nodd", "HEAD"), None);
    }

    fn git(directory: &Path, arguments: &[&str]) -> String {
        let output = Now::new("git")
            .args([
                "-c",
                "user.name=n",
                "-c",
                "user.email=e@e",
                "-c",
                "init.defaultBranch=main",
            ])
            .args(arguments)
            .current_dir(directory)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_COMMITTER_DATE", "1700000000 +0000")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A git daemon on a port of its own, which ends with this.
    struct Served {
        child: std::process::Child,
        url: String,
        commit: String,
        _scratch: tempfile::TempDir,
    }

    impl Drop for Served {
        fn drop(&mut self) {
            // It serves by children of its own.
            let group = Pid::from_raw(self.child.id() as i32).unwrap();
            let _gone = kill_process_group(group, Signal::KILL);
            let _gone = self.child.wait();
        }
    }

    fn served() -> Option<Served> {
        use std::os::unix::process::CommandExt;
        let scratch = tempfile::tempdir().unwrap();
        let work = scratch.path().join("work.git");
        fs::create_dir_all(work.join("sub")).unwrap();
        if Now::new("git").arg("--version").output().is_err() {
            println!("skipped: git is not installed");
            return None;
        }
        git(&work, &["init", "-q"]);
        fs::write(work.join("sub/file"), "first\n").unwrap();
        std::os::unix::fs::symlink("/etc", work.join("out")).unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "-q", "-m", "one"]);
        git(&work, &["tag", "-a", "-m", "t", "v1"]);
        let commit = git(&work, &["rev-parse", "HEAD"]);
        fs::write(work.join("sub/file"), "second\n").unwrap();
        fs::write(work.join("large"), vec![7; 300_000]).unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "-q", "-m", "two"]);
        let port = {
            let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            taken.local_addr().unwrap().port()
        };
        let child = Now::new("git")
            .args([
                "daemon",
                "--listen=127.0.0.1",
                "--export-all",
                "--reuseaddr",
            ])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", scratch.path().display()))
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Served {
            child,
            url: format!("git://127.0.0.1:{port}/work.git"),
            commit,
            _scratch: scratch,
        })
    }

    fn read(tree: &Checkout, path: &str) -> String {
        let mut text = String::new();
        tree.open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[tokio::test]
    async fn a_repository_is_fetched_as_it_was_at_a_commit() {
        let Some(served) = served() else { return };
        let root = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        let at = |fragment: &str| Repository::parse(&format!("{}#{fragment}", served.url));
        let tag = at("v1").unwrap().unwrap();
        let commit = tag.commit(root.path(), &cancel).await.unwrap();
        assert_eq!(commit, served.commit);
        let tree = tag
            .check_out(&commit, false, root.path(), &cancel)
            .await
            .unwrap();
        assert_eq!(read(&tree, "sub/file"), "first\n");
        assert_eq!(tree.list("").unwrap(), ["out", "sub"]);
        assert_eq!(
            tree.node("sub/file").unwrap().unwrap().attributes.mtime,
            1_700_000_000
        );
        drop(tree);
        // A commit alone, of which a directory.
        let old = at(&format!("{}:sub", served.commit)).unwrap().unwrap();
        let tree = old
            .check_out(&served.commit, true, root.path(), &cancel)
            .await
            .unwrap();
        assert_eq!(tree.list("").unwrap(), [".git", "file"]);
        drop(tree);
        let newest = at("main").unwrap().unwrap();
        let commit = newest.commit(root.path(), &cancel).await.unwrap();
        let tree = newest
            .check_out(&commit, false, root.path(), &cancel)
            .await
            .unwrap();
        assert_eq!(read(&tree, "sub/file"), "second\n");
        drop(tree);
        // A link of the repository's leads nowhere here.
        let out = at("main:out").unwrap().unwrap();
        let error = out
            .check_out(&commit, false, root.path(), &cancel)
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("is no directory"), "{error}");
        let none = at("none")
            .unwrap()
            .unwrap()
            .commit(root.path(), &cancel)
            .await;
        assert!(none.unwrap_err().to_string().contains(&served.url));
        assert_eq!(
            fs::read_dir(root.path()).unwrap().count(),
            0,
            "nothing is left"
        );
    }

    #[test]
    fn what_takes_too_much_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("d")).unwrap();
        fs::write(scratch.path().join("d/f"), vec![1; 100_000]).unwrap();
        let fits = |bytes, entries| fits(scratch.path(), &mut Limit { bytes, entries });
        assert!(fits(1 << 20, 2));
        assert!(!fits(50_000, 100) && !fits(1 << 20, 1));
    }

    #[tokio::test]
    async fn a_cancelled_fetch_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        // Takes connections, and says nothing.
        let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("git://{}/x.git", silent.local_addr().unwrap());
        let repository = Repository::parse(&url).unwrap().unwrap();
        let cancel = CancellationToken::new();
        let stop = async {
            let _ = silent.accept();
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(repository.commit(root.path(), &cancel), stop);
        assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
