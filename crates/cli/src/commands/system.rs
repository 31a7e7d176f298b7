//! `system`, `info` and `version`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::images::print_removed;
use super::{Outcome, confirm, events, network, volume};
use crate::daemon::{Call, Client};
use crate::error::Result;
use crate::options::filters;
use crate::output::{Listing, binary_size, note, print, print_line, size, template::Template};

const COLUMNS: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

#[derive(Debug, Subcommand)]
pub enum System {
    /// Show what takes space on disk
    Df(Df),
    /// Show what happens, as it happens
    Events(events::Events),
    /// Show the daemon and its machine
    Info(Info),
    /// Remove containers that have ended, networks nobody is on, and images without a name
    Prune(Prune),
    /// Join standard input and output with the daemon's socket, for a client elsewhere
    #[command(hide = true)]
    DialStdio,
}

#[derive(Debug, Args)]
pub struct Df {
    /// table, json, or a template such as '{{.Type}} {{.Size}}'
    #[arg(long)]
    format: Option<String>,
}

#[derive(Debug, Args)]
pub struct Prune {
    /// Also images that have a name and no container
    #[arg(short, long)]
    all: bool,
    /// Also volumes that nobody named
    #[arg(long)]
    volumes: bool,
    /// name=value, as in until=24h, label=tier
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct Info {
    /// json, or a template such as '{{.ServerVersion}}'
    #[arg(short, long)]
    format: Option<String>,
}

#[derive(Debug, Args)]
pub struct Version {
    /// json, or a template such as '{{.Server.Version}}'
    #[arg(short, long)]
    format: Option<String>,
}

impl System {
    pub async fn run(self, client: &Client) -> Outcome {
        match self {
            Self::Df(df) => df.run(client).await,
            Self::Events(events) => events.run(client).await,
            Self::Info(info) => info.run(client).await,
            Self::Prune(prune) => prune.everything(client).await,
            Self::DialStdio => super::shell::dial_stdio(client).await,
        }
    }
}

impl Df {
    async fn run(self, client: &Client) -> Outcome {
        let found = client.get("/system/df").await?;
        let shown: Vec<&str> = COLUMNS.iter().map(|(field, _)| *field).collect();
        let mut listing = Listing::new(COLUMNS, &shown, "Type");
        for row in rows(&found) {
            listing.push(row);
        }
        listing.print(false, self.format.as_deref(), false)?;
        Ok(0)
    }
}

fn rows(found: &Value) -> Vec<Value> {
    let items = |key: &str| found[key].as_array().cloned().unwrap_or_default();
    let row = |kind: &str, total: usize, active: usize, bytes: u64, free: u64| {
        let share = match bytes {
            0 => String::new(),
            _ => format!(" ({}%)", free.saturating_mul(100) / bytes),
        };
        json!({
            "Type": kind,
            "TotalCount": total.to_string(),
            "Active": active.to_string(),
            "Size": size(bytes),
            "Reclaimable": size(free) + &share,
        })
    };
    let number = |value: &Value, key: &str| value[key].as_i64().unwrap_or(0).max(0).unsigned_abs();

    let images = items("Images");
    let in_use = |image: &&Value| image["Containers"].as_i64().unwrap_or(0) > 0;
    let layers = found["LayersSize"].as_u64().unwrap_or(0);
    let used: u64 = images
        .iter()
        .filter(in_use)
        .map(|image| number(image, "Size").saturating_sub(number(image, "SharedSize")))
        .sum();
    let active = images.iter().filter(in_use).count();

    let containers = items("Containers");
    let runs = |one: &&Value| {
        matches!(
            one["State"].as_str(),
            Some("running" | "paused" | "restarting")
        )
    };
    let written = |all: &mut dyn Iterator<Item = &Value>| -> u64 {
        all.map(|one| number(one, "SizeRw")).sum()
    };
    let whole = written(&mut containers.iter());
    let running = written(&mut containers.iter().filter(runs));

    let volumes = items("Volumes");
    let usage = |one: &Value, key: &str| {
        let value = one.pointer(&format!("/UsageData/{key}"));
        value
            .and_then(Value::as_i64)
            .unwrap_or(0)
            .max(0)
            .unsigned_abs()
    };
    let taken: u64 = volumes.iter().map(|one| usage(one, "Size")).sum();
    let idle = volumes.iter().filter(|one| usage(one, "RefCount") == 0);
    let idle_bytes: u64 = idle.clone().map(|one| usage(one, "Size")).sum();

    vec![
        row(
            "Images",
            images.len(),
            active,
            layers,
            layers.saturating_sub(used),
        ),
        row(
            "Containers",
            containers.len(),
            containers.iter().filter(runs).count(),
            whole,
            whole.saturating_sub(running),
        ),
        row(
            "Local Volumes",
            volumes.len(),
            volumes.len() - idle.count(),
            taken,
            idle_bytes,
        ),
    ]
}

impl Prune {
    async fn everything(self, client: &Client) -> Outcome {
        let images = match self.all {
            true => "images that no container uses",
            false => "images without a name",
        };
        let volumes = if self.volumes {
            ", volumes that nobody named"
        } else {
            ""
        };
        let warning = format!(
            "Containers that have ended, networks that no container is on{volumes} and {images} \
             will be removed"
        );
        if !self.force && !confirm(&warning)? {
            return Ok(0);
        }
        let own = filters(&self.filter)?;
        let mut freed = containers(client, &own).await?;
        network::prune(client, &own).await?;
        if self.volumes {
            freed += volume::prune(client, &own).await?;
        }
        freed += self.of_images(client).await?;
        print_line(&format!("Total reclaimed space: {}", size(freed)))?;
        Ok(0)
    }

