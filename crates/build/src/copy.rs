//! `COPY` and `ADD`: from a tree into a layer, where the tree below decides what there is already.
//!
//! The layer is written as an archive at once: no file is copied twice, and nothing is written
//! through a path that somebody else could bend.

use std::collections::HashSet;
use std::io;

use tar::EntryType;

use crate::archive;
use crate::error::{Error, Result};
use crate::ignore::{Ignore, Pattern, clean};
use crate::layer::{Attributes, Layer};
use crate::mode::Mode;
use crate::tree::{Node, NodeKind, Tree, joined};

/// What is copied, and how.
pub struct Wish {
    /// As they are written, expanded; patterns are allowed.
    pub sources: Vec<String>,
    /// Absolute; a slash at its end says that it is a directory.
    pub destination: String,
    pub owner: Option<(u32, u32)>,
    pub mode: Option<Mode>,
    pub parents: bool,
    pub exclude: Ignore,
    /// Archives are unpacked (`ADD`).
    pub unpacks: bool,
}

/// The paths that a source means, followed to what they lead to; a pattern may mean several.
pub fn expand(tree: &dyn Tree, source: &str) -> Result<Vec<String>> {
    let path = clean(source);
    let missing = || {
        Error::invalid(format!(
            "{source}: it is not in the build's context, or is left out by .dockerignore"
        ))
    };
    if !Pattern::is_one(&path) {
        let resolved = tree.resolve(&path)?;
        tree.node(&resolved)?.ok_or_else(missing)?;
        return Ok(vec![path]);
    }
    let mut found = vec![String::new()];
    for part in path.split('/') {
        let mut next = Vec::new();
        for directory in &found {
            if !Pattern::is_one(part) {
                next.push(joined(directory, part));
                continue;
            }
            let pattern = Pattern::flat(part)?;
            let place = tree.resolve(directory)?;
            let is_directory = tree
                .node(&place)?
                .is_some_and(|node| node.kind == NodeKind::Directory);
            if is_directory {
                let names = tree.list(&place)?;
                let matching = names.iter().filter(|name| pattern.matches(name));
                next.extend(matching.map(|name| joined(directory, name)));
            }
        }
        found = next;
    }
    let mut there = Vec::new();
    for path in found {
        if tree.node(&tree.resolve(&path)?)?.is_some() {
            there.push(path);
        }
    }
    if there.is_empty() {
        return Err(Error::invalid(format!(
            "{source} matches nothing in the build's context"
        )));
    }
    Ok(there)
}

/// Writes into a layer, with a look at what is below it.
pub struct Copier<'a> {
    /// What the layer will lie on.
    below: &'a dyn Tree,
    layer: &'a mut Layer,
    /// Directories that the layer has.
    made: HashSet<String>,
    /// Everything else that it has.
    written: HashSet<String>,
    owner: Option<(u32, u32)>,
    mode: Option<Mode>,
    /// For what is made without a source.
    now: u64,
}

impl<'a> Copier<'a> {
    pub fn new(below: &'a dyn Tree, layer: &'a mut Layer, now: u64) -> Self {
        Self {
            below,
            layer,
            made: HashSet::new(),
            written: HashSet::new(),
            owner: None,
            mode: None,
            now,
        }
    }

    /// Makes a directory where there is none.
    pub fn make(&mut self, path: &str) -> Result<()> {
        let path = self.below.resolve(path)?;
        if self.is_directory(&path)? {
            return Ok(());
        }
        self.directory(&path, None)
    }

    /// A file of its own, where `wish` says.
    pub fn text(&mut self, wish: &Wish, name: &str, text: &str, several: bool) -> Result<()> {
        self.owner = wish.owner;
        self.mode.clone_from(&wish.mode);
        let (place, is_directory) = self.destination(&wish.destination, several)?;
        let path = if is_directory {
            joined(&place, name)
        } else {
            place
        };
        let attributes = Attributes {
            mode: 0o644,
            mtime: self.now,
            ..Attributes::default()
        };
        let attributes = self.changed(&attributes, false);
        self.parent_of(&path)?;
        self.replaces(&path)?;
        self.layer
            .file(&path, &attributes, text.len() as u64, text.as_bytes())
            .map_err(Error::Layer)
    }

