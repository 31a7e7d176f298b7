//! Short forms of fields, made long.

use crate::error::{Error, Path, Result};
use crate::node::{Kind, Node};
use crate::read::{Reader, clean};

/// A word where a list may stand.
pub fn one_or_more(node: &Node, _: &Path, _: &Reader<'_>) -> Result<Node> {
    Ok(match node.scalar() {
        Some(_) => Node::new(&node.at, Kind::List(vec![node.clone()])),
        None => node.clone(),
    })
}

/// A list of names where a mapping may stand: each has nothing more to say.
pub fn names(node: &Node, path: &Path, _: &Reader<'_>) -> Result<Node> {
    named(node, path, |_| Kind::Null)
}

fn named(node: &Node, path: &Path, value: impl Fn(&Node) -> Kind) -> Result<Node> {
    let Kind::List(items) = &node.kind else {
        return Ok(node.clone());
    };
    let mut map = Node::new(&node.at, Kind::Map(Vec::new()));
    for (index, item) in items.iter().enumerate() {
        let Some(name) = item.scalar() else {
            let reason = format!("it has to be a name, and is {}", item.what());
            return Err(Error::field(&item.at, &path.index(index), reason));
        };
        map.set(&name, Node::new(&item.at, value(item)));
    }
    Ok(map)
}

/// `KEY=value` lines where a mapping may stand.
pub fn pairs(node: &Node, path: &Path, _: &Reader<'_>) -> Result<Node> {
    match &node.kind {
        Kind::List(_) => mapping(node, path, true),
        _ => Ok(node.clone()),
    }
}

pub fn mapping(node: &Node, path: &Path, nothing_is_empty: bool) -> Result<Node> {
    let mut map = Node::new(&node.at, Kind::Map(Vec::new()));
    let none = || match nothing_is_empty {
        true => Kind::Text(String::new()),
        false => Kind::Null,
    };
    match &node.kind {
        Kind::Map(entries) => {
            for entry in entries {
                let kind = match (&entry.value.kind, entry.value.scalar()) {
                    (Kind::Null, _) => none(),
                    (_, Some(text)) => Kind::Text(text),
                    (_, None) => {
                        let what = entry.value.what();
                        let reason = format!("it has to be one word or line, and is {what}");
                        return Err(Error::field(&entry.value.at, &path.key(&entry.key), reason));
                    }
                };
                let mut value = Node::new(&entry.value.at, kind);
                value.merge = entry.value.merge;
                map.set(&entry.key, value);
            }
        }
        Kind::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let line = item.scalar();
                let (key, value) = match line.as_deref().map(|line| line.split_once('=')) {
                    Some(Some((key, value))) => (key, Kind::Text(value.to_owned())),
                    Some(None) => (line.as_deref().unwrap_or_default(), none()),
                    None => {
                        let reason = format!("it has to be NAME=value, and is {}", item.what());
                        return Err(Error::field(&item.at, &path.index(index), reason));
                    }
                };
                if key.is_empty() || key.ends_with(char::is_whitespace) {
                    let reason = format!(
                        "{:?} has no name before its =, or a space after it; write NAME=value",
                        line.unwrap_or_default()
                    );
                    return Err(Error::field(&item.at, &path.index(index), reason));
                }
                map.set(key, Node::new(&item.at, value));
            }
        }
        _ => {
            let reason = format!(
                "it has to be a mapping or a list of NAME=value, and is {}",
                node.what()
            );
            return Err(Error::field(&node.at, path, reason));
        }
    }
    Ok(map)
}

/// A list of `host=address`, in the order of their text.
pub fn hosts(node: &Node, path: &Path) -> Result<Node> {
    let mut lines: Vec<(String, &Node)> = Vec::new();
    match &node.kind {
        Kind::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let line = item.scalar().unwrap_or_default();
                let Some((host, address)) = line.split_once('=').or(line.split_once(':')) else {
                    let reason = format!("{line:?} has no address; write \"host=address\"");
                    return Err(Error::field(&item.at, &path.index(index), reason));
                };
                for address in address.split(',') {
                    lines.push((format!("{host}={}", bare(address)), item));
                }
            }
        }
        Kind::Map(entries) => {
            for entry in entries {
                let addresses = match &entry.value.kind {
                    Kind::List(items) => items.iter().collect(),
                    _ => vec![&entry.value],
                };
                for address in addresses {
                    let text = address.scalar().unwrap_or_default();
                    lines.push((format!("{}={}", entry.key, bare(&text)), address));
                }
            }
        }
        _ => {
            let reason = "it has to be a list of \"host=address\", or a mapping";
            return Err(Error::field(&node.at, path, reason));
        }
    }
    for (line, node) in &lines {
        let host = line.split('=').next().unwrap_or_default();
        if host.is_empty() || host.contains(':') {
            let reason = format!("{host:?} is no host's name; write \"host=address\"");
            return Err(Error::field(&node.at, path, reason));
        }
    }
    let lines = lines
        .into_iter()
        .map(|(line, node)| Node::text(&node.at, line));
    Ok(Node::new(&node.at, Kind::List(lines.collect())))
}

