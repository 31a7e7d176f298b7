//! `diff` and `commit`.

use clap::Args;
use serde_json::{Value, json};

use super::Outcome;
use super::pull::parts;
use crate::daemon::{Call, Client, segment};
use crate::output::{Colour, Style, print_line};

#[derive(Debug, Args)]
pub struct Diff {
    container: String,
}

impl Diff {
    pub async fn run(self, client: &Client) -> Outcome {
        let path = format!("/containers/{}/changes", segment(&self.container));
        let found = client.get(path).await?;
        let style = Style::of_stdout();
        for change in found.as_array().into_iter().flatten() {
            let (kind, colour) = match change["Kind"].as_i64() {
                Some(0) => ("C", Colour::Yellow),
                Some(1) => ("A", Colour::Green),
                _ => ("D", Colour::Red),
            };
            let path = change["Path"].as_str().unwrap_or_default();
            print_line(&format!("{} {path}", style.paint(Some(colour), kind)))?;
        }
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub struct Commit {
    /// Who made it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    author: String,
    /// An instruction of a Dockerfile for its configuration, as in 'CMD ["sh"]'
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What the history says of it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Whether the container waits meanwhile
    #[arg(short, long, default_value = "true", default_missing_value = "true",
        num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pause: bool,
    container: String,
    /// name[:tag]
    image: Option<String>,
}

impl Commit {
    pub async fn run(self, client: &Client) -> Outcome {
        let (name, tag) = self.image.as_deref().map(parts).unwrap_or_default();
        let mut call = Call::post("/commit")
            .query("container", &self.container)
            .given("repo", name)
            .given("tag", tag)
            .given("author", &self.author)
            .given("comment", &self.message)
            .query("pause", if self.pause { "1" } else { "0" });
        for change in &self.change {
            call = call.query("changes", change);
        }
        let made: Value = client.ask(call.json(&json!({}))).await?;
        print_line(made["Id"].as_str().unwrap_or_default())?;
        Ok(0)
    }
}
