//! Git repositories, by the machine's git: what `ADD` and a remote context name.
//!
//! Nothing of this machine's has a part in it: no configuration, no credentials, no hooks, no keys, and
//! only `http`, `https` and `git` are spoken. What a repository may take on the disk is limited.

mod command;

use std::fs;
use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, blocking};
use crate::tree::{Node, NodeKind, Root, Tree};
use command::{Git, LIMIT, Place};

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
mod tests;
