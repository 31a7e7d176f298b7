//! `compose ps`, `images` and `ls`.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::found::Found;
use super::{Files, chosen, labels};
use crate::commands::{Outcome, ps};
use crate::daemon::{Call, Client};
use crate::output::{Listing, ago, print_line, size};

#[derive(Debug, Args)]
pub struct Ps {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Ids alone
    #[arg(short, long)]
    quiet: bool,
    /// Names of services alone
    #[arg(long)]
    services: bool,
    /// Those in this state: running, exited, paused, …
    #[arg(long, value_name = "STATE")]
    status: Vec<String>,
    /// table, json, or a template such as '{{.Name}}: {{.State}}'
    #[arg(long)]
    format: Option<String>,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "SERVICES")]
    names: Vec<String>,
}

const PS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("Service", "SERVICE"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("ID", "CONTAINER ID"),
    ("Health", "HEALTH"),
    ("ExitCode", "EXIT CODE"),
    ("Project", "PROJECT"),
    ("Labels", "LABELS"),
];

const PS_SHOWN: &[&str] = &[
    "Name",
    "Image",
    "Command",
    "Service",
    "RunningFor",
    "Status",
    "Ports",
];

impl Ps {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let (project, _, mut containers) = chosen(client, files, &self.names).await?;
        containers.retain(|one| match self.status.is_empty() {
            true => self.all || one.is_running() || one.state == "paused",
            false => self.status.contains(&one.state),
        });
        if self.services {
            let mut names: Vec<&str> = containers.iter().map(|one| one.service.as_str()).collect();
            names.dedup();
            names.into_iter().try_for_each(print_line)?;
            return Ok(0);
        }
        if self.quiet {
            containers.iter().try_for_each(|one| print_line(&one.id))?;
            return Ok(0);
        }
        let mut listing = Listing::new(PS, PS_SHOWN, "ID");
        for one in &containers {
            let colour = ps::colour(&one.state);
            listing.push_coloured(row(one, &project, self.no_trunc), colour);
        }
        listing.print(false, self.format.as_deref(), self.no_trunc)?;
        Ok(0)
    }
}

fn row(one: &Found, project: &str, no_trunc: bool) -> Value {
    let common = ps::row(&one.value, no_trunc);
    let status = one.value["Status"].as_str().unwrap_or_default();
    let health = ["healthy", "unhealthy", "starting"]
        .into_iter()
        .find(|word| {
            status.contains(&format!("({word})")) || status.contains(&format!(": {word})"))
        });
    let code = status
        .split_once("Exited (")
        .and_then(|(_, rest)| rest.split_once(')')?.0.parse::<i64>().ok());
    json!({
        "ID": common["ID"],
        "Name": one.name,
        "Image": common["Image"],
        "Command": common["Command"],
        "Service": one.service,
        "RunningFor": common["RunningFor"],
        "Status": common["Status"],
        "State": one.state,
        "Ports": common["Ports"],
        "Health": health.unwrap_or_default(),
        "ExitCode": code.unwrap_or(0),
        "Project": project,
        "Labels": common["Labels"],
    })
}

#[derive(Debug, Args)]
pub struct Images {
    /// Ids alone
    #[arg(short, long)]
    quiet: bool,
    /// table, json, or a template
    #[arg(long)]
    format: Option<String>,
    services: Vec<String>,
}

const IMAGES: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("Size", "SIZE"),
    ("Created", "CREATED"),
];

impl Images {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let (_, _, containers) = chosen(client, files, &self.services).await?;
        let shown = ["Container", "Repository", "Tag", "ID", "Size", "Created"];
        let mut listing = Listing::new(IMAGES, &shown, "ID");
        for one in &containers {
            let id = one.value["ImageID"].as_str().unwrap_or_default();
            let image = client
                .get(format!("/images/{id}/json"))
                .await
                .unwrap_or_default();
            let name = one.value["Image"].as_str().unwrap_or_default();
            let (repository, tag) = crate::commands::pull::parts(name);
            let created = image["Created"].as_str().unwrap_or_default();
            let created = crate::options::moment(created).unwrap_or_default();
            let created: f64 = created.parse().unwrap_or(0.0);
            listing.push(json!({
                "Container": one.name,
                "Repository": repository,
                "Tag": tag,
                "ID": ps::cut(id.trim_start_matches("sha256:"), 12, false),
                "Size": size(image["Size"].as_u64().unwrap_or(0)),
                "Created": ago(created as i64),
            }));
        }
        listing.print(self.quiet, self.format.as_deref(), false)?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub struct Ls {
    /// Also projects of which nothing runs
    #[arg(short, long)]
    all: bool,
    /// Names alone
    #[arg(short, long)]
    quiet: bool,
    /// table, json, or a template
    #[arg(long)]
    format: Option<String>,
}

const LS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Status", "STATUS"),
    ("ConfigFiles", "CONFIG FILES"),
];

impl Ls {
    pub async fn run(self, client: &Client) -> Outcome {
        let filters = json!({"label": [labels::PROJECT]});
        let call = Call::get("/containers/json")
            .flag("all", true)
            .query("filters", filters.to_string());
        let listed: Vec<Value> = client.ask(call).await?;
        let mut listing = Listing::new(LS, &["Name", "Status", "ConfigFiles"], "Name");
        for row in projects(&listed, self.all) {
            listing.push(row);
        }
        listing.print(self.quiet, self.format.as_deref(), false)?;
        Ok(0)
    }
}

/// `running(2), exited(1)` of each project.
fn projects(listed: &[Value], all: bool) -> Vec<Value> {
    let mut states: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    let mut files: BTreeMap<&str, &str> = BTreeMap::new();
    for one in listed {
        let label = |key: &str| one["Labels"][key].as_str().unwrap_or_default();
        let project = label(labels::PROJECT);
        let state = one["State"].as_str().unwrap_or_default();
        *states.entry(project).or_default().entry(state).or_default() += 1;
        files.insert(project, label(labels::FILES));
    }
    let row = |(name, states): (&str, BTreeMap<&str, usize>)| {
        if !all && !states.contains_key("running") {
            return None;
        }
        let texts = states
            .iter()
            .map(|(state, count)| format!("{state}({count})"));
        Some(json!({
            "Name": name,
            "Status": texts.collect::<Vec<_>>().join(", "),
            "ConfigFiles": files.get(name),
        }))
    };
    states.into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_told_by_the_states_of_their_containers() {
        let one = |project: &str, state: &str| {
            json!({"State": state, "Labels": {
                labels::PROJECT: project, labels::FILES: "/c.yaml",
            }})
        };
        let listed = [
            one("a", "running"),
            one("a", "exited"),
            one("a", "running"),
            one("b", "exited"),
        ];
        let shown = projects(&listed, false);
        assert_eq!(
            shown,
            [json!({"Name": "a", "Status": "exited(1), running(2)", "ConfigFiles": "/c.yaml"})]
        );
        assert_eq!(projects(&listed, true).len(), 2);
    }
}
