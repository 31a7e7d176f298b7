//! `volume`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::inspect::Inspect;
use super::ps::labels as shown_labels;
use super::{Outcome, confirm, each, remove};
use crate::daemon::{Call, Client, segment};
use crate::error::Result;
use crate::options::{filters, labels, pairs};
use crate::output::{Listing, print_line, size};

const COLUMNS: &[(&str, &str)] = &[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Scope", "SCOPE"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

#[derive(Debug, Subcommand)]
pub enum Volume {
    /// List volumes
    #[command(alias = "list")]
    Ls(List),
    /// Make a volume
    Create(Create),
    /// Show everything about volumes
    Inspect(Inspect),
    /// Remove volumes
    #[command(alias = "remove")]
    Rm(Remove),
    /// Remove every volume that no container has and nobody named; with --all also the named ones
    Prune(Prune),
}

#[derive(Debug, Args)]
pub struct List {
    /// name=value, as in dangling=true, label=tier
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template such as '{{.Name}}'
    #[arg(long)]
    format: Option<String>,
    /// Names alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub struct Create {
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// name[=value]
    #[arg(long)]
    label: Vec<String>,
    /// name=value of the driver
    #[arg(short, long, value_name = "OPTION")]
    opt: Vec<String>,
    /// [default: one that is made up]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Those that are not there are no error
    #[arg(short, long)]
    force: bool,
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Prune {
    /// Also those with a name
    #[arg(short, long)]
    all: bool,
    /// name=value, as in label=tier
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl Volume {
    pub async fn run(self, client: &Client) -> Outcome {
        match self {
            Self::Ls(list) => list.run(client).await,
            Self::Create(create) => create.run(client).await,
            Self::Inspect(inspect) => inspect.of("volume").run(client).await,
            Self::Rm(remove) => remove.run(client).await,
            Self::Prune(prune) => prune.run(client).await,
        }
    }
}

impl List {
    async fn run(self, client: &Client) -> Outcome {
        let call = Call::get("/volumes").given("filters", filters(&self.filter)?);
        let found: Value = client.ask(call).await?;
        let mut listing = Listing::new(COLUMNS, &["Driver", "Name"], "Name");
        for volume in found["Volumes"].as_array().into_iter().flatten() {
            let text = |key: &str| volume[key].as_str().unwrap_or_default();
            listing.push(json!({
                "Driver": text("Driver"),
                "Name": text("Name"),
                "Mountpoint": text("Mountpoint"),
                "Scope": text("Scope"),
                "Labels": shown_labels(&volume["Labels"]),
                "CreatedAt": text("CreatedAt"),
            }));
        }
        listing.print(self.quiet, self.format.as_deref(), false)?;
        Ok(0)
    }
}

impl Create {
    async fn run(self, client: &Client) -> Outcome {
        let body = json!({
            "Name": self.name.unwrap_or_default(),
            "Driver": self.driver,
            "DriverOpts": pairs(&self.opt),
            "Labels": labels(&self.label, &[])?,
        });
        let call = Call::post("/volumes/create").json(&body);
        let made: Value = client.ask(call).await?;
        print_line(made["Name"].as_str().unwrap_or_default())?;
        Ok(0)
    }
}

impl Remove {
    async fn run(self, client: &Client) -> Outcome {
        each(&self.volumes, async |name| {
            let call = Call::delete(format!("/volumes/{}", segment(name)));
            remove(client, call.flag("force", self.force), name, self.force).await
        })
        .await
    }
}

impl Prune {
    async fn run(self, client: &Client) -> Outcome {
        let warning = match self.all {
            true => "Every volume that no container has will be removed",
            false => "Every volume that no container has and nobody named will be removed",
        };
        if !self.force && !confirm(warning)? {
            return Ok(0);
        }
        let mut wanted = self.filter.clone();
        if self.all {
            wanted.push("all=true".to_owned());
        }
        let freed = prune(client, &filters(&wanted)?).await?;
        print_line(&format!("Total reclaimed space: {}", size(freed)))?;
        Ok(0)
    }
}

/// Answers with the bytes that were freed.
pub async fn prune(client: &Client, filters: &str) -> Result<u64> {
    let call = Call::post("/volumes/prune").given("filters", filters);
    let gone: Value = client.ask(call).await?;
    let names: Vec<&str> = gone["VolumesDeleted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !names.is_empty() {
        print_line(&format!("Deleted Volumes:\n{}\n", names.join("\n")))?;
    }
    Ok(gone["SpaceReclaimed"].as_u64().unwrap_or(0))
}
