//! `stats`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::Outcome;
use super::ps::cut;
use crate::daemon::{Call, Client, segment};
use crate::error::Result;
use crate::output::{Listing, Style, binary_size, print, size};
use crate::terminal::forward_nothing;

const SHORT: usize = 12;
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Container", "CONTAINER"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

const SHOWN: &[&str] = &[
    "ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs",
];

#[derive(Debug, Args)]
pub struct Stats {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// table, json, or a template such as '{{.Name}} {{.CPUPerc}}'
    #[arg(long)]
    format: Option<String>,
    /// One look, and the end
    #[arg(long)]
    no_stream: bool,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Stats {
    pub async fn run(self, client: &Client) -> Outcome {
        forward_nothing()?;
        loop {
            let listing = self.look(client).await?;
            if Style::of_stdout().is_terminal && !self.no_stream {
                print("\x1b[H\x1b[2J")?;
            }
            listing.print(false, self.format.as_deref(), self.no_trunc)?;
            if self.no_stream {
                return Ok(0);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn look(&self, client: &Client) -> Result<Listing> {
        let names = match self.containers.is_empty() {
            true => running(client, self.all).await?,
            false => self.containers.clone(),
        };
        // All at once: each of them takes a second to be measured.
        let mut looks = tokio::task::JoinSet::new();
        for (place, name) in names.into_iter().enumerate() {
            let client = client.clone();
            let path = format!("/containers/{}/stats", segment(&name));
            let call = Call::get(path).query("stream", "0");
            looks.spawn(async move { (place, client.ask::<Value>(call).await) });
        }
        let mut rows = Vec::new();
        while let Some(look) = looks.join_next().await {
            match look {
                Ok((place, Ok(stats))) => rows.push((place, row(&stats, self.no_trunc))),
                // Gone since it was listed.
                Ok((_, Err(error))) if error.is_not_found() && self.containers.is_empty() => {}
                Ok((_, Err(error))) => return Err(error),
                Err(_) => {}
            }
        }
        rows.sort_by_key(|(place, _)| *place);
        let mut listing = Listing::new(COLUMNS, SHOWN, "ID");
        rows.into_iter().for_each(|(_, row)| listing.push(row));
        Ok(listing)
    }
}

async fn running(client: &Client, all: bool) -> Result<Vec<String>> {
    let call = Call::get("/containers/json").flag("all", all);
    let found: Vec<Value> = client.ask(call).await?;
    let ids = found.iter().filter_map(|one| one["Id"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

fn row(stats: &Value, no_trunc: bool) -> Value {
    let number = |pointer: &str| stats.pointer(pointer).and_then(Value::as_u64);
    let used = number("/memory_stats/usage").unwrap_or(0);
    let cache = number("/memory_stats/stats/total_inactive_file")
        .or_else(|| number("/memory_stats/stats/inactive_file"));
    let used = used.saturating_sub(cache.unwrap_or(0));
    let limit = number("/memory_stats/limit").unwrap_or(0);
    let share = match limit {
        0 => 0.0,
        limit => used as f64 / limit as f64 * 100.0,
    };
    let networks = stats["networks"].as_object().into_iter().flatten();
    let (mut received, mut sent) = (0, 0);
    for (_, network) in networks {
        received += network["rx_bytes"].as_u64().unwrap_or(0);
        sent += network["tx_bytes"].as_u64().unwrap_or(0);
    }
    let (read, written) = disk(stats);
    let id = cut(stats["id"].as_str().unwrap_or_default(), SHORT, no_trunc);
    let name = stats["name"].as_str().unwrap_or_default();
    json!({
        "ID": id,
        "Container": id,
        "Name": name.trim_start_matches('/'),
        "CPUPerc": format!("{:.2}%", cpu(stats)),
        "MemUsage": format!("{} / {}", binary_size(used), binary_size(limit)),
        "MemPerc": format!("{share:.2}%"),
        "NetIO": format!("{} / {}", size(received), size(sent)),
        "BlockIO": format!("{} / {}", size(read), size(written)),
        "PIDs": number("/pids_stats/current").unwrap_or(0).to_string(),
    })
}

/// Of one processor, between the two measurements of the answer.
fn cpu(stats: &Value) -> f64 {
    let number = |pointer: &str| {
        let number = stats.pointer(pointer).and_then(Value::as_f64);
        number.unwrap_or(0.0)
    };
    let used =
        number("/cpu_stats/cpu_usage/total_usage") - number("/precpu_stats/cpu_usage/total_usage");
    let passed = number("/cpu_stats/system_cpu_usage") - number("/precpu_stats/system_cpu_usage");
    let processors = number("/cpu_stats/online_cpus").max(1.0);
    match used > 0.0 && passed > 0.0 {
        true => used / passed * processors * 100.0,
        false => 0.0,
    }
}

fn disk(stats: &Value) -> (u64, u64) {
    let entries = stats.pointer("/blkio_stats/io_service_bytes_recursive");
    let entries = entries.and_then(Value::as_array).into_iter().flatten();
    let (mut read, mut written) = (0, 0);
    for entry in entries {
        let bytes = entry["value"].as_u64().unwrap_or(0);
        match entry["op"]
            .as_str()
            .unwrap_or_default()
            .to_lowercase()
            .as_str()
        {
            "read" => read += bytes,
            "write" => written += bytes,
            _ => {}
        }
    }
    (read, written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_passed_between_two_measurements() {
        let stats = json!({
            "id": "0123456789abcdef", "name": "/web",
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000,
                "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 3 << 20, "limit": 8 << 20, "stats": {"inactive_file": 1 << 20}},
            "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 500}},
            "pids_stats": {"current": 3},
        });
        let row = row(&stats, false);
        assert_eq!(row["CPUPerc"], "40.00%");
        assert_eq!(row["MemUsage"], "2MiB / 8MiB");
        assert_eq!(row["MemPerc"], "25.00%");
        assert_eq!(row["NetIO"], "1kB / 500B");
        assert_eq!(
            (&row["ID"], &row["Name"]),
            (&json!("0123456789ab"), &json!("web"))
        );
    }
}
