//! `images`, `rmi` and `tag`.

use clap::Args;
use serde_json::{Value, json};

use super::ps::{created_at, cut};
use super::pull::parts;
use super::{Outcome, each};
use crate::daemon::{Call, Client, segment};
use crate::error::Result;
use crate::options::filters;
use crate::output::{Listing, ago, print_line, size};

const SHORT: usize = 12;

const COLUMNS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
];

#[derive(Debug, Args)]
pub struct Images {
    /// Also those that only others are made of
    #[arg(short, long)]
    all: bool,
    /// Also digests
    #[arg(long)]
    digests: bool,
    /// name=value, as in dangling=true, reference=crew/*
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template such as '{{.Repository}}:{{.Tag}}'
    #[arg(long)]
    format: Option<String>,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    /// Ids alone
    #[arg(short, long)]
    quiet: bool,
    /// Of this repository alone
    repository: Option<String>,
}

impl Images {
    pub async fn run(self, client: &Client) -> Outcome {
        let mut wanted = self.filter.clone();
        wanted.extend(
            self.repository
                .iter()
                .map(|name| format!("reference={name}")),
        );
        let call = Call::get("/images/json")
            .flag("all", self.all)
            .flag("digests", self.digests)
            .given("filters", filters(&wanted)?);
        let mut found: Vec<Value> = client.ask(call).await?;
        found.sort_by_key(|image| std::cmp::Reverse(image["Created"].as_i64()));
        let shown: &[&str] = match self.digests {
            true => &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"],
            false => &["Repository", "Tag", "ID", "CreatedSince", "Size"],
        };
        let mut listing = Listing::new(COLUMNS, shown, "ID");
        for image in &found {
            let rows = rows(image, self.digests, self.no_trunc);
            // One image, however many names it has.
            let count = if self.quiet { 1 } else { rows.len() };
            rows.into_iter()
                .take(count)
                .for_each(|row| listing.push(row));
        }
        listing.print(self.quiet, self.format.as_deref(), self.no_trunc)?;
        Ok(0)
    }
}

/// One for each name.
fn rows(image: &Value, digests: bool, no_trunc: bool) -> Vec<Value> {
    let texts = |key: &str| -> Vec<&str> {
        let items = image[key].as_array().into_iter().flatten();
        let texts = items.filter_map(Value::as_str);
        texts.filter(|text| !text.starts_with("<none>")).collect()
    };
    let (tags, by_digest) = (texts("RepoTags"), texts("RepoDigests"));
    let digest_of = |name: &str| {
        let mut known = by_digest.iter().filter_map(|text| text.split_once('@'));
        let found = known.find(|(repository, _)| *repository == name);
        found.map_or("<none>", |(_, digest)| digest)
    };
    let mut names: Vec<(&str, &str, &str)> = tags
        .iter()
        .map(|tag| {
            let (name, tag) = parts(tag);
            (name, tag, digest_of(name))
        })
        .collect();
    for (name, digest) in by_digest.iter().filter_map(|text| text.split_once('@')) {
        if !names.iter().any(|(known, ..)| *known == name) {
            names.push((name, "<none>", digest));
        }
    }
    // Several digests without tags say the same more than once.
    if !digests && tags.is_empty() {
        names.truncate(1);
    }
    if names.is_empty() {
        names.push(("<none>", "<none>", "<none>"));
    }
    let id = image["Id"].as_str().unwrap_or_default();
    let id = match no_trunc {
        true => id.to_owned(),
        false => cut(id.trim_start_matches("sha256:"), SHORT, false),
    };
    let created = image["Created"].as_i64().unwrap_or(0);
    let containers = image["Containers"].as_i64().filter(|count| *count >= 0);
    let row = |(name, tag, digest): (&str, &str, &str)| {
        json!({
            "Repository": name,
            "Tag": tag,
            "Digest": digest,
            "ID": id,
            "CreatedSince": ago(created),
            "CreatedAt": created_at(created),
            "Size": size(image["Size"].as_u64().unwrap_or(0)),
            "Containers": containers.map_or("N/A".to_owned(), |count| count.to_string()),
        })
    };
    names.into_iter().map(row).collect()
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Also with several names, or where a container that has ended uses it
    #[arg(short, long)]
    force: bool,
    /// Leave those that only it was made of
    #[arg(long)]
    no_prune: bool,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Remove {
    pub async fn run(self, client: &Client) -> Outcome {
        each(&self.images, async |name| {
            let call = Call::delete(format!("/images/{}", segment(name)))
                .flag("force", self.force)
                .flag("noprune", self.no_prune);
            match client.ask::<Vec<Value>>(call).await {
                Err(error) if self.force && error.is_not_found() => Ok(()),
                Err(error) => Err(error),
                Ok(removed) => print_removed(&removed),
            }
        })
        .await
    }
}

/// In Docker's words, which scripts read.
pub fn print_removed(removed: &[Value]) -> Result<()> {
    for one in removed {
        for kind in ["Untagged", "Deleted"] {
            if let Some(name) = one[kind].as_str() {
                print_line(&format!("{kind}: {name}"))?;
            }
        }
    }
    Ok(())
}

#[derive(Debug, Args)]
pub struct Tag {
    image: String,
    /// name[:tag]
    name: String,
}

impl Tag {
    pub async fn run(self, client: &Client) -> Outcome {
        let (repository, tag) = parts(&self.name);
        let call = Call::post(format!("/images/{}/tag", segment(&self.image)))
            .query("repo", repository)
            .query("tag", tag);
        client.tell(call).await.map(|()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_row_for_each_name() {
        let image = json!({
            "Id": "sha256:0123456789abcdef", "Created": 0, "Size": 4_430_000, "Containers": -1,
            "RepoTags": ["r:5000/a:1", "b:2"], "RepoDigests": ["r:5000/a@sha256:ff"],
        });
        let rows = rows(&image, true, false);
        let shown: Vec<String> = rows
            .iter()
            .map(|row| {
                format!(
                    "{} {} {} {}",
                    row["Repository"], row["Tag"], row["Digest"], row["ID"]
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                r#""r:5000/a" "1" "sha256:ff" "0123456789ab""#,
                r#""b" "2" "<none>" "0123456789ab""#
            ]
        );
        let nameless = json!({"Id": "sha256:01", "RepoTags": ["<none>:<none>"]});
        assert_eq!(
            super::rows(&nameless, false, true)[0]["Repository"],
            "<none>"
        );
        assert_eq!(super::rows(&nameless, false, true)[0]["ID"], "sha256:01");
    }
}
