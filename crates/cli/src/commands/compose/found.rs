//! Containers of a project, as the daemon has them.

use serde_json::{Value, json};

use super::labels;
use crate::daemon::{Call, Client};
use crate::error::Result;

#[derive(Debug, Clone)]
pub struct Found {
    pub id: String,
    pub name: String,
    pub service: String,
    /// None of those that `run` made.
    pub number: usize,
    pub one_off: bool,
    pub state: String,
    /// As it was listed.
    pub value: Value,
}

impl Found {
    fn new(value: Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let label = |key: &str| value["Labels"][key].as_str().unwrap_or_default();
        let name = value["Names"][0].as_str().unwrap_or_default();
        Self {
            id: text("Id"),
            name: name.trim_start_matches('/').to_owned(),
            service: label(labels::SERVICE).to_owned(),
            number: label(labels::NUMBER).parse().unwrap_or(0),
            one_off: label(labels::ONE_OFF) == "True",
            state: text("State"),
            value,
        }
    }

    pub fn label(&self, key: &str) -> &str {
        self.value["Labels"][key].as_str().unwrap_or_default()
    }

    pub fn is_running(&self) -> bool {
        self.state == "running" || self.state == "restarting"
    }

    /// Services that this container's waits for, as was noted when it was made.
    pub fn depends_on(&self) -> Vec<&str> {
        let all = self.label(labels::DEPENDS_ON).split(',');
        all.filter_map(|one| one.split(':').next())
            .filter(|name| !name.is_empty())
            .collect()
    }
}

/// Every container of a project, one-off ones as well, by name.
pub async fn of_project(client: &Client, project: &str) -> Result<Vec<Found>> {
    let filters = json!({"label": [format!("{}={project}", labels::PROJECT)]});
    let call = Call::get("/containers/json")
        .flag("all", true)
        .query("filters", filters.to_string());
    let listed: Vec<Value> = client.ask(call).await?;
    let mut found: Vec<Found> = listed.into_iter().map(Found::new).collect();
    found.sort_by(|one, other| {
        (&one.service, one.number, &one.name).cmp(&(&other.service, other.number, &other.name))
    });
    Ok(found)
}

/// Those of these services; of all where none is named.
pub fn of_services(found: Vec<Found>, services: &[String]) -> Vec<Found> {
    let wanted = |one: &Found| services.is_empty() || services.contains(&one.service);
    found.into_iter().filter(wanted).collect()
}
