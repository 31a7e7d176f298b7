//! `logs`.

use clap::Args;

use super::Outcome;
use crate::daemon::{Call, Client, segment};
use crate::options::moment;
use crate::terminal::show_answer;

#[derive(Debug, Args)]
pub struct Logs {
    /// Go on with what it writes from now
    #[arg(short, long)]
    follow: bool,
    /// From this moment: RFC 3339, seconds, or 10m
    #[arg(
        long,
        value_name = "TIME",
        default_value = "",
        hide_default_value = true
    )]
    since: String,
    /// Up to this moment
    #[arg(
        long,
        value_name = "TIME",
        default_value = "",
        hide_default_value = true
    )]
    until: String,
    /// So many lines of the end
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all")]
    tail: String,
    /// With the moment of each line
    #[arg(short, long)]
    timestamps: bool,
    container: String,
}

impl Logs {
    pub async fn run(self, client: &Client) -> Outcome {
        let call = Call::get(format!("/containers/{}/logs", segment(&self.container)))
            .flag("stdout", true)
            .flag("stderr", true)
            .flag("follow", self.follow)
            .flag("timestamps", self.timestamps)
            .given("since", moment(&self.since)?)
            .given("until", moment(&self.until)?)
            .query("tail", &self.tail);
        show_answer(client.send(call).await?).await?;
        Ok(0)
    }
}
