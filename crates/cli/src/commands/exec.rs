//! `exec`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::Outcome;
use crate::complain;
use crate::daemon::{Call, Client, segment};
use crate::error::{Error, NOT_RUN, Result};
use crate::options::environment;
use crate::terminal::{
    DetachKeys, Ended, Raw, Resized, Session, chosen_keys, forward_nothing, is_terminal_input,
    is_terminal_output,
};

#[derive(Debug, Args)]
pub struct Exec {
    /// Run it in the background
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Let what is typed in
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// NAME=value, or NAME for this shell's value
    #[arg(short, long, value_name = "VARIABLE")]
    pub(super) env: Vec<String>,
    /// A file of variables, one a line
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Vec<PathBuf>,
    /// user[:group], by name or number
    #[arg(short, long)]
    pub(super) user: Option<String>,
    /// Directory in which it starts
    #[arg(short, long, value_name = "DIRECTORY")]
    pub(super) workdir: Option<String>,
    /// Everything that the host may do
    #[arg(long)]
    pub(super) privileged: bool,
    /// Keys that leave a terminal and let the command run [default: detachKeys of config.json, or ctrl-p,ctrl-q]
    #[arg(
        long,
        value_name = "KEYS",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) detach_keys: String,
    /// Container, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"], num_args = 2..)]
    pub(super) words: Vec<String>,
}

impl Exec {
    pub async fn run(mut self, client: &Client) -> Outcome {
        self.detach_keys = chosen_keys(&self.detach_keys)?;
        let keys = DetachKeys::parse(&self.detach_keys)?;
        if self.tty && self.interactive && !self.detach && !is_terminal_input() {
            return Err(Error::usage(
                "the input is no terminal: leave --tty out, or --interactive",
            ));
        }
        let id = self.create(client).await?;
        if self.detach {
            let call = Call::post(format!("/exec/{id}/start"));
            client
                .tell(call.json(&json!({"Detach": true, "Tty": self.tty})))
                .await?;
            return Ok(0);
        }
        match self.converse(client, &id, keys).await {
            Ok(Ended::Detached) => Ok(0),
            Ok(Ended::Output) => exit_code(client, &id).await,
            Err(error @ Error::Refused { .. }) => {
                complain(&error);
                Ok(error.code_of_start().max(1))
            }
            Err(error) => Err(error),
        }
    }

    async fn create(&self, client: &Client) -> Result<String> {
        let (container, command) = self
            .words
            .split_first()
            .ok_or_else(|| Error::usage("a container is missing"))?;
        let body = json!({
            "AttachStdin": self.interactive && !self.detach,
            "AttachStdout": !self.detach,
            "AttachStderr": !self.detach,
            "Tty": self.tty,
            "Cmd": command,
            "Env": environment(&self.env, &self.env_file)?,
            "User": self.user.as_deref().unwrap_or_default(),
            "WorkingDir": self.workdir.as_deref().unwrap_or_default(),
            "Privileged": self.privileged,
            "DetachKeys": self.detach_keys,
        });
        let call = Call::post(format!("/containers/{}/exec", segment(container)));
        let created: Value = client.ask(call.json(&body)).await?;
        Ok(created["Id"].as_str().unwrap_or_default().to_owned())
    }

    async fn converse(&self, client: &Client, id: &str, keys: DetachKeys) -> Result<Ended> {
        let call = Call::post(format!("/exec/{id}/start"));
        let call = call.json(&json!({"Detach": false, "Tty": self.tty}));
        let (connection, framed) = client.hijack(call).await?;
        let raw = match self.tty && self.interactive && is_terminal_input() {
            true => Some(Raw::enter()?),
            false => None,
        };
        forward_nothing()?;
        if self.tty && is_terminal_output() {
            Resized::command(client, id).follow().await?;
        }
        let session = Session {
            connection,
            framed,
            typed: self.interactive,
            keys: self.tty.then_some(keys),
        };
        let ended = session.converse().await;
        drop(raw);
        ended
    }
}

async fn exit_code(client: &Client, id: &str) -> Outcome {
    let ended = client.get(format!("/exec/{id}/json")).await?;
    let code = ended["ExitCode"].as_i64().unwrap_or(i64::from(NOT_RUN));
    Ok(u8::try_from(code & 0xff).unwrap_or(NOT_RUN))
}
