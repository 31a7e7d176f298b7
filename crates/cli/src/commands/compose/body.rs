//! A service as the Engine API wants its container.

use std::collections::BTreeMap;

use berth_compose::{Project, Service, quantity};
use serde_json::{Map, Value, json};

use super::labels::Labels;
use crate::error::{Error, Result};

/// What a container has besides what its service says.
#[derive(Debug, Default)]
pub struct Individual {
    pub name: String,
    pub labels: Labels,
    /// Volumes without a name of the container whose place it takes, by where they are.
    pub inherited: BTreeMap<String, String>,
    /// `container:alias` of `links`.
    pub links: Vec<String>,
    /// Answers to its service's name.
    pub with_aliases: bool,
    pub stdin: bool,
    pub auto_remove: bool,
}

pub fn body(project: &Project, service: &Service, own: &Individual) -> Result<Value> {
    let value = &service.value;
    let stdin = value["stdin_open"] == true || own.stdin;
    let mut body = json!({
        "Hostname": service.text("hostname"),
        "Domainname": service.text("domainname"),
        "User": service.text("user"),
        "ExposedPorts": exposed(value),
        "Tty": value["tty"] == true,
        "OpenStdin": stdin,
        "StdinOnce": own.stdin,
        "AttachStdin": own.stdin,
        "AttachStdout": true,
        "AttachStderr": true,
        "Env": environment(&value["environment"]),
        "Image": service.image(&project.name),
        "WorkingDir": service.text("working_dir"),
        "Labels": own.labels,
        "HostConfig": host(project, service, own)?,
        "NetworkingConfig": {"EndpointsConfig": endpoints(project, service, own)},
    });
    for (field, from) in [("Cmd", "command"), ("Entrypoint", "entrypoint")] {
        if !value[from].is_null() {
            body[field] = value[from].clone();
        }
    }
    if !service.text("stop_signal").is_empty() {
        body["StopSignal"] = value["stop_signal"].clone();
    }
    if let Some(seconds) = stop_timeout(service) {
        body["StopTimeout"] = json!(seconds);
    }
    if let Some(health) = health(&value["healthcheck"]) {
        body["Healthcheck"] = health;
    }
    Ok(body)
}

