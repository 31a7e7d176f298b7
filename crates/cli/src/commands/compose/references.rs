//! What a service says of another one's containers.

use std::collections::BTreeMap;

use berth_compose::Service;
use berth_compose::node::{Kind, Node};

use super::found::Found;
use crate::error::{Error, Result};

/// `service:x` is a container's id, once there is one. The hash is of what this makes.
pub fn resolved(
    service: &Service,
    project: &str,
    containers: &BTreeMap<String, Vec<Found>>,
) -> Result<Service> {
    let first = |name: &str| {
        let all = containers.get(name).map(Vec::as_slice).unwrap_or_default();
        let one = all.first().ok_or_else(|| {
            Error::Failed(format!(
                "{} joins a container of {name}, and {project} has none",
                service.name
            ))
        })?;
        Ok::<_, Error>(one.id.clone())
    };
    let mut resolved = service.clone();
    for field in ["network_mode", "ipc", "pid"] {
        if let Some(name) = service.text(field).strip_prefix("service:") {
            let id = first(name)?;
            let node = Node::text(&service.node.at, format!("container:{id}"));
            resolved = resolved.with(field, node);
        }
    }
    let from = service.value["volumes_from"]
        .as_array()
        .into_iter()
        .flatten();
    let from: Vec<&str> = from.filter_map(|one| one.as_str()).collect();
    if !from.is_empty() {
        let mut ids = Vec::new();
        for one in from {
            let id = match one.strip_prefix("container:") {
                Some(container) => container.to_owned(),
                None => {
                    let (name, mode) = one.split_once(':').unwrap_or((one, ""));
                    let id = first(name)?;
                    match mode {
                        "" => id,
                        mode => format!("{id}:{mode}"),
                    }
                }
            };
            ids.push(Node::text(&service.node.at, id));
        }
        let node = Node::new(&service.node.at, Kind::List(ids));
        resolved = resolved.with("volumes_from", node);
    }
    Ok(resolved)
}

/// `container:alias` of each link.
pub fn links(service: &Service, containers: &BTreeMap<String, Vec<Found>>) -> Vec<String> {
    let texts = |field: &str| -> Vec<String> {
        let all = service.value[field].as_array().into_iter().flatten();
        all.filter_map(|one| one.as_str().map(str::to_owned))
            .collect()
    };
    let mut links = Vec::new();
    for link in texts("links") {
        let (name, alias) = link.split_once(':').unwrap_or((&link, &link));
        for one in containers.get(name).into_iter().flatten() {
            links.push(format!("{}:{alias}", one.name));
        }
    }
    for link in texts("external_links") {
        let (name, alias) = link.split_once(':').unwrap_or((&link, &link));
        links.push(format!("{name}:{alias}"));
    }
    links
}
