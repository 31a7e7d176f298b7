//! `attach`.

use clap::Args;
use serde_json::Value;

use super::Outcome;
use super::run::{Watching, exit_code};
use crate::daemon::{Call, Client, segment};
use crate::error::{Error, Result};
use crate::terminal::{
    DetachKeys, Ended, Raw, Resized, Session, forward, is_terminal_input, is_terminal_output,
};

#[derive(Debug, Args)]
pub struct Attach {
    /// Let nothing that is typed in
    #[arg(long)]
    no_stdin: bool,
    #[command(flatten)]
    watching: Watching,
    container: String,
}

impl Attach {
    pub async fn run(mut self, client: &Client) -> Outcome {
        let found = client
            .get(format!("/containers/{}/json", segment(&self.container)))
            .await?;
        check(&self.container, &found)?;
        let id = found["Id"].as_str().unwrap_or_default();
        let flag = |pointer: &str| found.pointer(pointer).and_then(Value::as_bool) == Some(true);
        let tty = flag("/Config/Tty");
        let typed = flag("/Config/OpenStdin") && !self.no_stdin;
        self.watching.choose_keys()?;
        let keys = DetachKeys::parse(&self.watching.detach_keys)?;
        let wait = client
            .send(Call::post(format!("/containers/{id}/wait")))
            .await?;
        let call = Call::post(format!("/containers/{id}/attach"))
            .query("stream", "1")
            .flag("stdin", typed)
            .flag("stdout", true)
            .flag("stderr", true)
            .given("detachKeys", &self.watching.detach_keys);
        let (connection, framed) = client.hijack(call).await?;
        let raw = match tty && typed && is_terminal_input() {
            true => Some(Raw::enter()?),
            false => None,
        };
        // A terminal sends its own keys.
        forward(
            client.clone(),
            id.to_owned(),
            self.watching.sig_proxy && !tty,
        )?;
        if tty && is_terminal_output() {
            Resized::container(client, id).follow().await?;
        }
        let session = Session {
            connection,
            framed,
            typed,
            keys: tty.then_some(keys),
        };
        let ended = session.converse().await;
        drop(raw);
        match ended? {
            Ended::Detached => Ok(0),
            Ended::Output => exit_code(wait).await,
        }
    }
}

fn check(name: &str, found: &Value) -> Result<()> {
    let state = |key: &str| found["State"][key].as_bool() == Some(true);
    if !state("Running") {
        return Err(Error::Failed(format!("container {name} is not running")));
    }
    if state("Paused") {
        return Err(Error::Failed(format!("container {name} is paused")));
    }
    Ok(())
}