fn bare(address: &str) -> &str {
    address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address)
}

/// One number for both limits, or `soft` and `hard`.
pub fn ulimit(node: &Node, path: &Path) -> Result<Node> {
    let number = |node: &Node| match &node.kind {
        Kind::Int(value) => Some(*value),
        _ => node.scalar().and_then(|text| text.parse().ok()),
    };
    let wrong = |node: &Node| {
        let reason = format!(
            "it has to be a number, or soft and hard with one each, and is {}",
            node.what()
        );
        Error::field(&node.at, path, reason)
    };
    let Kind::Map(entries) = &node.kind else {
        let value = number(node).ok_or_else(|| wrong(node))?;
        return Ok(Node::new(&node.at, Kind::Int(value)));
    };
    let mut map = Node::new(&node.at, Kind::Map(Vec::new()));
    for entry in entries {
        if !matches!(entry.key.as_str(), "soft" | "hard") {
            return Err(wrong(node));
        }
        let value = number(&entry.value).ok_or_else(|| wrong(&entry.value))?;
        map.set(&entry.key, Node::new(&entry.value.at, Kind::Int(value)));
    }
    Ok(map)
}

pub fn build(node: &Node, _: &Path, _: &Reader<'_>) -> Result<Node> {
    Ok(match &node.kind {
        Kind::Text(context) => Node::map(&node.at, [("context", Kind::Text(context.clone()))]),
        _ => node.clone(),
    })
}

pub fn extends(node: &Node, _: &Path, _: &Reader<'_>) -> Result<Node> {
    Ok(match &node.kind {
        Kind::Text(service) => Node::map(&node.at, [("service", Kind::Text(service.clone()))]),
        _ => node.clone(),
    })
}

pub fn include(node: &Node, _: &Path, _: &Reader<'_>) -> Result<Node> {
    Ok(match &node.kind {
        Kind::Text(file) => Node::map(&node.at, [("path", Kind::Text(file.clone()))]),
        _ => node.clone(),
    })
}

pub fn depends_on(node: &Node, path: &Path, _: &Reader<'_>) -> Result<Node> {
    let started = |node: &Node| {
        let entries = [
            ("condition", Kind::Text("service_started".to_owned())),
            ("required", Kind::Bool(true)),
        ];
        Node::map(&node.at, entries).kind
    };
    named(node, path, started)
}

pub fn env_files(node: &Node, _: &Path, _: &Reader<'_>) -> Result<Node> {
    let long = |node: &Node| match node.scalar() {
        Some(file) => Node::map(
            &node.at,
            [("path", Kind::Text(file)), ("required", Kind::Bool(true))],
        ),
        None => {
            let mut node = node.clone();
            if node.get("required").is_none() && !node.is_null() {
                node.set("required", Node::new(&node.at, Kind::Bool(true)));
            }
            node
        }
    };
    Ok(match &node.kind {
        Kind::Null => node.clone(),
        Kind::List(items) => Node::new(&node.at, Kind::List(items.iter().map(long).collect())),
        _ => Node::new(&node.at, Kind::List(vec![long(node)])),
    })
}

pub fn gpus(node: &Node, path: &Path, _: &Reader<'_>) -> Result<Node> {
    let all = |node: &Node| Node::new(&node.at, Kind::Text("all".to_owned()));
    match &node.kind {
        Kind::Text(text) if text == "all" => {
            let request = Node::map(&node.at, [("count", Kind::Text("all".to_owned()))]);
            Ok(Node::new(&node.at, Kind::List(vec![request])))
        }
        Kind::List(items) => {
            let mut items = items.clone();
            for item in &mut items {
                if item.get("count").is_none() && item.get("device_ids").is_none() {
                    let count = all(item);
                    item.set("count", count);
                }
            }
            Ok(Node::new(&node.at, Kind::List(items)))
        }
        Kind::Null => Ok(node.clone()),
        _ => {
            let reason = format!("it has to be all, or a list, and is {}", node.what());
            Err(Error::field(&node.at, path, reason))
        }
    }
}

pub fn device_count(node: &Node, _: &Path, _: &Reader<'_>) -> Result<Node> {
    Ok(match node.as_text() {
        Some(text) if text.eq_ignore_ascii_case("all") => Node::new(&node.at, Kind::Int(-1)),
        _ => node.clone(),
    })
}

pub fn device(node: &Node, path: &Path, _: &Reader<'_>) -> Result<Node> {
    let Some(text) = node.scalar() else {
        return Ok(node.clone());
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, target] => (source, target, "rwm"),
        [source, target, permissions] => (source, target, permissions),
        _ => {
            let reason = format!("{text:?} has too many colons; write source:target:permissions");
            return Err(Error::field(&node.at, path, reason));
        }
    };
    let target = if target.is_empty() { source } else { target };
    let word = |text: &str| Kind::Text(text.to_owned());
    Ok(Node::map(
        &node.at,
        [
            ("source", word(source)),
            ("target", word(target)),
            ("permissions", word(permissions)),
        ],
    ))
}