/// Whole seconds, rounded up.
pub fn stop_timeout(service: &Service) -> Option<i64> {
    let text = service.value["stop_grace_period"].as_str()?;
    let nanoseconds = quantity::duration(text)?;
    Some(nanoseconds.div_euclid(1_000_000_000) + i64::from(nanoseconds % 1_000_000_000 > 0))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// A name without a value takes the image's variable away.
fn environment(value: &Value) -> Vec<String> {
    fields(value)
        .map(|(name, value)| match value.as_str() {
            Some(value) => format!("{name}={value}"),
            None => name.clone(),
        })
        .collect()
}

fn port_of(port: &Value) -> String {
    let protocol = port["protocol"].as_str().unwrap_or("tcp");
    format!("{}/{protocol}", port["target"])
}

fn exposed(value: &Value) -> Value {
    let mut ports = Map::new();
    for port in items(&value["expose"]).filter_map(Value::as_str) {
        let (range, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            for port in first..=last {
                ports.insert(format!("{port}/{protocol}"), json!({}));
            }
        }
    }
    for port in items(&value["ports"]) {
        ports.insert(port_of(port), json!({}));
    }
    Value::Object(ports)
}

fn bindings(value: &Value) -> Value {
    let mut bindings: Map<String, Value> = Map::new();
    for port in items(&value["ports"]) {
        let text = |key: &str| port[key].as_str().unwrap_or_default();
        let one = json!({"HostIp": text("host_ip"), "HostPort": text("published")});
        match bindings
            .get_mut(&port_of(port))
            .and_then(Value::as_array_mut)
        {
            Some(all) => all.push(one),
            None => {
                bindings.insert(port_of(port), json!([one]));
            }
        }
    }
    Value::Object(bindings)
}

fn nanoseconds(value: &Value) -> i64 {
    value.as_str().and_then(quantity::duration).unwrap_or(0)
}

fn health(value: &Value) -> Option<Value> {
    if value.is_null() {
        return None;
    }
    if value["disable"] == true {
        return Some(json!({"Test": ["NONE"]}));
    }
    let test = match &value["test"] {
        Value::Null => json!([]),
        test => test.clone(),
    };
    Some(json!({
        "Test": test,
        "Interval": nanoseconds(&value["interval"]),
        "Timeout": nanoseconds(&value["timeout"]),
        "StartPeriod": nanoseconds(&value["start_period"]),
        "StartInterval": nanoseconds(&value["start_interval"]),
        "Retries": value["retries"].as_i64().unwrap_or(0),
    }))
}

fn host(project: &Project, service: &Service, own: &Individual) -> Result<Value> {
    let value = &service.value;
    let (security, unconfined) = security(project, &value["security_opt"])?;
    let mut host = json!({
        "AutoRemove": own.auto_remove,
        "Mounts": mounts(project, service, own),
        "NetworkMode": network_mode(project, service),
        "PortBindings": bindings(value),
        "RestartPolicy": restart(value),
        "SecurityOpt": security,
        "Links": own.links,
        "LogConfig": {
            "Type": value["logging"]["driver"].as_str().unwrap_or_default(),
            "Config": given(&value["logging"]["options"], json!({})),
        },
        "Tmpfs": tmpfs(&value["tmpfs"]),
        "ExtraHosts": items(&value["extra_hosts"])
            .filter_map(Value::as_str)
            .map(|line| line.replacen('=', ":", 1))
            .collect::<Vec<_>>(),
    });
    // Fields that are called otherwise, and mean the same.
    for (field, from) in [
        ("Annotations", "annotations"),
        ("CapAdd", "cap_add"),
        ("CapDrop", "cap_drop"),
        ("Init", "init"),
        ("IpcMode", "ipc"),
        ("PidMode", "pid"),
        ("UTSMode", "uts"),
        ("UsernsMode", "userns_mode"),
        ("CgroupnsMode", "cgroup"),
        ("CgroupParent", "cgroup_parent"),
        ("ReadonlyRootfs", "read_only"),
        ("Privileged", "privileged"),
        ("ShmSize", "shm_size"),
        ("Sysctls", "sysctls"),
        ("VolumeDriver", "volume_driver"),
        ("VolumesFrom", "volumes_from"),
        ("Dns", "dns"),
        ("DnsSearch", "dns_search"),
        ("DnsOptions", "dns_opt"),
        ("StorageOpt", "storage_opt"),
        ("Runtime", "runtime"),
        ("GroupAdd", "group_add"),
        ("OomScoreAdj", "oom_score_adj"),
        ("OomKillDisable", "oom_kill_disable"),
        ("Memory", "mem_limit"),
        ("MemorySwap", "memswap_limit"),
        ("MemoryReservation", "mem_reservation"),
        ("MemorySwappiness", "mem_swappiness"),
        ("CpuPeriod", "cpu_period"),
        ("CpuQuota", "cpu_quota"),
        ("CpuRealtimePeriod", "cpu_rt_period"),
        ("CpuRealtimeRuntime", "cpu_rt_runtime"),
        ("CpuShares", "cpu_shares"),
        ("CpusetCpus", "cpuset"),
        ("PidsLimit", "pids_limit"),
        ("DeviceCgroupRules", "device_cgroup_rules"),
    ] {
        if !value[from].is_null() {
            host[field] = value[from].clone();
        }
    }
    if unconfined {
        host["MaskedPaths"] = json!([]);
        host["ReadonlyPaths"] = json!([]);
    }
    resources(value, &mut host);
    Ok(host)
}

fn given(value: &Value, default: Value) -> Value {
    match value {
        Value::Null => default,
        value => value.clone(),
    }
}

fn resources(value: &Value, host: &mut Value) {
    if let Some(cpus) = value["cpus"].as_f64() {
        host["NanoCpus"] = json!((cpus * 1e9) as i64);
    }
    let limits = &value["deploy"]["resources"]["limits"];
    if let Some(cpus) = limits["cpus"].as_f64() {
        host["NanoCpus"] = json!((cpus * 1e9) as i64);
    }
    let reserved = &value["deploy"]["resources"]["reservations"];
    for (field, from) in [
        ("Memory", &limits["memory"]),
        ("PidsLimit", &limits["pids"]),
        ("MemoryReservation", &reserved["memory"]),
    ] {
        if !from.is_null() {
            host[field] = from.clone();
        }
    }
    let ulimits = fields(&value["ulimits"]).map(|(name, limit)| {
        let part = |key: &str| limit.as_i64().or(limit[key].as_i64()).unwrap_or(0);
        json!({"Name": name, "Soft": part("soft"), "Hard": part("hard")})
    });
    host["Ulimits"] = ulimits.collect();
    devices(value, host);
    blkio(&value["blkio_config"], host);
}

fn devices(value: &Value, host: &mut Value) {
    let mut paths = Vec::new();
    let mut requests = Vec::new();
    for device in items(&value["devices"]) {
        let source = device["source"].as_str().unwrap_or_default();
        // vendor.example/class=name
        let is_cdi = !source.starts_with('/') && source.contains('=');
        match is_cdi {
            true => requests.push(json!({"Driver": "cdi", "DeviceIDs": [source]})),
            false => paths.push(json!({
                "PathOnHost": source,
                "PathInContainer": device["target"],
                "CgroupPermissions": given(&device["permissions"], json!("rwm")),
            })),
        }
    }
    let asked = items(&value["gpus"]).map(|request| (request, Some("gpu")));
    let reserved = &value["deploy"]["resources"]["reservations"]["devices"];
    for (request, more) in asked.chain(items(reserved).map(|request| (request, None))) {
        let mut capabilities: Vec<Value> = items(&request["capabilities"]).cloned().collect();
        capabilities.extend(more.map(Value::from));
        requests.push(json!({
            "Driver": given(&request["driver"], json!("")),
            "Count": given(&request["count"], json!(0)),
            "DeviceIDs": given(&request["device_ids"], json!([])),
            "Capabilities": [capabilities],
            "Options": given(&request["options"], json!({})),
        }));
    }
    host["Devices"] = Value::from(paths);
    if !requests.is_empty() {
        host["DeviceRequests"] = Value::from(requests);
    }
}

fn blkio(value: &Value, host: &mut Value) {
    if !value["weight"].is_null() {
        host["BlkioWeight"] = value["weight"].clone();
    }
    for (field, from, key, name) in [
        ("BlkioWeightDevice", "weight_device", "weight", "Weight"),
        ("BlkioDeviceReadBps", "device_read_bps", "rate", "Rate"),
        ("BlkioDeviceReadIOps", "device_read_iops", "rate", "Rate"),
        ("BlkioDeviceWriteBps", "device_write_bps", "rate", "Rate"),
        ("BlkioDeviceWriteIOps", "device_write_iops", "rate", "Rate"),
    ] {
        let all = items(&value[from]).map(|one| {
            let mut device = json!({"Path": one["path"]});
            device[name] = one[key].clone();
            device
        });
        let all: Vec<Value> = all.collect();
        if !all.is_empty() {
            host[field] = Value::from(all);
        }
    }
}

fn restart(value: &Value) -> Value {
    let name = |word: &str| match word {
        "none" | "no" => "no".to_owned(),
        "any" | "always" => "always".to_owned(),
        other => other.to_owned(),
    };
    let policy = &value["deploy"]["restart_policy"];
    if !policy.is_null() {
        let word = policy["condition"].as_str().unwrap_or("any");
        let most = policy["max_attempts"].as_i64().unwrap_or(0);
        let most = if word == "on-failure" { most } else { 0 };
        return json!({"Name": name(word), "MaximumRetryCount": most});
    }
    let text = value["restart"].as_str().unwrap_or_default();
    let (word, most) = text.split_once(':').unwrap_or((text, "0"));
    json!({"Name": name(word), "MaximumRetryCount": most.parse::<i64>().unwrap_or(0)})
}

fn tmpfs(value: &Value) -> Value {
    let one = |text: &str| {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        (path.to_owned(), Value::from(options))
    };
    items(value)
        .filter_map(Value::as_str)
        .map(one)
        .collect::<Map<_, _>>()
        .into()
}

/// Profiles of seccomp are sent, not named.
fn security(project: &Project, value: &Value) -> Result<(Vec<String>, bool)> {
    let mut unconfined = false;
    let mut options = Vec::new();
    for option in items(value).filter_map(Value::as_str) {
        let (name, rest) = option
            .split_once('=')
            .or(option.split_once(':'))
            .unwrap_or((option, ""));
        if option == "systempaths=unconfined" {
            unconfined = true;
        } else if name == "seccomp" && !matches!(rest, "unconfined" | "builtin") {
            let path = project.directory.join(rest);
            let text = std::fs::read(&path).map_err(Error::file("reading", &path))?;
            let profile: Value =
                serde_json::from_slice(&text).map_err(|source| Error::BadFile { path, source })?;
            options.push(format!("seccomp={profile}"));
        } else {
            options.push(option.to_owned());
        }
    }
    Ok((options, unconfined))
}

fn network_mode(project: &Project, service: &Service) -> String {
    match service.text("network_mode") {
        "" => service
            .networks()
            .first()
            .map_or("none", |key| project.networks[key].name())
            .to_owned(),
        mode => mode.to_owned(),
    }
}

fn endpoints(project: &Project, service: &Service, own: &Individual) -> Value {
    let mut endpoints = Map::new();
    if !service.text("network_mode").is_empty() {
        return Value::Object(endpoints);
    }
    for (place, key) in service.networks().iter().enumerate() {
        let how = &service.value["networks"][key];
        let text = |name: &str| how[name].as_str().unwrap_or_default();
        let mut aliases = vec![own.name.clone()];
        if own.with_aliases {
            aliases.push(service.name.clone());
            let more = items(&how["aliases"]).filter_map(Value::as_str);
            aliases.extend(more.map(str::to_owned));
        }
        let mut options = given(&how["driver_opts"], json!({}));
        if !text("interface_name").is_empty() {
            options["com.docker.network.endpoint.ifname"] = how["interface_name"].clone();
        }
        let mac = match (text("mac_address"), place) {
            ("", 0) => service.text("mac_address"),
            (own, _) => own,
        };
        let endpoint = json!({
            "Aliases": aliases,
            "Links": own.links,
            "IPAMConfig": {
                "IPv4Address": text("ipv4_address"),
                "IPv6Address": text("ipv6_address"),
                "LinkLocalIPs": given(&how["link_local_ips"], json!([])),
            },
            "MacAddress": mac,
            "DriverOpts": options,
            "GwPriority": how["gw_priority"].as_i64().unwrap_or(0),
        });
        endpoints.insert(project.networks[key].name().to_owned(), endpoint);
    }
    Value::Object(endpoints)
}

/// Volumes, and files of secrets and configs.
fn mounts(project: &Project, service: &Service, own: &Individual) -> Vec<Value> {
    let mut all: BTreeMap<String, Value> = own
        .inherited
        .iter()
        .map(|(target, volume)| {
            let mount = json!({"Type": "volume", "Source": volume, "Target": target});
            (target.clone(), mount)
        })
        .collect();
    for volume in items(&service.value["volumes"]) {
        let target = volume["target"].as_str().unwrap_or_default();
        let is_anonymous = volume["type"] == "volume" && volume["source"].is_null();
        if !(is_anonymous && all.contains_key(target)) {
            all.insert(target.to_owned(), mount(project, volume));
        }
    }
    for kind in ["secrets", "configs"] {
        for (target, part, _) in granted(project, service, kind) {
            if let Some(file) = part["file"].as_str() {
                let mount = json!({
                    "Type": "bind", "Source": file, "Target": target, "ReadOnly": true,
                });
                all.entry(target).or_insert(mount);
            }
        }
    }
    all.into_values().collect()
}

/// Where each secret or config of a service goes, what it is, and how it is granted.
pub fn granted<'a>(
    project: &'a Project,
    service: &'a Service,
    kind: &'static str,
) -> Vec<(String, &'a Value, &'a Value)> {
    let (parts, root) = match kind {
        "secrets" => (&project.secrets, "/run/secrets/"),
        _ => (&project.configs, "/"),
    };
    items(&service.value[kind])
        .filter_map(|grant| {
            let source = grant["source"].as_str()?;
            let target = grant["target"].as_str().unwrap_or(source);
            let target = match target.starts_with('/') {
                true => target.to_owned(),
                false => format!("{root}{target}"),
            };
            Some((target, &parts.get(source)?.value, grant))
        })
        .collect()
}

