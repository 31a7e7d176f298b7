//! `docker buildx`, and `docker build` with it: there is one builder, the daemon's own.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::version;
use crate::commands::{Outcome, build, confirm};
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::options::filters;
use crate::output::{Listing, ago, print, print_line, size};

const BUILDER: &str = "default";

#[derive(Debug, Args)]
pub struct Buildx {
    /// The daemon's own is the only one
    #[arg(long, value_name = "NAME")]
    builder: Option<String>,
    #[arg(short = 'D', long, hide = true)]
    debug: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an image by a Dockerfile
    #[command(alias = "b")]
    Build(Box<build::Build>),
    /// List builders
    Ls(Ls),
    /// Show a builder
    Inspect(Inspect),
    /// Show what builds keep for later ones
    Du(Du),
    /// Remove what builds keep for later ones
    Prune(Prune),
    /// Show what this plugin is
    Version,
    /// Build by this builder from now on
    Use(Use),
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Debug, Args)]
pub struct Ls {
    /// json, or a template such as '{{.Name}}'
    #[arg(long)]
    format: Option<String>,
    #[arg(long, hide = true)]
    no_trunc: bool,
}

#[derive(Debug, Args)]
pub struct Inspect {
    #[arg(long, hide = true)]
    bootstrap: bool,
    name: Option<String>,
}

#[derive(Debug, Args)]
pub struct Du {
    /// json, or a template such as '{{.ID}}'
    #[arg(long)]
    format: Option<String>,
    #[arg(long, hide = true)]
    verbose: bool,
}

#[derive(Debug, Args)]
pub struct Prune {
    /// The caches of RUN --mount, too
    #[arg(short, long)]
    all: bool,
    /// name=value, as in until=24h
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    #[arg(long, hide = true)]
    verbose: bool,
}

#[derive(Debug, Args)]
pub struct Use {
    #[arg(long, hide = true)]
    default: bool,
    #[arg(long, hide = true)]
    global: bool,
    name: String,
}

impl Buildx {
    /// `context` is the name that docker has for the daemon: its builder is called so.
    pub async fn run(self, client: &Client, context: &str) -> Outcome {
        if let Some(name) = &self.builder {
            known(name, context)?;
        }
        match self.command {
            Command::Build(command) => {
                if let Some(name) = command.builder() {
                    known(name, context)?;
                }
                command.run(client).await
            }
            Command::Ls(command) => command.run(client).await,
            Command::Inspect(command) => {
                known(command.name.as_deref().unwrap_or(BUILDER), context)?;
                inspect(client).await
            }
            Command::Du(command) => command.run(client).await,
            Command::Prune(command) => command.run(client).await,
            Command::Version => {
                let own = env!("CARGO_PKG_VERSION");
                print_line(&format!("berth/buildx {} {own}", version("buildx")))?;
                Ok(0)
            }
            Command::Use(command) => {
                known(&command.name, context)?;
                Ok(0)
            }
            Command::Other(words) => {
                let name = words.first().map_or("", String::as_str);
                Err(refused(name))
            }
        }
    }
}

fn known(name: &str, context: &str) -> Result<()> {
    match name == BUILDER || name == context || name.is_empty() {
        true => Ok(()),
        false => Err(Error::usage(format!(
            "no builder is called {name:?}: there is {BUILDER}, the daemon's own"
        ))),
    }
}

fn refused(command: &str) -> Error {
    let advice = match command {
        "create" | "rm" | "stop" | "install" | "uninstall" => {
            "there is one builder, the daemon's own, which is there as long as the daemon is"
        }
        "bake" => "write a Compose file with the builds, and `docker compose build`",
        "imagetools" => "`docker pull` and `docker push` move images between registries",
        "history" | "logs" => "builds are told while they run, and not kept: --progress plain",
        _ => "there are build, ls, inspect, du, prune, use and version",
    };
    Error::usage(format!("buildx {command} is not done: {advice}"))
}

/// What the daemon says of itself.
struct Node {
    version: String,
    platform: String,
}

async fn node(client: &Client) -> Result<Node> {
    let found = client.get("/version").await?;
    let text = |key: &str| found[key].as_str().unwrap_or_default();
    Ok(Node {
        version: match found["Platform"]["Name"].as_str() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => text("Version").to_owned(),
        },
        platform: format!("{}/{}", text("Os"), text("Arch")),
    })
}

