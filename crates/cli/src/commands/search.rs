//! `search`.

use clap::Args;
use serde_json::{Value, json};

use super::Outcome;
use super::ps::cut;
use super::pull::AUTH;
use crate::daemon::{Call, Client};
use crate::logins::{HUB, Logins};
use crate::options::filters;
use crate::output::Listing;

/// Characters of a description that are shown.
const DESCRIPTION: usize = 45;

const COLUMNS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
];

#[derive(Debug, Args)]
pub struct Search {
    /// name=value, as in is-official=true, stars=3
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template such as '{{.Name}}'
    #[arg(long)]
    format: Option<String>,
    /// So many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 25)]
    limit: u32,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    term: String,
}

impl Search {
    pub async fn run(self, client: &Client) -> Outcome {
        let login = Logins::open()?.get(HUB)?;
        let mut call = Call::get("/images/search")
            .query("term", &self.term)
            .query("limit", self.limit.to_string())
            .given("filters", filters(&self.filter)?);
        if let Some(login) = login {
            call = call.header(AUTH, login.header(HUB));
        }
        let found: Vec<Value> = client.ask(call).await?;
        let shown: Vec<&str> = COLUMNS.iter().map(|(field, _)| *field).collect();
        let mut listing = Listing::new(COLUMNS, &shown, "Name");
        for image in &found {
            let text = |key: &str| image[key].as_str().unwrap_or_default();
            let description = text("description").replace(['\n', '\r'], " ");
            let cuts = description.chars().count() > DESCRIPTION && !self.no_trunc;
            listing.push(json!({
                "Name": text("name"),
                "Description": match cuts {
                    true => cut(&description, DESCRIPTION - 1, false) + "…",
                    false => description,
                },
                "StarCount": image["star_count"].as_u64().unwrap_or(0).to_string(),
                "IsOfficial": match image["is_official"].as_bool() {
                    Some(true) => "[OK]",
                    _ => "",
                },
            }));
        }
        listing.print(false, self.format.as_deref(), self.no_trunc)?;
        Ok(0)
    }
}
