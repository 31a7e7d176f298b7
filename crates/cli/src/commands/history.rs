//! `history`.

use clap::Args;
use serde_json::{Value, json};

use super::Outcome;
use super::ps::{created_at, cut};
use crate::daemon::{Client, segment};
use crate::output::{Listing, ago, size};

const SHORT: usize = 12;
/// Characters of a step that are shown.
const STEP: usize = 45;

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

const SHOWN: &[&str] = &["ID", "CreatedSince", "CreatedBy", "Size", "Comment"];

#[derive(Debug, Args)]
pub struct History {
    /// table, json, or a template such as '{{.CreatedBy}}'
    #[arg(long)]
    format: Option<String>,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    /// Ids alone
    #[arg(short, long)]
    quiet: bool,
    image: String,
}

impl History {
    pub async fn run(self, client: &Client) -> Outcome {
        let path = format!("/images/{}/history", segment(&self.image));
        let found = client.get(path).await?;
        let mut listing = Listing::new(COLUMNS, SHOWN, "ID");
        for step in found.as_array().into_iter().flatten() {
            listing.push(row(step, self.no_trunc));
        }
        listing.print(self.quiet, self.format.as_deref(), self.no_trunc)?;
        Ok(0)
    }
}

fn row(step: &Value, no_trunc: bool) -> Value {
    let text = |key: &str| step[key].as_str().unwrap_or_default();
    let created = step["Created"].as_i64().unwrap_or(0);
    let by = text("CreatedBy").replace('\t', " ");
    let by = match no_trunc || by.chars().count() <= STEP {
        true => by,
        false => cut(&by, STEP - 1, false) + "…",
    };
    let id = text("Id");
    json!({
        "ID": if no_trunc { id.to_owned() } else { cut(id.trim_start_matches("sha256:"), SHORT, false) },
        "CreatedSince": ago(created),
        "CreatedAt": created_at(created),
        "CreatedBy": by,
        "Size": size(step["Size"].as_u64().unwrap_or(0)),
        "Comment": text("Comment"),
    })
}
