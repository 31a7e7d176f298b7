//! `ps`.

use clap::Args;
use serde_json::{Value, json};

use super::Outcome;
use crate::daemon::{Call, Client};
use crate::error::Result;
use crate::options::filters;
use crate::output::{Colour, Listing, ago, size};

const SHORT: usize = 12;
/// Characters of a command that are shown.
const COMMAND: usize = 20;

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Platform", "PLATFORM"),
];

const SHOWN: &[&str] = &[
    "ID",
    "Image",
    "Command",
    "RunningFor",
    "Status",
    "Ports",
    "Names",
];

#[derive(Debug, Args)]
pub struct Ps {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// name=value, as in status=exited, name=web, label=tier=front
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template such as '{{.Names}}: {{.Status}}'
    #[arg(long)]
    format: Option<String>,
    /// So many, those made last, whatever they do
    #[arg(short = 'n', long, value_name = "NUMBER", allow_hyphen_values = true)]
    last: Option<i64>,
    /// The one made last, whatever it does
    #[arg(short, long)]
    latest: bool,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    /// Ids alone
    #[arg(short, long)]
    quiet: bool,
    /// Also what they take on disk
    #[arg(short, long)]
    size: bool,
}

impl Ps {
    pub async fn run(self, client: &Client) -> Outcome {
        let last = if self.latest { Some(1) } else { self.last };
        let last = last.filter(|last| *last > 0).map(|last| last.to_string());
        let wants_size = self.size
            || self
                .format
                .as_deref()
                .is_some_and(|format| format.contains(".Size"));
        let call = Call::get("/containers/json")
            .flag("all", self.all)
            .flag("size", wants_size)
            .given("limit", last.unwrap_or_default())
            .given("filters", filters(&self.filter)?);
        let found: Vec<Value> = client.ask(call).await?;
        self.print(&found)?;
        Ok(0)
    }

    fn print(&self, found: &[Value]) -> Result<()> {
        let mut listing = Listing::new(COLUMNS, SHOWN, "ID");
        if self.size {
            listing.show("Size");
        }
        for container in found {
            let colour = colour(container["State"].as_str().unwrap_or_default());
            listing.push_coloured(row(container, self.no_trunc), colour);
        }
        listing.print(self.quiet, self.format.as_deref(), self.no_trunc)
    }
}

pub fn colour(state: &str) -> Option<(&'static str, Colour)> {
    match state {
        "running" => Some(("Status", Colour::Green)),
        "paused" | "restarting" => Some(("Status", Colour::Yellow)),
        "dead" => Some(("Status", Colour::Red)),
        _ => None,
    }
}

pub fn row(container: &Value, no_trunc: bool) -> Value {
    let text = |key: &str| container[key].as_str().unwrap_or_default();
    let created = container["Created"].as_i64().unwrap_or(0);
    let names: Vec<&str> = list(&container["Names"])
        .filter_map(Value::as_str)
        .map(|name| name.trim_start_matches('/'))
        .collect();
    let networks = container.pointer("/NetworkSettings/Networks");
    let networks = networks.and_then(Value::as_object);
    let networks = networks.map(|networks| networks.keys().map(String::as_str).collect::<Vec<_>>());
    let mounts: Vec<&str> = list(&container["Mounts"])
        .map(|mount| match mount["Name"].as_str() {
            Some(name) if !name.is_empty() => name,
            _ => mount["Source"].as_str().unwrap_or_default(),
        })
        .collect();
    let is_volume = |mount: &&Value| mount["Type"] == "volume";
    let volumes = list(&container["Mounts"]).filter(is_volume).count();
    json!({
        "ID": cut(text("Id"), SHORT, no_trunc),
        "Image": image(text("Image"), no_trunc),
        "Command": format!("\"{}\"", shortened(text("Command"), no_trunc)),
        "RunningFor": ago(created),
        "CreatedAt": created_at(created),
        "Status": text("Status"),
        "State": text("State"),
        "Ports": ports(container),
        "Names": names.join(","),
        "Size": sizes(container),
        "Labels": labels(&container["Labels"]),
        "Mounts": mounts.join(","),
        "Networks": networks.unwrap_or_default().join(","),
        "LocalVolumes": volumes.to_string(),
        "Platform": "linux",
    })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub fn cut(text: &str, length: usize, no_trunc: bool) -> String {
    match no_trunc {
        true => text.to_owned(),
        false => text.chars().take(length).collect(),
    }
}

/// An image that has lost its name is shown by its id.
fn image(name: &str, no_trunc: bool) -> String {
    match name.strip_prefix("sha256:") {
        Some(digest) => cut(digest, SHORT, no_trunc),
        None => name.to_owned(),
    }
}

fn shortened(command: &str, no_trunc: bool) -> String {
    match no_trunc || command.chars().count() <= COMMAND {
        true => command.to_owned(),
        false => command.chars().take(COMMAND - 1).collect::<String>() + "…",
    }
}

pub fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> = pairs
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.join(",")
}