fn mount(project: &Project, volume: &Value) -> Value {
    let text = |key: &str| volume[key].as_str().unwrap_or_default();
    let source = match (text("type"), text("source")) {
        ("volume", key) => project.volumes.get(key).map_or(key, |part| part.name()),
        (_, source) => source,
    };
    let mut mount = json!({
        "Type": text("type"),
        "Source": source,
        "Target": text("target"),
        "ReadOnly": volume["read_only"] == true,
        "Consistency": text("consistency"),
    });
    match text("type") {
        "bind" => {
            let how = &volume["bind"];
            let recursive = how["recursive"].as_str().unwrap_or_default();
            mount["BindOptions"] = json!({
                "Propagation": how["propagation"].as_str().unwrap_or_default(),
                "CreateMountpoint": how["create_host_path"] == true,
                "NonRecursive": recursive == "disabled",
                "ReadOnlyNonRecursive": recursive == "writable",
                "ReadOnlyForceRecursive": recursive == "readonly",
            });
        }
        "volume" => {
            let how = &volume["volume"];
            mount["VolumeOptions"] = json!({
                "NoCopy": how["nocopy"] == true,
                "Subpath": how["subpath"].as_str().unwrap_or_default(),
                "Labels": given(&how["labels"], json!({})),
            });
        }
        "tmpfs" => {
            let how = &volume["tmpfs"];
            mount["TmpfsOptions"] = json!({
                "SizeBytes": how["size"].as_i64().unwrap_or(0),
                "Mode": how["mode"].as_i64().unwrap_or(0),
            });
        }
        "image" => {
            let how = &volume["image"];
            mount["ImageOptions"] = json!({"Subpath": how["subpath"].as_str().unwrap_or_default()});
        }
        _ => {}
    }
    mount
}