const BUILDERS: &[(&str, &str)] = &[
    ("Name", "NAME/NODE"),
    ("DriverEndpoint", "DRIVER/ENDPOINT"),
    ("Status", "STATUS"),
    ("Buildkit", "BUILDKIT"),
    ("Platforms", "PLATFORMS"),
];

impl Ls {
    async fn run(self, client: &Client) -> Outcome {
        let shown: Vec<&str> = BUILDERS.iter().map(|(field, _)| *field).collect();
        let mut listing = Listing::new(BUILDERS, &shown, "Name");
        let node = node(client).await;
        let (status, version, platform) = match node {
            Ok(node) => ("running", node.version, node.platform),
            // As others: a builder that is not reached is told to be so.
            Err(_) => ("error", String::new(), String::new()),
        };
        listing.push(json!({
            "Name": format!("{BUILDER}*"),
            "DriverEndpoint": "docker",
            "Status": status,
            "Buildkit": version,
            "Platforms": platform,
        }));
        listing.print(false, self.format.as_deref(), self.no_trunc)?;
        Ok(0)
    }
}

async fn inspect(client: &Client) -> Outcome {
    let node = node(client).await?;
    print(&format!(
        "Name:   {BUILDER}\nDriver: docker\n\nNodes:\nName:             {BUILDER}\n\
         Endpoint:         {BUILDER}\nStatus:           running\n\
         BuildKit version: {}\nPlatforms:        {}\n",
        node.version, node.platform
    ))?;
    Ok(0)
}

const KEPT: &[(&str, &str)] = &[
    ("ID", "ID"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
];

impl Du {
    /// Steps that builds keep are images that no list shows.
    async fn run(self, client: &Client) -> Outcome {
        let all: Value = client
            .ask(
                Call::get("/images/json")
                    .flag("all", true)
                    .flag("shared-size", true),
            )
            .await?;
        let named = client.get("/images/json").await?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let named: Vec<Value> = list(&named)
            .iter()
            .map(|image| image["Id"].clone())
            .collect();
        let shown: Vec<&str> = KEPT.iter().map(|(field, _)| *field).collect();
        let mut listing = Listing::new(KEPT, &shown, "ID");
        let mut total = 0;
        for image in list(&all) {
            if named.contains(&image["Id"]) {
                continue;
            }
            let number = |key: &str| image[key].as_u64().unwrap_or(0);
            let own = number("Size").saturating_sub(number("SharedSize"));
            total += own;
            listing.push(json!({
                "ID": image["Id"].as_str().unwrap_or_default().trim_start_matches("sha256:"),
                "Reclaimable": (number("Containers") == 0).to_string(),
                "Size": size(own),
                "CreatedSince": ago(image["Created"].as_i64().unwrap_or(0)),
            }));
        }
        listing.print(false, self.format.as_deref(), true)?;
        if self.format.is_none() {
            print_line(&format!("Total:  {}", size(total)))?;
        }
        Ok(0)
    }
}

impl Prune {
    async fn run(self, client: &Client) -> Outcome {
        let warning = match self.all {
            true => "What builds keep, and the caches of their commands, will be removed",
            false => "What builds keep for later ones will be removed",
        };
        if !self.force && !confirm(warning)? {
            return Ok(0);
        }
        let call = Call::post("/build/prune")
            .flag("all", self.all)
            .given("filters", filters(&self.filter)?);
        let gone: Value = client.ask(call).await?;
        for id in gone["CachesDeleted"].as_array().into_iter().flatten() {
            print_line(id.as_str().unwrap_or_default())?;
        }
        let freed = gone["SpaceReclaimed"].as_u64().unwrap_or(0);
        print_line(&format!("Total:  {}", size(freed)))?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_builder() {
        for name in ["default", "lab", ""] {
            known(name, "lab").unwrap();
        }
        let told = known("mine", "lab").unwrap_err().to_string();
        assert!(
            told.contains("\"mine\"") && told.contains("default"),
            "{told}"
        );
        assert!(refused("create").to_string().contains("one builder"));
        assert!(
            refused("frobnicate")
                .to_string()
                .contains("there are build")
        );
    }
}