pub fn created_at(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds).map_or_else(
        |_| String::new(),
        |at| {
            format!(
                "{} {:02}:{:02}:{:02} +0000 UTC",
                at.date(),
                at.hour(),
                at.minute(),
                at.second()
            )
        },
    )
}

fn sizes(container: &Value) -> String {
    let bytes = |key: &str| container[key].as_u64();
    match (bytes("SizeRw").unwrap_or(0), bytes("SizeRootFs")) {
        (written, Some(whole)) => format!("{} (virtual {})", size(written), size(whole)),
        (written, None) => size(written),
    }
}

/// `0.0.0.0:8800->80/tcp`, ranges together.
fn ports(container: &Value) -> String {
    let mut all: Vec<(String, u64, u64, String)> = list(&container["Ports"])
        .map(|port| {
            let number = |key: &str| port[key].as_u64().unwrap_or(0);
            let text = |key: &str| port[key].as_str().unwrap_or_default().to_owned();
            (
                text("IP"),
                number("PublicPort"),
                number("PrivatePort"),
                text("Type"),
            )
        })
        .collect();
    all.sort_by(|a, b| (&a.0, &a.3, a.2, a.1).cmp(&(&b.0, &b.3, b.2, b.1)));
    all.dedup();
    let mut groups: Vec<((String, u64, u64, String), u64)> = Vec::new();
    for port in all {
        match groups.last_mut() {
            Some((first, more)) if follows(first, *more, &port) => *more += 1,
            _ => groups.push((port, 0)),
        }
    }
    let shown: Vec<String> = groups
        .iter()
        .map(|(port, more)| range(port, *more))
        .collect();
    shown.join(", ")
}

type Port = (String, u64, u64, String);

fn follows(first: &Port, more: u64, port: &Port) -> bool {
    let next = more + 1;
    let same_step = match first.1 {
        0 => port.1 == 0,
        public => port.1 == public + next,
    };
    first.0 == port.0 && first.3 == port.3 && port.2 == first.2 + next && same_step
}

fn range((ip, public, private, kind): &Port, more: u64) -> String {
    let span = |from: &u64| match more {
        0 => from.to_string(),
        more => format!("{from}-{}", from + more),
    };
    let inside = format!("{}/{kind}", span(private));
    let ip = match ip.contains(':') {
        true => format!("[{ip}]"),
        false => ip.clone(),
    };
    match public {
        0 => inside,
        public => format!("{ip}:{}->{inside}", span(public)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_shown_as_docker_shows_them() {
        let port = |ip: &str, public: u64, private: u64| match public {
            0 => json!({"PrivatePort": private, "Type": "tcp"}),
            _ => json!({"IP": ip, "PublicPort": public, "PrivatePort": private, "Type": "tcp"}),
        };
        for (given, expected) in [
            (vec![], ""),
            (vec![port("", 0, 80)], "80/tcp"),
            (vec![port("", 0, 80), port("", 0, 81)], "80-81/tcp"),
            (
                vec![port("0.0.0.0", 8800, 80), port("::", 8800, 80)],
                "0.0.0.0:8800->80/tcp, [::]:8800->80/tcp",
            ),
            (
                vec![port("127.0.0.1", 9001, 91), port("127.0.0.1", 9000, 90)],
                "127.0.0.1:9000-9001->90-91/tcp",
            ),
        ] {
            assert_eq!(ports(&json!({ "Ports": given })), expected);
        }
    }

    #[test]
    fn a_row_is_short_unless_it_shall_not_be() {
        let container = json!({
            "Id": "0123456789abcdef", "Image": "sha256:0123456789abcdef", "Created": 0,
            "Command": "sh -c 'sleep 1000000'", "Names": ["/web"], "Labels": {"a": "b"},
            "State": "running", "Status": "Up 2 minutes",
        });
        let short = row(&container, false);
        assert_eq!(short["ID"], "0123456789ab");
        assert_eq!(short["Image"], "0123456789ab");
        assert_eq!(short["Command"], "\"sh -c 'sleep 100000…\"");
        assert_eq!(short["Names"], "web");
        assert_eq!(short["Labels"], "a=b");
        let long = row(&container, true);
        assert_eq!(long["ID"], "0123456789abcdef");
        assert_eq!(long["Command"], "\"sh -c 'sleep 1000000'\"");
    }
}