    /// Copies `paths`, which are what the sources of `wish` mean.
    pub fn copy(&mut self, tree: &dyn Tree, wish: &Wish, paths: &[String]) -> Result<()> {
        self.owner = wish.owner;
        self.mode.clone_from(&wish.mode);
        let (place, is_directory) = self.destination(&wish.destination, paths.len() > 1)?;
        for path in paths {
            let from = tree.resolve(path)?;
            let Some(node) = tree.node(&from)? else {
                continue;
            };
            let name = path.rsplit('/').next().unwrap_or_default();
            if wish.parents {
                let to = joined(&place, path);
                self.item(tree, &from, &node, &to, &wish.exclude, path)?;
            } else if node.kind == NodeKind::Directory {
                // What is in it is copied, not itself.
                let attributes = match wish.destination.ends_with('/') {
                    true => None,
                    false => Some(node.attributes.clone()),
                };
                self.directory(&place, attributes.as_ref())?;
                for child in tree.list(&from)? {
                    let child_from = joined(&from, &child);
                    let Some(node) = tree.node(&child_from)? else {
                        continue;
                    };
                    let to = joined(&place, &child);
                    self.item(tree, &child_from, &node, &to, &wish.exclude, &child)?;
                }
            } else {
                let unpacked = wish.unpacks
                    && matches!(node.kind, NodeKind::File { .. })
                    && archive::is_one(tree, &from)?;
                if unpacked {
                    self.directory(&place, None)?;
                    archive::unpack(tree, &from, self, &place)?;
                    continue;
                }
                let to = match is_directory {
                    true => joined(&place, name),
                    false => place.clone(),
                };
                self.item(tree, &from, &node, &to, &wish.exclude, name)?;
            }
        }
        Ok(())
    }

    /// Where a destination is, and whether it is a directory.
    fn destination(&self, text: &str, several: bool) -> Result<(String, bool)> {
        let says_so = text.ends_with('/') || text.ends_with("/.") || several;
        let place = self.below.resolve(text)?;
        let is_directory = says_so || self.is_directory(&place)?;
        Ok((place, is_directory))
    }

    fn is_directory(&self, path: &str) -> Result<bool> {
        if path.is_empty() || self.made.contains(path) {
            return Ok(true);
        }
        let node = self.below.node(path)?;
        Ok(node.is_some_and(|node| node.kind == NodeKind::Directory))
    }

    fn item(
        &mut self,
        tree: &dyn Tree,
        from: &str,
        node: &Node,
        to: &str,
        exclude: &Ignore,
        shown: &str,
    ) -> Result<()> {
        if exclude.excludes(&clean(shown)) {
            return Ok(());
        }
        if node.kind == NodeKind::Directory {
            self.directory(to, Some(&node.attributes))?;
            for child in tree.list(from)? {
                let from = joined(from, &child);
                if let Some(node) = tree.node(&from)? {
                    let (to, shown) = (joined(to, &child), joined(shown, &child));
                    self.item(tree, &from, &node, &to, exclude, &shown)?;
                }
            }
            return Ok(());
        }
        self.parent_of(to)?;
        self.replaces(to)?;
        let attributes = match node.kind {
            NodeKind::Symlink(_) => self.owned(&node.attributes),
            _ => self.changed(&node.attributes, false),
        };
        self.entry(to, &node.kind, &attributes, || tree.open(from))
    }

    /// Puts an entry of an archive that is unpacked at `to`.
    pub(crate) fn put(&mut self, to: &str, node: &Node, content: impl io::Read) -> Result<()> {
        if node.kind == NodeKind::Directory {
            return self.directory(to, Some(&node.attributes));
        }
        self.parent_of(to)?;
        self.replaces(to)?;
        let attributes = match self.owner {
            Some(_) => self.owned(&node.attributes),
            None => node.attributes.clone(),
        };
        self.entry(to, &node.kind, &attributes, || Ok(content))
    }

    /// Anything but a directory; `open` is asked for a file's content alone.
    fn entry<R: io::Read>(
        &mut self,
        to: &str,
        kind: &NodeKind,
        attributes: &Attributes,
        open: impl FnOnce() -> Result<R>,
    ) -> Result<()> {
        match kind {
            NodeKind::File { size } => self.layer.file(to, attributes, *size, open()?),
            NodeKind::Symlink(target) => self.layer.symlink(to, attributes, target),
            NodeKind::Other(kind, device) => {
                let numbers = (rustix::fs::major(*device), rustix::fs::minor(*device));
                match special(*kind) {
                    Some(kind) => self.layer.special(to, attributes, kind, numbers),
                    None => Ok(()),
                }
            }
            NodeKind::Directory => Ok(()),
        }
        .map_err(Error::Layer)
    }