/// A config, or a secret of a build.
pub fn grant(node: &Node, _: &Path, _: &Reader<'_>) -> Result<Node> {
    Ok(match node.scalar() {
        Some(source) => Node::map(&node.at, [("source", Kind::Text(source))]),
        None => node.clone(),
    })
}

pub fn secret(node: &Node, path: &Path, reader: &Reader<'_>) -> Result<Node> {
    let mut grant = grant(node, path, reader)?;
    if grant.get("target").is_none()
        && let Some(source) = grant.get("source").and_then(Node::scalar)
    {
        let target = Node::text(&grant.at, format!("/run/secrets/{source}"));
        grant.set("target", target);
    }
    Ok(grant)
}

/// `external: {name: …}`, as it was once written.
pub fn external(node: &Node, path: &Path, _: &Reader<'_>) -> Result<Node> {
    let Some(outer) = node.get("external") else {
        return Ok(node.clone());
    };
    let Kind::Map(_) = &outer.kind else {
        return Ok(node.clone());
    };
    let mut long = node.clone();
    let name = outer.get("name").cloned();
    long.set("external", Node::new(&outer.at, Kind::Bool(true)));
    match (name, node.get("name")) {
        (Some(name), Some(other)) if name != *other => Err(Error::field(
            &name.at,
            path,
            "name and external.name contradict each other; keep name",
        )),
        (Some(name), None) => {
            long.set("name", name);
            Ok(long)
        }
        _ => Ok(long),
    }
}

/// `source:target:options` of `volumes`, and paths of both forms.
pub fn mount(node: &Node, path: &Path, reader: &Reader<'_>) -> Result<Node> {
    let mut long = match node.scalar() {
        Some(text) => mount_of(node, &text, path)?,
        None => node.clone(),
    };
    let required = |key: &str, why: &str| {
        let reason = format!("it has no {key}: {why}");
        Error::field(&node.at, path, reason)
    };
    if !matches!(long.kind, Kind::Map(_)) {
        return Ok(long);
    }
    let Some(kind) = long.get("type").and_then(Node::scalar) else {
        return Err(required("type", "bind, volume, tmpfs or image"));
    };
    if !matches!(
        kind.as_str(),
        "bind" | "volume" | "tmpfs" | "image" | "npipe" | "cluster"
    ) {
        let reason = format!("{kind:?} is no type; there are bind, volume, tmpfs and image");
        return Err(Error::field(&long.at, path, reason));
    }
    let Some(target) = long.get("target").and_then(Node::scalar) else {
        return Err(required("target", "the place in the container"));
    };
    let at = long.at.clone();
    long.set(
        "target",
        Node::text(&at, clean(std::path::Path::new(&target))),
    );
    if kind == "bind" {
        let Some(source) = long.get("source").and_then(Node::scalar) else {
            return Err(required("source", "the directory or file here"));
        };
        long.set("source", Node::text(&at, reader.absolute(&source)));
    }
    Ok(long)
}

fn mount_of(node: &Node, text: &str, path: &Path) -> Result<Node> {
    let parts: Vec<&str> = text.split(':').collect();
    let wrong = |why: &str| {
        let reason =
            format!("{text:?} {why}; write source:target, and options after a further colon");
        Err(Error::field(&node.at, path, reason))
    };
    if parts.iter().any(|part| part.is_empty()) {
        return wrong("has nothing on one side of a colon");
    }
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return wrong("has too many colons"),
    };
    let is_bind = source.starts_with(['.', '/', '~']);
    let mut long = Node::new(&node.at, Kind::Map(Vec::new()));
    let new = |kind| Node::new(&node.at, kind);
    let word = |text: &str| Node::text(&node.at, text);
    let mut details = new(Kind::Map(Vec::new()));
    if is_bind {
        details.set("create_host_path", new(Kind::Bool(true)));
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => long.set("read_only", new(Kind::Bool(true))),
            "rw" => {}
            "nocopy" if !is_bind => details.set("nocopy", new(Kind::Bool(true))),
            "z" | "Z" if is_bind => details.set("selinux", word(option)),
            "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave" if is_bind => {
                details.set("propagation", word(option));
            }
            // Meant for other systems, or for the other kind: the stock client passes them over.
            "z" | "Z" | "nocopy" | "cached" | "delegated" | "consistent" => {}
            _ => return wrong(&format!("has the option {option:?}, which there is not")),
        }
    }
    let kind = if is_bind { "bind" } else { "volume" };
    long.set("type", word(kind));
    if !source.is_empty() {
        long.set("source", word(source));
    }
    long.set("target", word(target));
    long.set(kind, details);
    Ok(long)
}
