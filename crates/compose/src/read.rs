//! What a file says, held against its shape: every field known, every value of its kind, short
//! forms made long, files named from the root.

use std::path::{Component, PathBuf};

use crate::error::{Error, Path, Result};
use crate::node::{Entry, Kind, Mark, Node};
use crate::shape::{Field, Shape};
use crate::words;
use crate::{quantity, short};

/// Reads files of one directory, which paths in them begin at.
#[derive(Debug)]
pub struct Reader<'a> {
    pub base: &'a std::path::Path,
}

impl Reader<'_> {
    pub fn read(&self, node: &Node, shape: &Shape, path: &Path) -> Result<Node> {
        if node.merge == Mark::Reset {
            return Ok(node.clone());
        }
        let mut read = self.value(node, shape, path)?;
        read.merge = node.merge;
        Ok(read)
    }

    fn value(&self, node: &Node, shape: &Shape, path: &Path) -> Result<Node> {
        let wants = |what: &str| {
            let reason = format!("it has to be {what}, and is {}", node.what());
            Error::field(&node.at, path, reason)
        };
        // Nothing is everything's default.
        if node.is_null() && !matches!(shape, Shape::Short(..)) {
            return Ok(node.clone());
        }
        let new = |kind| Ok(Node::new(&node.at, kind));
        match shape {
            Shape::Any => Ok(node.clone()),
            Shape::Text => match node.scalar() {
                Some(text) => new(Kind::Text(text)),
                None => Err(wants("one word or line")),
            },
            Shape::Int => new(Kind::Int(integer(node).ok_or_else(|| wants("a number"))?)),
            Shape::Number => new(Kind::Float(number(node).ok_or_else(|| wants("a number"))?)),
            Shape::Bool => match &node.kind {
                Kind::Bool(_) => Ok(node.clone()),
                Kind::Text(text) => match quantity::truth(text) {
                    Some(value) => new(Kind::Bool(value)),
                    None => Err(wants("true or false")),
                },
                _ => Err(wants("true or false")),
            },
            Shape::Size => match node.scalar().as_deref().and_then(quantity::bytes) {
                Some(bytes) => new(Kind::Int(bytes)),
                None => Err(wants("a size, such as 512m or 1g")),
            },
            Shape::Duration => match node.scalar().as_deref().and_then(quantity::duration) {
                Some(nanoseconds) => new(Kind::Text(quantity::show_duration(nanoseconds))),
                None => Err(wants("a time, such as 1m30s")),
            },
            Shape::Mode => match (&node.kind, node.as_text()) {
                (Kind::Int(_), _) => Ok(node.clone()),
                (_, Some(text)) => match i64::from_str_radix(text, 8) {
                    Ok(mode) => new(Kind::Int(mode)),
                    Err(_) => Err(wants("permissions in octal, such as 0440")),
                },
                _ => Err(wants("permissions in octal, such as 0440")),
            },
            Shape::File => match node.scalar() {
                Some(text) => new(Kind::Text(self.absolute(&text))),
                None => Err(wants("a file's name")),
            },
            Shape::Context => match node.scalar() {
                Some(text) if is_elsewhere(&text) => new(Kind::Text(text)),
                Some(text) => new(Kind::Text(self.absolute(&text))),
                None => Err(wants("a directory or an address")),
            },
            Shape::Command => self.command(node, path),
            Shape::Test => match node.as_text() {
                Some(line) => {
                    let words = ["CMD-SHELL", line].map(|word| Node::text(&node.at, word));
                    new(Kind::List(words.into()))
                }
                None => self.words(node, path),
            },
            Shape::Mapping => short::mapping(node, path, true),
            Shape::Environment => short::mapping(node, path, false),
            Shape::Hosts => short::hosts(node, path),
            Shape::Ulimit => short::ulimit(node, path),
            Shape::Object(fields) | Shape::Driver(fields) => self.object(node, fields, path),
            Shape::Map(inner) => {
                let Kind::Map(entries) = &node.kind else {
                    return Err(wants("a mapping of names"));
                };
                let read = |entry: &Entry| {
                    Ok(Entry {
                        value: self.read(&entry.value, inner, &path.key(&entry.key))?,
                        ..entry.clone()
                    })
                };
                let is_own = |entry: &&Entry| !entry.key.starts_with("x-");
                let entries = entries.iter().filter(is_own).map(read);
                new(Kind::Map(entries.collect::<Result<_>>()?))
            }
            Shape::List(inner, _) => {
                let Kind::List(items) = &node.kind else {
                    return Err(wants("a list"));
                };
                let items = items.iter().enumerate().map(|(index, item)| {
                    if item.is_null() {
                        let reason = "an entry of a list is empty".to_owned();
                        return Err(Error::field(&item.at, &path.index(index), reason));
                    }
                    self.read(item, inner, &path.index(index))
                });
                new(Kind::List(items.collect::<Result<_>>()?))
            }
            Shape::Short(long, inner) => {
                let node = long(node, path, self)?;
                self.read(&node, inner, path)
            }
        }
    }

    fn object(&self, node: &Node, fields: &[Field], path: &Path) -> Result<Node> {
        let Kind::Map(entries) = &node.kind else {
            let reason = format!(
                "it has to be a mapping of fields, and is {}; fields are written \"name: value\"",
                node.what()
            );
            return Err(Error::field(&node.at, path, reason));
        };
        let mut read = Vec::with_capacity(entries.len());
        for entry in entries {
            if entry.key.starts_with("x-") {
                continue;
            }
            let here = path.key(&entry.key);
            let Some(field) = fields.iter().find(|field| field.name == entry.key) else {
                let reason = match nearest(&entry.key, fields) {
                    Some(name) => format!("there is no such field; is {name:?} meant?"),
                    None => "there is no such field; own ones begin with x-".to_owned(),
                };
                return Err(Error::field(&entry.at, &here, reason));
            };
            read.push(Entry {
                value: self.read(&entry.value, &field.shape, &here)?,
                ..entry.clone()
            });
        }
        Ok(Node::new(&node.at, Kind::Map(read)))
    }

    fn command(&self, node: &Node, path: &Path) -> Result<Node> {
        let Some(line) = node.as_text() else {
            return self.words(node, path);
        };
        let words = words::split(line).map_err(|why| Error::field(&node.at, path, why))?;
        let words = words.into_iter().map(|word| Node::text(&node.at, word));
        Ok(Node::new(&node.at, Kind::List(words.collect())))
    }

    fn words(&self, node: &Node, path: &Path) -> Result<Node> {
        self.value(
            node,
            &Shape::List(&Shape::Text, crate::shape::Key::None),
            path,
        )
    }

    /// From the directory of the files; `~` is the user's home.
    pub fn absolute(&self, text: &str) -> String {
        let home = || std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
        let path = match text.strip_prefix('~') {
            Some("") => home(),
            Some(rest) if rest.starts_with('/') => home() + rest,
            _ => text.to_owned(),
        };
        clean(&self.base.join(path))
    }
}