    pub(crate) fn hard_link(
        &mut self,
        to: &str,
        target: &str,
        attributes: &Attributes,
    ) -> Result<()> {
        self.parent_of(to)?;
        self.replaces(to)?;
        self.layer
            .hard_link(to, attributes, target)
            .map_err(Error::Layer)
    }

    /// What is not a directory may be replaced, and a directory may not.
    fn replaces(&mut self, path: &str) -> Result<()> {
        if self.is_directory(path)? {
            return Err(Error::invalid(format!(
                "cannot copy a file to /{path}: a directory is there"
            )));
        }
        self.written.insert(path.to_owned());
        Ok(())
    }

    fn parent_of(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent, None),
            None => Ok(()),
        }
    }

    /// Gives the layer a directory and those above it. What is below keeps its attributes; what is
    /// new has those of its source, or the usual ones.
    fn directory(&mut self, path: &str, source: Option<&Attributes>) -> Result<()> {
        if path.is_empty() || self.made.contains(path) {
            return Ok(());
        }
        self.parent_of(path)?;
        let present = match self.written.contains(path) {
            true => return Err(not_a_directory(path)),
            false => self.below.node(path)?,
        };
        let attributes = match present {
            Some(Node {
                kind: NodeKind::Directory,
                attributes,
            }) => attributes,
            Some(_) => return Err(not_a_directory(path)),
            None => {
                let usual = Attributes {
                    mode: 0o755,
                    mtime: self.now,
                    ..Attributes::default()
                };
                match source {
                    Some(source) => self.changed(source, true),
                    None => self.owned(&usual),
                }
            }
        };
        self.layer
            .directory(path, &attributes)
            .map_err(Error::Layer)?;
        self.made.insert(path.to_owned());
        Ok(())
    }

    fn owned(&self, attributes: &Attributes) -> Attributes {
        let mut attributes = attributes.clone();
        if let Some((uid, gid)) = self.owner {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        attributes
    }

    fn changed(&self, attributes: &Attributes, is_directory: bool) -> Attributes {
        let mut attributes = self.owned(attributes);
        if let Some(mode) = &self.mode {
            attributes.mode = mode.apply(attributes.mode, is_directory);
        }
        attributes
    }
}

fn not_a_directory(path: &str) -> Error {
    Error::invalid(format!(
        "cannot copy a directory to /{path}: something that is no directory is there"
    ))
}

