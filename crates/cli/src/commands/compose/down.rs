//! `compose down`.

use std::collections::BTreeSet;

use berth_compose::Project;
use clap::Args;
use futures::future::{join_all, try_join_all};
use serde_json::{Value, json};

use super::board::Board;
use super::{Files, found, images, labels, lifecycle};
use crate::commands::Outcome;
use crate::daemon::{Call, Client, segment};
use crate::error::{Error, Result};

#[derive(Debug, Args)]
pub struct Down {
    /// Remove volumes, too: what is in them is lost
    #[arg(short, long)]
    volumes: bool,
    /// Remove images: all that the services use, or local ones, that have no name in the files
    #[arg(long, value_name = "WHICH", value_parser = ["all", "local"])]
    rmi: Option<String>,
    /// Also containers of services that the files do not have
    #[arg(long)]
    remove_orphans: bool,
    /// Seconds until a container that is stopped is killed
    #[arg(short, long, value_name = "SECONDS", allow_hyphen_values = true)]
    timeout: Option<i64>,
    /// Only the containers of these services
    services: Vec<String>,
}

impl Down {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let (name, project) = files.name()?;
        let board = Board::new();
        let found = found::of_project(client, &name).await?;
        let known = |service: &String| match &project {
            Some(project) if !self.remove_orphans => {
                project.services.contains_key(service) || project.disabled.contains_key(service)
            }
            _ => true,
        };
        let (mine, orphans): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|one| known(&one.service));
        let mine = found::of_services(mine, &self.services);
        let project = project.as_ref();
        lifecycle::stop_in_order(client, &board, project, &mine, self.timeout).await?;
        let removals = mine
            .iter()
            .map(|one| lifecycle::remove(client, &board, one, self.volumes));
        join_all(removals)
            .await
            .into_iter()
            .collect::<Result<()>>()?;
        if !self.services.is_empty() {
            return Ok(0);
        }
        if !orphans.is_empty() {
            let names: Vec<&str> = orphans.iter().map(|one| one.name.as_str()).collect();
            crate::output::note(&format!(
                "berth: {} of this project are of services that the files do not have; \
                 --remove-orphans removes them",
                names.join(", ")
            ));
        }
        self.networks(client, &name, &board).await?;
        if self.volumes {
            self.all_volumes(client, &name, &board).await?;
        }
        if let (Some(which), Some(project)) = (&self.rmi, project) {
            for image in self.images(project, which) {
                images::remove(client, &board, &image).await?;
            }
        }
        Ok(0)
    }

    fn images(&self, project: &Project, which: &str) -> BTreeSet<String> {
        let named = |all: bool, text: &str| all || text.is_empty();
        let services = project.services.values();
        services
            .filter(|service| named(which == "all", service.text("image")))
            .map(|service| service.image(&project.name))
            .collect()
    }

    async fn networks(&self, client: &Client, name: &str, board: &Board) -> Result<()> {
        let listed: Vec<Value> = client.ask(listed("/networks", name)).await?;
        let removals = listed.iter().filter_map(|network| {
            let name = network["Name"].as_str()?;
            Some(async move {
                let what = format!("Network {name}");
                board.working(&what, "Removing");
                let path = format!("/networks/{}", segment(name));
                match client.tell(Call::delete(path)).await {
                    Ok(()) => board.done(&what, "Removed"),
                    Err(error) if error.is_not_found() => board.done(&what, "Removed"),
                    // Somebody else's container is on it.
                    Err(Error::Refused { message, .. }) if message.contains("active endpoints") => {
                        board.done(&what, "Still in use");
                    }
                    Err(error) => {
                        board.failed(&what, &error);
                        return Err(error);
                    }
                }
                Ok(())
            })
        });
        try_join_all(removals).await.map(drop)
    }

    async fn all_volumes(&self, client: &Client, name: &str, board: &Board) -> Result<()> {
        let listed: Value = client.ask(listed("/volumes", name)).await?;
        let volumes = listed["Volumes"].as_array().into_iter().flatten();
        let removals = volumes.filter_map(|volume| {
            let name = volume["Name"].as_str()?;
            let remove = client.tell(Call::delete(format!("/volumes/{}", segment(name))));
            let what = format!("Volume {name}");
            Some(async move { board.during(&what, ("Removing", "Removed"), remove).await })
        });
        try_join_all(removals).await.map(drop)
    }
}

fn listed(path: &str, project: &str) -> Call {
    let filters = json!({"label": [format!("{}={project}", labels::PROJECT)]});
    Call::get(path).query("filters", filters.to_string())
}
