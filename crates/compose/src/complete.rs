//! What a file leaves out: names, networks, dependencies, and what stands in files of their own.

use std::path::Path as FilePath;

use crate::check::is_true;
use crate::dotenv;
use crate::error::{At, Error, Path, Result};
use crate::files::Place;
use crate::interpolate::Variables;
use crate::node::{Kind, Node};

fn words(text: &str) -> Kind {
    Kind::Text(text.to_owned())
}

/// What nobody has to write down.
pub(crate) fn complete(model: &mut Node, project: &str, place: &Place) {
    let mut uses_default = false;
    if let Some(Kind::Map(entries)) = model.get_mut("services").map(|node| &mut node.kind) {
        for entry in entries {
            if entry.value.is_null() {
                entry.value.kind = Kind::Map(Vec::new());
            }
            uses_default |= complete_service(&mut entry.value, place);
        }
    }
    let at = model.at.clone();
    if uses_default {
        if model.get("networks").is_none_or(Node::is_null) {
            model.set("networks", Node::new(&at, Kind::Map(Vec::new())));
        }
        if let Some(networks) = model.get_mut("networks")
            && networks.get("default").is_none()
        {
            networks.set("default", Node::new(&at, Kind::Null));
        }
    }
    for kind in ["networks", "volumes", "secrets", "configs"] {
        let Some(Kind::Map(entries)) = model.get_mut(kind).map(|node| &mut node.kind) else {
            continue;
        };
        for entry in entries {
            let part = &mut entry.value;
            if part.is_null() {
                part.kind = Kind::Map(Vec::new());
            }
            if part.get("name").is_none() {
                let name = match is_true(part.get("external")) {
                    true => entry.key.clone(),
                    false => format!("{project}_{}", entry.key),
                };
                part.set("name", Node::text(&entry.at, name));
            }
        }
    }
}

/// Whether it is on the default network.
fn complete_service(service: &mut Node, place: &Place) -> bool {
    let at = service.at.clone();
    if service.get("pull_policy").and_then(Node::as_text) == Some("if_not_present") {
        service.set("pull_policy", Node::text(&at, "missing"));
    }
    if let Some(build) = service.get_mut("build")
        && let Kind::Map(_) = build.kind
    {
        let at = build.at.clone();
        if build.get("context").is_none() {
            let here = place.directory.display().to_string();
            build.set("context", Node::text(&at, here));
        }
        if build.get("dockerfile").is_none() && build.get("dockerfile_inline").is_none() {
            build.set("dockerfile", Node::text(&at, "Dockerfile"));
        }
        if let Some(arguments) = build.get_mut("args") {
            fill(arguments, &place.variables);
            if let Kind::Map(entries) = &mut arguments.kind {
                entries.retain(|entry| !entry.value.is_null());
            }
        }
    }
    if let Some(environment) = service.get_mut("environment") {
        fill(environment, &place.variables);
    }
    complete_dependencies(service, &at);
    let has_network = service
        .get("networks")
        .is_some_and(|networks| !networks.entries().is_empty());
    if service.get("network_mode").is_none() && !has_network {
        service.set("networks", Node::map(&at, [("default", Kind::Null)]));
    }
    let networks = service.get("networks");
    networks.is_some_and(|networks| networks.get("default").is_some())
}

/// Names without a value take the one of the shell, where it has one.
fn fill(map: &mut Node, variables: &Variables) {
    if let Kind::Map(entries) = &mut map.kind {
        for entry in entries.iter_mut().filter(|entry| entry.value.is_null()) {
            if let Some(value) = variables.get(&entry.key) {
                entry.value.kind = Kind::Text(value.clone());
            }
        }
    }
}