fn special(kind: rustix::fs::FileType) -> Option<EntryType> {
    use rustix::fs::FileType;
    match kind {
        FileType::Fifo => Some(EntryType::Fifo),
        FileType::CharacterDevice => Some(EntryType::Char),
        FileType::BlockDevice => Some(EntryType::Block),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Context;
    use std::fs::File;
    use std::io::Read as _;

    /// Names that end with a slash are directories, those with `->` links.
    fn tree(members: &[(&str, &str)]) -> Context {
        let mut layer = Layer::new(tempfile::tempfile().unwrap(), None);
        let attributes = Attributes {
            mode: 0o644,
            mtime: 7,
            ..Attributes::default()
        };
        for (name, content) in members {
            if let Some(target) = content.strip_prefix("-> ") {
                layer.symlink(name, &attributes, target.as_bytes()).unwrap();
            } else if let Some(name) = name.strip_suffix('/') {
                let attributes = Attributes {
                    mode: 0o750,
                    ..attributes.clone()
                };
                layer.directory(name, &attributes).unwrap();
            } else {
                let bytes = content.as_bytes();
                layer
                    .file(name, &attributes, bytes.len() as u64, bytes)
                    .unwrap();
            }
        }
        let file = layer.finish().unwrap();
        Context::read(file, || panic!("it is not compressed")).unwrap()
    }

    fn wish(sources: &[&str], destination: &str) -> Wish {
        Wish {
            sources: sources.iter().map(|&source| source.to_owned()).collect(),
            destination: destination.to_owned(),
            owner: None,
            mode: None,
            parents: false,
            exclude: Ignore::default(),
            unpacks: false,
        }
    }

    fn entries(file: File) -> Vec<String> {
        let mut archive = tar::Archive::new(file);
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let mode = entry.header().mode().unwrap();
                let link = entry.link_name().unwrap().map(|link| link.into_owned());
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                match link {
                    Some(link) => format!("{path} -> {}", link.display()),
                    None => format!("{path} {mode:o} {text}").trim_end().to_owned(),
                }
            })
            .collect()
    }

    fn copied(source: &Context, below: &Context, wish: &Wish) -> Result<Vec<String>> {
        let mut layer = Layer::new(tempfile::tempfile().unwrap(), None);
        let mut paths = Vec::new();
        for source_path in &wish.sources {
            paths.extend(expand(source, source_path)?);
        }
        Copier::new(below, &mut layer, 0).copy(source, wish, &paths)?;
        Ok(entries(layer.finish().unwrap()))
    }

    #[test]
    fn what_is_below_decides_where_files_go() {
        let source = tree(&[("a", "A"), ("d/", ""), ("d/x", "X"), ("d/l", "-> x")]);
        let below = tree(&[
            ("usr/", ""),
            ("usr/bin/", ""),
            ("bin", "-> usr/bin"),
            ("out", "-> /../.."),
        ]);
        for (sources, destination, expected) in [
            (
                &["a"][..],
                "/bin",
                &["usr/ 750", "usr/bin/ 750", "usr/bin/a 644 A"][..],
            ),
            (
                &["a"],
                "/bin/b",
                &["usr/ 750", "usr/bin/ 750", "usr/bin/b 644 A"],
            ),
            (&["a"], "/new", &["new 644 A"]),
            (&["a"], "/new/", &["new/ 755", "new/a 644 A"]),
            (&["a"], "/out/in", &["in 644 A"]),
            (&["d"], "/new", &["new/ 750", "new/l -> x", "new/x 644 X"]),
            (&["d"], "/new/", &["new/ 755", "new/l -> x", "new/x 644 X"]),
            (&["d/l"], "/new", &["new 644 X"]),
            (
                &["a", "d"],
                "/n/",
                &["n/ 755", "n/a 644 A", "n/l -> x", "n/x 644 X"],
            ),
            (
                &["[ab]", "?/x"],
                "/n/",
                &["n/ 755", "n/a 644 A", "n/x 644 X"],
            ),
            (
                &["."],
                "/n/",
                &[
                    "n/ 755",
                    "n/a 644 A",
                    "n/d/ 750",
                    "n/d/l -> x",
                    "n/d/x 644 X",
                ],
            ),
        ] {
            let found = copied(&source, &below, &wish(sources, destination)).unwrap();
            assert_eq!(found, expected, "{sources:?} {destination}");
        }
    }

    #[test]
    fn what_cannot_be_copied_is_refused() {
        let source = tree(&[
            ("a", "A"),
            ("d/", ""),
            ("d/f/", ""),
            ("loop", "-> loop"),
            ("out", "-> /../../etc"),
        ]);
        let below = tree(&[("f", ""), ("d/", ""), ("e/", ""), ("e/f", "")]);
        for (path, destination, part) in [
            ("missing", "/x", "not in the build's context"),
            ("../../etc/passwd", "/x", "not in the build's context"),
            ("out/passwd", "/x", "not in the build's context"),
            ("m*", "/x", "matches nothing"),
            ("loop", "/x", "too many levels"),
            ("a", "/f/x", "no directory"),
            ("d", "/f", "no directory"),
            ("d", "/e", "no directory"),
            ("[", "/x", "no pattern"),
        ] {
            let error = copied(&source, &below, &wish(&[path], destination)).unwrap_err();
            assert!(
                error.to_string().contains(part),
                "{path} {destination}: {error}"
            );
        }
    }

    #[test]
    fn a_digest_is_of_contents_and_not_of_times() {
        let digest = |members: &[(&str, &str)]| {
            crate::tree::digest(&tree(members), &["d".to_owned()]).unwrap()
        };
        let one = digest(&[("d/", ""), ("d/a", "1"), ("other", "2")]);
        assert_eq!(one, digest(&[("d/", ""), ("d/a", "1"), ("other", "3")]));
        assert_ne!(one, digest(&[("d/", ""), ("d/a", "2")]));
        assert_ne!(one, digest(&[("d/", ""), ("d/b", "1")]));
        assert_ne!(one, digest(&[("d/", ""), ("d/a", "-> 1")]));
    }
}
