//! What changes containers that are there: stop, restart, kill, pause, remove, wait, rename,
//! update.

use clap::Args;
use serde_json::Value;

use super::run::exit_code;
use super::{Outcome, each, remove};
use crate::daemon::{Call, Client, segment};
use crate::error::{Error, Result};
use crate::options::{LimitOptions, restart_policy};
use crate::output::{note, print_line};

#[derive(Debug, Args)]
pub struct Names {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Stop {
    /// Seconds until it is killed; -1 for never
    #[arg(
        short,
        long,
        alias = "timeout",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    time: Option<i64>,
    /// Signal that asks it to end
    #[arg(short, long)]
    signal: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// By name or number
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Also those that run: they are killed. Those that are not there are no error
    #[arg(short, long)]
    force: bool,
    /// And the volumes that only it has and nobody named
    #[arg(short, long)]
    volumes: bool,
    /// Remove a link in place of a container
    #[arg(short, long)]
    link: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Rename {
    container: String,
    name: String,
}

#[derive(Debug, Args)]
pub struct Update {
    #[command(flatten)]
    limits: LimitOptions,
    /// no, on-failure[:times], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

fn path(name: &str, action: &str) -> String {
    format!("/containers/{}/{action}", segment(name))
}

impl Names {
    /// The API's action of that name.
    pub async fn change(self, client: &Client, action: &str) -> Outcome {
        each(&self.containers, async |name| {
            client.tell(Call::post(path(name, action))).await?;
            print_line(name)
        })
        .await
    }

    pub async fn wait(self, client: &Client) -> Outcome {
        each(&self.containers, async |name| {
            let answer = client.send(Call::post(path(name, "wait"))).await?;
            print_line(&exit_code(answer).await?.to_string())
        })
        .await
    }
}

impl Stop {
    pub async fn run(self, client: &Client, action: &str) -> Outcome {
        let seconds = self.time.map(|seconds| seconds.to_string());
        each(&self.containers, async |name| {
            let call = Call::post(path(name, action))
                .given("t", seconds.as_deref().unwrap_or_default())
                .given("signal", self.signal.as_deref().unwrap_or_default());
            client.tell(call).await?;
            print_line(name)
        })
        .await
    }
}

impl Kill {
    pub async fn run(self, client: &Client) -> Outcome {
        each(&self.containers, async |name| {
            let call = Call::post(path(name, "kill")).query("signal", &self.signal);
            client.tell(call).await?;
            print_line(name)
        })
        .await
    }
}

impl Remove {
    pub async fn run(self, client: &Client) -> Outcome {
        each(&self.containers, async |name| {
            let call = Call::delete(format!("/containers/{}", segment(name)))
                .flag("force", self.force)
                .flag("v", self.volumes)
                .flag("link", self.link);
            remove(client, call, name, self.force).await
        })
        .await
    }
}

impl Rename {
    pub async fn run(self, client: &Client) -> Outcome {
        let call = Call::post(path(&self.container, "rename")).query("name", &self.name);
        client.tell(call).await.map(|()| 0)
    }
}

impl Update {
    pub async fn run(self, client: &Client) -> Outcome {
        let body = self.body()?;
        each(&self.containers, async |name| {
            let call = Call::post(path(name, "update")).json(&body);
            let answer: Value = client.ask(call).await?;
            for warning in answer["Warnings"].as_array().into_iter().flatten() {
                note(&format!(
                    "WARNING: {}",
                    warning.as_str().unwrap_or_default()
                ));
            }
            print_line(name)
        })
        .await
    }

    fn body(&self) -> Result<Value> {
        let mut body = self.limits.fields()?;
        if let Some(policy) = &self.restart {
            body.insert("RestartPolicy".to_owned(), restart_policy(policy)?);
        }
        match body.is_empty() {
            true => Err(Error::usage(
                "nothing to change: name a limit, as in --memory 512m, or --restart",
            )),
            false => Ok(Value::Object(body)),
        }
    }
}
