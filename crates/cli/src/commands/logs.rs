//! `logs`.

use clap::Args;

use super::Outcome;
use crate::daemon::{Call, Client, segment};
use crate::options::Window;
use crate::terminal::show_answer;

#[derive(Debug, Args)]
pub struct Logs {
    /// Go on with what it writes from now
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    window: Window,
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
        let call = Call::get(format!("/containers/{}/logs", segment(&self.container)));
        let call = self
            .window
            .on(call)?
            .flag("stdout", true)
            .flag("stderr", true)
            .flag("follow", self.follow)
            .flag("timestamps", self.timestamps)
            .query("tail", &self.tail);
        show_answer(client.send(call).await?).await?;
        Ok(0)
    }
}
