//! `GET /containers/{name}/json`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use berth_standalone::{Phase, Record};
use serde_json::{Map, Value, json};

use super::describe::{self, time};
use crate::{Engine, Json, Query, Result};

pub async fn inspect(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Json<Value>> {
    let container = engine.containers.get(&name)?;
    let record = container.view();
    let mut told = tell(&engine, &record);
    if query.flag("size") {
        let written = engine.runtime.layer_usage(&record.id).await?;
        told["SizeRw"] = json!(written.bytes);
        let image = engine.images.get(&record.image_id.to_string());
        told["SizeRootFs"] = json!(image.map_or(0, |image| image.size));
    }
    Ok(Json(told))
}

fn tell(engine: &Engine, record: &Record) -> Value {
    let (program, arguments) = record
        .command
        .split_first()
        .map_or(("", &[][..]), |(program, rest)| (program.as_str(), rest));
    let id = record.id.as_str();
    json!({
        "Id": id,
        "Created": time(record.created_at),
        "Path": program,
        "Args": arguments,
        "State": state(record),
        "Image": record.image_id.to_string(),
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": record.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        "Name": format!("/{}", record.name),
        "RestartCount": record.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": exec_ids(engine, id),
        "HostConfig": host_config(record),
        "GraphDriver": { "Name": "overlay2", "Data": {} },
        "Mounts": serde_json::to_value(&record.mounts).unwrap_or_default(),
        "Config": config(engine, record),
        "NetworkSettings": network_settings(record),
    })
}

fn exec_ids(engine: &Engine, id: &str) -> Value {
    let ids = engine.containers.commands.of(id);
    if ids.is_empty() {
        Value::Null
    } else {
        json!(ids)
    }
}

fn state(record: &Record) -> Value {
    let mut told = json!({
        "Status": record.phase.name(),
        // Docker's clients take a container that waits for its restart for running.
        "Running": record.phase.runs() || record.phase == Phase::Restarting,
        "Paused": record.phase == Phase::Paused,
        "Restarting": record.phase == Phase::Restarting,
        "OOMKilled": record.oom_killed,
        "Dead": record.phase == Phase::Dead,
        "Pid": record.pid,
        "ExitCode": record.exit_code,
        "Error": record.error,
        "StartedAt": time(record.started_at),
        "FinishedAt": time(record.finished_at),
    });
    if let Some(health) = &record.health {
        told["Health"] = describe::health(health);
    }
    told
}

/// The configuration as it was asked for, over that of the image.
pub(super) fn config(engine: &Engine, record: &Record) -> Value {
    let mut told = serde_json::to_value(&record.config).unwrap_or_default();
    let image = engine.images.get(&record.image_id.to_string());
    let Some(fields) = told.as_object_mut() else {
        return told;
    };
    if record.config.hostname.is_empty() && record.host.network_mode != "host" {
        let short = berth_names::short(record.id.as_str());
        fields.insert("Hostname".to_owned(), json!(short));
    }
    if let Some(image) = image {
        let of_image = &image.config;
        let has_entrypoint = record
            .config
            .entrypoint
            .as_ref()
            .is_some_and(|e| !e.is_empty());
        if record.config.cmd.as_ref().is_none_or(Vec::is_empty) && !has_entrypoint {
            fields.insert("Cmd".to_owned(), json!(of_image.cmd()));
        }
        if !has_entrypoint && !of_image.entrypoint().is_empty() {
            fields.insert("Entrypoint".to_owned(), json!(of_image.entrypoint()));
        }
        if record.config.working_dir.is_empty() {
            fields.insert("WorkingDir".to_owned(), json!(of_image.working_dir()));
        }
        if record.config.user.is_empty() {
            fields.insert("User".to_owned(), json!(of_image.user()));
        }
        let mut labels = of_image.labels().clone();
        labels.extend(record.config.labels.clone());
        fields.insert("Labels".to_owned(), json!(labels));
        fields.insert("Env".to_owned(), json!(environment(record, of_image.env())));
    }
    if record.config.volumes.is_empty() {
        fields.insert("Volumes".to_owned(), Value::Null);
    }
    told
}

fn environment(record: &Record, of_image: &[String]) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let given: Vec<String> = record.config.env.iter().map(|entry| name(entry)).collect();
    let kept = of_image
        .iter()
        .filter(|entry| !given.contains(&name(entry)));
    let own = record.config.env.iter().filter(|entry| entry.contains('='));
    own.chain(kept).cloned().collect()
}

fn host_config(record: &Record) -> Value {
    let mut told = serde_json::to_value(&record.host).unwrap_or_default();
    let Some(fields) = told.as_object_mut() else {
        return told;
    };
    let mut default = |key: &str, value: Value| {
        let unset = fields
            .get(key)
            .is_none_or(|now| now == "" || now.is_null() || now == 0);
        if unset {
            fields.insert(key.to_owned(), value);
        }
    };
    default("NetworkMode", json!("default"));
    default("IpcMode", json!("private"));
    default("ShmSize", json!(64 << 20));
    default("Runtime", json!("berth"));
    if let Some(policy) = fields.get_mut("RestartPolicy")
        && policy["Name"] == ""
    {
        policy["Name"] = json!("no");
    }
    if let Some(log) = fields.get_mut("LogConfig")
        && log["Type"] == ""
    {
        log["Type"] = json!("json-file");
    }
    told
}

fn network_settings(record: &Record) -> Value {
    let mut ports: BTreeMap<String, Value> = BTreeMap::new();
    if record.phase.runs() {
        for port in record.config.exposed_ports.keys() {
            ports.insert(port.clone(), Value::Null);
        }
    }
    for (port, bindings) in &record.ports {
        let told = bindings.iter().map(|binding| {
            let ip = if binding.host_ip.is_empty() {
                "0.0.0.0"
            } else {
                &binding.host_ip
            };
            json!({"HostIp": ip, "HostPort": binding.host_port})
        });
        ports.insert(port.clone(), told.collect());
    }
    let networks = networks(record);
    let first = networks.values().next().cloned().unwrap_or_default();
    json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": "",
        "Ports": ports,
        "IPAddress": first.get("IPAddress").cloned().unwrap_or_else(|| json!("")),
        "IPPrefixLen": first.get("IPPrefixLen").cloned().unwrap_or_else(|| json!(0)),
        "Gateway": first.get("Gateway").cloned().unwrap_or_else(|| json!("")),
        "MacAddress": first.get("MacAddress").cloned().unwrap_or_else(|| json!("")),
        "Networks": networks,
    })
}

/// By the name of the network: what is asked of it, with what the container has while it runs.
pub(super) fn networks(record: &Record) -> Map<String, Value> {
    let shown = record.endpoints.iter().map(|(name, asked)| {
        let endpoint = record.joined.get(name).unwrap_or(asked);
        (name.clone(), json!(endpoint))
    });
    shown.collect()
}
