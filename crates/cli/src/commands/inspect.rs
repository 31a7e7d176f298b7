//! `inspect`, of whatever has that name.

use clap::Args;
use serde_json::Value;

use super::Outcome;
use crate::complain;
use crate::daemon::{Call, Client, segment};
use crate::error::{Error, Result};
use crate::output::print_inspected;

/// In the order in which a name is looked for.
const KINDS: [(&str, &str); 4] = [
    ("container", "/containers/{}/json"),
    ("image", "/images/{}/json"),
    ("network", "/networks/{}"),
    ("volume", "/volumes/{}"),
];

#[derive(Debug, Args)]
pub struct Inspect {
    /// json, or a template such as '{{.State.Status}}'
    #[arg(short, long)]
    format: Option<String>,
    /// Also the size of containers
    #[arg(short, long)]
    size: bool,
    /// container, image, network or volume
    #[arg(long = "type", value_parser = ["container", "image", "network", "volume"])]
    kind: Option<String>,
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Inspect {
    /// Things of one kind alone.
    pub fn of(mut self, kind: &str) -> Self {
        self.kind = Some(kind.to_owned());
        self
    }

    pub async fn run(self, client: &Client) -> Outcome {
        let mut found = Vec::new();
        let mut code = 0;
        for name in &self.names {
            match self.find(client, name).await {
                Ok(object) => found.push(object),
                Err(error @ Error::Unreachable { .. }) => return Err(error),
                Err(error) => {
                    complain(&error);
                    code = 1;
                }
            }
        }
        if !found.is_empty() || self.format.is_none() {
            print_inspected(&found, self.format.as_deref())?;
        }
        Ok(code)
    }

    async fn find(&self, client: &Client, name: &str) -> Result<Value> {
        let mut kinds = KINDS.iter();
        if let Some(kind) = &self.kind {
            let path = kinds.find(|(known, _)| known == kind);
            let (_, path) = path.ok_or_else(|| Error::usage("no such kind"))?;
            return self.get(client, path, name).await;
        }
        for (_, path) in kinds {
            match self.get(client, path, name).await {
                Err(error) if error.is_not_found() => {}
                other => return other,
            }
        }
        Err(Error::Failed(format!("No such object: {name}")))
    }

    async fn get(&self, client: &Client, path: &str, name: &str) -> Result<Value> {
        let call = Call::get(path.replace("{}", &segment(name))).flag("size", self.size);
        client.ask(call).await
    }
}