/// Without `.`, `..` and doubled slashes, whatever there is on disk.
pub fn clean(path: &std::path::Path) -> String {
    let mut cleaned = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                cleaned.pop();
            }
            part => cleaned.push(part),
        }
    }
    cleaned.to_string_lossy().into_owned()
}

/// A repository, an image or another service instead of a directory.
pub fn is_elsewhere(context: &str) -> bool {
    context.contains("://")
        || ["git@", "github.com/", "service:"]
            .iter()
            .any(|start| context.starts_with(start))
}

fn integer(node: &Node) -> Option<i64> {
    match &node.kind {
        Kind::Int(value) => Some(*value),
        Kind::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => Some(*value as i64),
        Kind::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn number(node: &Node) -> Option<f64> {
    match &node.kind {
        Kind::Int(value) => Some(*value as f64),
        Kind::Float(value) => Some(*value),
        Kind::Text(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|value: &f64| value.is_finite()),
        _ => None,
    }
}

/// The field that somebody may have meant: one letter too many, too few, or wrong; or two swapped.
fn nearest(key: &str, fields: &[Field]) -> Option<&'static str> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    let key = plain(key);
    let distance = |field: &&Field| words::distance(&key, &plain(field.name));
    let best = fields.iter().min_by_key(distance)?;
    (distance(&best) <= 2 && distance(&best) < key.len().div_ceil(2)).then_some(best.name)
}