    pub async fn containers(self, client: &Client) -> Outcome {
        if !self.force && !confirm("Every container that has ended will be removed")? {
            return Ok(0);
        }
        let freed = containers(client, &filters(&self.filter)?).await?;
        print_line(&format!("Total reclaimed space: {}", size(freed)))?;
        Ok(0)
    }

    pub async fn images(self, client: &Client) -> Outcome {
        let warning = match self.all {
            true => "Every image that no container uses will be removed",
            false => "Every image without a name will be removed",
        };
        if !self.force && !confirm(warning)? {
            return Ok(0);
        }
        let freed = self.of_images(client).await?;
        print_line(&format!("Total reclaimed space: {}", size(freed)))?;
        Ok(0)
    }

    async fn of_images(&self, client: &Client) -> Result<u64> {
        let mut wanted = self.filter.clone();
        wanted.push(format!("dangling={}", !self.all));
        let call = Call::post("/images/prune").given("filters", filters(&wanted)?);
        let gone: Value = client.ask(call).await?;
        let removed = gone["ImagesDeleted"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if !removed.is_empty() {
            print_line("Deleted Images:")?;
            print_removed(&removed)?;
            print_line("")?;
        }
        Ok(gone["SpaceReclaimed"].as_u64().unwrap_or(0))
    }
}

/// Answers with the bytes that were freed.
async fn containers(client: &Client, filters: &str) -> Result<u64> {
    let call = Call::post("/containers/prune").given("filters", filters);
    let gone: Value = client.ask(call).await?;
    let ids: Vec<&str> = gone["ContainersDeleted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !ids.is_empty() {
        print_line(&format!("Deleted Containers:\n{}\n", ids.join("\n")))?;
    }
    Ok(gone["SpaceReclaimed"].as_u64().unwrap_or(0))
}

impl Info {
    pub async fn run(self, client: &Client) -> Outcome {
        let info = client.get("/info").await?;
        match self.format.as_deref() {
            Some("json") => print_line(&info.to_string())?,
            Some(text) => print_line(&Template::parse(text)?.render(&info)?)?,
            None => print(&told(client, &info))?,
        }
        for warning in info["Warnings"].as_array().into_iter().flatten() {
            note(&format!(
                "WARNING: {}",
                warning.as_str().unwrap_or_default()
            ));
        }
        Ok(0)
    }
}

fn told(client: &Client, info: &Value) -> String {
    let text = |pointer: &str| match info.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let names = |pointer: &str| {
        let items = info.pointer(pointer).and_then(Value::as_array);
        let items = items.into_iter().flatten().filter_map(Value::as_str);
        items.collect::<Vec<_>>().join(" ")
    };
    let runtimes = info["Runtimes"].as_object();
    let runtimes = runtimes
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str());
    let lines = [
        ("Client", String::new()),
        (" Version", env!("CARGO_PKG_VERSION").to_owned()),
        (" Daemon", client.endpoint().to_string()),
        ("Server", String::new()),
        (" Containers", text("/Containers")),
        ("  Running", text("/ContainersRunning")),
        ("  Paused", text("/ContainersPaused")),
        ("  Stopped", text("/ContainersStopped")),
        (" Images", text("/Images")),
        (" Server Version", text("/ServerVersion")),
        (" Storage Driver", text("/Driver")),
        (" Logging Driver", text("/LoggingDriver")),
        (" Cgroup Driver", text("/CgroupDriver")),
        (" Cgroup Version", text("/CgroupVersion")),
        (" Networks", names("/Plugins/Network")),
        (" Volumes", names("/Plugins/Volume")),
        (" Runtimes", runtimes.collect::<Vec<_>>().join(" ")),
        (" Security Options", names("/SecurityOptions")),
        (" Kernel Version", text("/KernelVersion")),
        (" Operating System", text("/OperatingSystem")),
        (" Architecture", text("/Architecture")),
        (" CPUs", text("/NCPU")),
        (
            " Total Memory",
            binary_size(info["MemTotal"].as_u64().unwrap_or(0)),
        ),
        (" Name", text("/Name")),
        (" ID", text("/ID")),
        (" Root Dir", text("/DockerRootDir")),
    ];
    let is_title = |name: &str| matches!(name, "Client" | "Server");
    lines
        .iter()
        .filter(|(name, value)| is_title(name) || !value.is_empty())
        .map(|(name, value)| format!("{}\n", format!("{name}: {value}").trim_end()))
        .collect()
}

impl Version {
    /// This program's version is told even where no daemon is.
    pub async fn run(self, client: &Client) -> Outcome {
        let server = client.get("/version").await;
        let (server, failure) = match server {
            Ok(server) => (server, None),
            Err(error) => (Value::Null, Some(error)),
        };
        let both = json!({
            "Client": {
                "Version": env!("CARGO_PKG_VERSION"),
                "ApiVersion": "1.50",
                "Os": std::env::consts::OS,
                "Arch": std::env::consts::ARCH,
                "Context": client.endpoint().to_string(),
            },
            "Server": server,
        });
        match self.format.as_deref() {
            Some("json") => print_line(&both.to_string())?,
            Some(text) => print_line(&Template::parse(text)?.render(&both)?)?,
            None => print(&versions(&both))?,
        }
        failure.map_or(Ok(0), Err)
    }
}

fn versions(both: &Value) -> String {
    let mut out = String::new();
    for (title, side) in [("Client", &both["Client"]), ("Server", &both["Server"])] {
        if side.is_null() {
            continue;
        }
        out.push_str(&format!("{title}:\n"));
        let fields = [
            "Version",
            "ApiVersion",
            "MinAPIVersion",
            "GitCommit",
            "Os",
            "Arch",
            "KernelVersion",
        ];
        for field in fields {
            if let Some(text) = side[field].as_str().filter(|text| !text.is_empty()) {
                out.push_str(&format!(" {:<15} {text}\n", format!("{field}:")));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_freed_is_told_by_kind() {
        let found = json!({
            "LayersSize": 100_000,
            "Images": [{"Size": 60_000, "SharedSize": 0, "Containers": 1},
                {"Size": 40_000, "SharedSize": 0, "Containers": 0}],
            "Containers": [{"SizeRw": 10, "State": "running"}, {"SizeRw": 30, "State": "exited"}],
            "Volumes": [{"UsageData": {"Size": 500, "RefCount": 0}}],
        });
        let shown: Vec<String> = rows(&found)
            .iter()
            .map(|row| {
                format!(
                    "{} {} {} {}",
                    row["TotalCount"], row["Active"], row["Size"], row["Reclaimable"]
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                r#""2" "1" "100kB" "40kB (40%)""#,
                r#""2" "1" "40B" "30B (75%)""#,
                r#""1" "0" "500B" "500B (100%)""#
            ]
        );
    }
}