/// Who shares something of another service waits for it.
fn complete_dependencies(service: &mut Node, at: &At) {
    let texts = |field: &str| -> Vec<String> {
        let items = service.get(field).map(Node::items).unwrap_or_default();
        items.iter().filter_map(Node::scalar).collect()
    };
    let mut more: Vec<(String, bool)> = Vec::new();
    for link in texts("links") {
        let name = link.split(':').next().unwrap_or_default();
        more.push((name.to_owned(), true));
    }
    for field in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        let mode = service
            .get(field)
            .and_then(Node::scalar)
            .unwrap_or_default();
        if let Some(name) = mode.strip_prefix("service:") {
            more.push((name.to_owned(), true));
        }
    }
    for from in texts("volumes_from") {
        if !from.starts_with("container:") {
            let name = from.split(':').next().unwrap_or_default();
            more.push((name.to_owned(), false));
        }
    }
    if more.is_empty() && service.get("depends_on").is_none() {
        return;
    }
    if service.get("depends_on").is_none_or(Node::is_null) {
        service.set("depends_on", Node::new(at, Kind::Map(Vec::new())));
    }
    let Some(map) = service.get_mut("depends_on") else {
        return;
    };
    for (name, restart) in more {
        if map.get(&name).is_none() {
            let how = [
                ("condition", words("service_started")),
                ("restart", Kind::Bool(restart)),
                ("required", Kind::Bool(true)),
            ];
            map.set(&name, Node::map(at, how));
        }
    }
    if let Kind::Map(entries) = &mut map.kind {
        for entry in entries {
            let how = &mut entry.value;
            if how.is_null() {
                how.kind = Kind::Map(Vec::new());
            }
            if how.get("condition").is_none() {
                how.set("condition", Node::text(at, "service_started"));
            }
            if how.get("required").is_none() {
                how.set("required", Node::new(at, Kind::Bool(true)));
            }
        }
    }
}

/// `env_file` and `label_file` below `environment` and `labels`.
pub(crate) fn resolve_files(service: &mut Node, variables: &Variables) -> Result<()> {
    let at = service.at.clone();
    let mut known = Variables::new();
    for entry in service
        .get("environment")
        .map(Node::entries)
        .unwrap_or_default()
    {
        if let Some(value) = entry.value.scalar() {
            known.insert(entry.key.clone(), value);
        }
    }
    known.extend(variables.clone());
    let mut from_files = Variables::new();
    for file in service.take("env_file").iter().flat_map(Node::items) {
        let path = file.get("path").and_then(Node::scalar).unwrap_or_default();
        let path = FilePath::new(&path);
        if !path.exists() && !is_true(file.get("required")) {
            continue;
        }
        if !path.exists() {
            let reason = format!(
                "{} is not there; make it, or write required: false",
                path.display()
            );
            return Err(Error::field(&file.at, &Path::of("env_file"), reason));
        }
        let format = file.get("format").and_then(Node::scalar);
        match format.as_deref() {
            None | Some("") => {
                let mut scope = from_files.clone();
                scope.extend(known.clone());
                for (name, value) in dotenv::read(path, &scope)? {
                    if let Some(value) = value {
                        from_files.insert(name, value);
                    }
                }
            }
            Some("raw") => {
                let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
                    path: path.to_owned(),
                    source,
                })?;
                let lines = text.lines().filter(|line| !line.starts_with('#'));
                for (name, value) in lines.filter_map(|line| line.split_once('=')) {
                    from_files.insert(name.to_owned(), value.to_owned());
                }
            }
            Some(other) => {
                let reason = format!("{other:?} is no format; there is raw");
                return Err(Error::field(&file.at, &Path::of("env_file"), reason));
            }
        }
    }
    add_below(service, "environment", from_files, &at);
    let mut labels = Variables::new();
    for file in service.take("label_file").iter().flat_map(Node::items) {
        let path = file.scalar().unwrap_or_default();
        for (name, value) in dotenv::read(FilePath::new(&path), &labels)? {
            labels.insert(name, value.unwrap_or_default());
        }
    }
    add_below(service, "labels", labels, &at);
    Ok(())
}

fn add_below(service: &mut Node, field: &str, values: Variables, at: &At) {
    if values.is_empty() {
        return;
    }
    if service.get(field).is_none_or(Node::is_null) {
        service.set(field, Node::new(at, Kind::Map(Vec::new())));
    }
    if let Some(map) = service.get_mut(field) {
        for (name, value) in values {
            if map.get(&name).is_none() {
                map.set(&name, Node::text(at, value));
            }
        }
    }
}
