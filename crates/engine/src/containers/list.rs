//! `GET /containers/json`.

use std::sync::Arc;

use axum::extract::State;
use berth_standalone::{Container, Phase, Record};
use serde_json::{Value, json};

use super::describe;
use crate::{Engine, Error, Filters, Json, Query, Result};

const FILTERS: [&str; 15] = [
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

pub async fn list(State(engine): State<Arc<Engine>>, query: Query) -> Result<Json<Vec<Value>>> {
    let filters = query.filters()?;
    filters.only(&FILTERS)?;
    for health in filters.values("health") {
        if !["none", "starting", "healthy", "unhealthy"].contains(&health) {
            return Err(Error::bad(format!(
                "unrecognised filter value for health: {health}"
            )));
        }
    }
    let limit: Option<usize> = query
        .number::<i64>("limit")?
        .and_then(|n| usize::try_from(n).ok());
    let limit = limit.filter(|limit| *limit > 0);
    let all = query.flag("all") || limit.is_some() || asks_for_ended(&filters);
    let bounds = Bounds::of(&engine, &filters)?;
    let mut found: Vec<Arc<Record>> = engine
        .containers
        .all()
        .iter()
        .map(|one| one.view())
        .collect();
    found.retain(|record| {
        (all || record.phase.runs() || record.phase == Phase::Restarting)
            && takes(&engine, &filters, record)
            && bounds.hold(record)
    });
    found.sort_by_key(|record| std::cmp::Reverse(record.created_at));
    if let Some(limit) = limit {
        found.truncate(limit);
    }
    let now = berth_lifecycle::record::now();
    Ok(Json(
        found.iter().map(|record| summary(record, now)).collect(),
    ))
}

fn asks_for_ended(filters: &Filters) -> bool {
    filters.contains("status") || filters.contains("exited")
}

pub(super) fn takes(engine: &Engine, filters: &Filters, record: &Record) -> bool {
    let id = record.id.as_str();
    let names = |text: &str| {
        let text = text.strip_prefix('/').unwrap_or(text);
        record.name.contains(text)
    };
    let has_volume = |text: &str| {
        record
            .mounts
            .iter()
            .any(|point| point.name == text || point.destination == text)
    };
    let from = |text: &str| {
        let found = crate::images::find(engine, text);
        found.is_ok_and(|image| image.id == record.image_id)
    };
    filters.any("id", |prefix| id.starts_with(prefix))
        && filters.any("name", names)
        && filters.labels("label", &record.config.labels)
        && filters.exact("status", record.phase.name())
        && filters.any("exited", |code| {
            record.phase == Phase::Exited && code.parse() == Ok(record.exit_code)
        })
        && filters.any("volume", has_volume)
        && filters.any("ancestor", from)
        && filters.any("network", |network| network == network_name(record))
        && filters.any("publish", |port| has_port(record, port))
        && filters.any("expose", |port| {
            record.config.exposed_ports.contains_key(&proto(port))
        })
        && filters.exact("health", describe::health_name(record))
}

fn proto(port: &str) -> String {
    if port.contains('/') {
        port.to_owned()
    } else {
        format!("{port}/tcp")
    }
}

fn has_port(record: &Record, port: &str) -> bool {
    let mut bindings = record.ports.values().flatten();
    record.ports.contains_key(&proto(port)) || bindings.any(|one| one.host_port == port)
}

/// The name of the network that a container is on.
pub(super) fn network_name(record: &Record) -> &str {
    match record.host.network_mode.as_str() {
        "" | "default" => "bridge",
        other => other,
    }
}

/// What `before` and `since` mean, by when containers were made.
struct Bounds {
    before: Option<i64>,
    since: Option<i64>,
}

impl Bounds {
    fn of(engine: &Engine, filters: &Filters) -> Result<Self> {
        let made = |name: &str| -> Result<Option<i64>> {
            let wanted = filters.values(name).next();
            let found: Option<Arc<Container>> = wanted
                .map(|wanted| engine.containers.get(wanted))
                .transpose()?;
            Ok(found.map(|one| one.view().created_at))
        };
        Ok(Self {
            before: made("before")?,
            since: made("since")?,
        })
    }

    fn hold(&self, record: &Record) -> bool {
        self.before.is_none_or(|at| record.created_at < at)
            && self.since.is_none_or(|at| record.created_at > at)
    }
}

pub(super) fn summary(record: &Record, now: i64) -> Value {
    let mode = match record.host.network_mode.as_str() {
        "" => "default",
        other => other,
    };
    let mounts = serde_json::to_value(&record.mounts).unwrap_or_default();
    json!({
        "Id": record.id.to_string(),
        "Names": [format!("/{}", record.name)],
        "Image": record.config.image,
        "ImageID": record.image_id.to_string(),
        "Command": record.command.join(" "),
        "Created": record.created_at / 1_000_000_000,
        "Ports": ports(record),
        "Labels": record.config.labels,
        "State": record.phase.name(),
        "Status": describe::status(record, now),
        "HostConfig": { "NetworkMode": mode },
        "NetworkSettings": { "Networks": super::inspect::networks(record) },
        "Mounts": mounts,
    })
}

fn ports(record: &Record) -> Vec<Value> {
    let mut all = Vec::new();
    let private = |port: &str| {
        let (number, kind) = port.split_once('/').unwrap_or((port, "tcp"));
        (number.parse::<u16>().unwrap_or(0), kind.to_owned())
    };
    for (port, bindings) in &record.ports {
        let (number, kind) = private(port);
        for binding in bindings {
            let public = binding.host_port.parse::<u16>().unwrap_or(0);
            let ip = match binding.host_ip.as_str() {
                "" => "0.0.0.0",
                ip => ip,
            };
            let entry =
                json!({"IP": ip, "PrivatePort": number, "PublicPort": public, "Type": kind});
            all.push(entry);
        }
    }
    if record.phase.runs() {
        for port in record.config.exposed_ports.keys() {
            if !record.ports.contains_key(port) {
                let (number, kind) = private(port);
                all.push(json!({"PrivatePort": number, "Type": kind}));
            }
        }
    }
    all
}
