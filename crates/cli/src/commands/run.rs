//! `run`, `create` and `start`.

use clap::Args;
use serde_json::Value;

use super::{Outcome, each, pull};
use crate::complain;
use crate::daemon::{Answer, Call, Client, segment};
use crate::error::{Error, NOT_RUN, Result};
use crate::options::{Attached, CreateOptions};
use crate::output::{note, print_line};
use crate::terminal::{
    DetachKeys, Ended, Raw, Resized, Session, chosen_keys, forward, is_terminal_input,
    is_terminal_output,
};

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Run {
    #[command(flatten)]
    pub options: CreateOptions,
    /// Run it in the background and show its id
    #[arg(short, long)]
    detach: bool,
    /// stdin, stdout or stderr, in place of all that apply
    #[arg(short, long, value_name = "STREAM", value_parser = ["stdin", "stdout", "stderr"], ignore_case = true)]
    attach: Vec<String>,
    #[command(flatten)]
    watching: Watching,
    /// Image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"], num_args = 1..)]
    pub words: Vec<String>,
    /// Show this
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// What counts while somebody looks on.
#[derive(Debug, Clone, Args)]
pub struct Watching {
    /// Keys that leave a terminal and let the container run [default: detachKeys of config.json, or ctrl-p,ctrl-q]
    #[arg(
        long,
        value_name = "KEYS",
        default_value = "",
        hide_default_value = true
    )]
    pub detach_keys: String,
    /// Whether signals to this program go to the container
    #[arg(long, value_name = "BOOL", default_value = "true", default_missing_value = "true",
        num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub sig_proxy: bool,
}

impl Watching {
    /// Sets those that people chose once, where none are given.
    pub fn choose_keys(&mut self) -> Result<()> {
        self.detach_keys = chosen_keys(&self.detach_keys)?;
        Ok(())
    }
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Create {
    #[command(flatten)]
    options: CreateOptions,
    /// Image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"], num_args = 1..)]
    words: Vec<String>,
    /// Show this
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Args)]
pub struct Start {
    /// Show its output, and end with its exit code
    #[arg(short, long)]
    attach: bool,
    /// Let what is typed in
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    watching: Watching,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Create {
    pub async fn run(self, client: &Client) -> Outcome {
        let (image, command) = split(&self.words)?;
        let attached = Attached {
            stdin: self.options.interactive,
            stdout: true,
            stderr: true,
        };
        let id = create(client, &self.options, image, command, attached).await?;
        print_line(&id)?;
        Ok(0)
    }
}

fn split(words: &[String]) -> Result<(&str, &[String])> {
    let (image, command) = words
        .split_first()
        .ok_or_else(|| Error::usage("an image is missing"))?;
    Ok((image, command))
}

/// Pulls the image where that is wanted, and answers with the container's id.
async fn create(
    client: &Client,
    options: &CreateOptions,
    image: &str,
    command: &[String],
    attached: Attached,
) -> Result<String> {
    // Before anything is made: a file that is there belongs to another container.
    if let Some(file) = &options.cidfile
        && file.exists()
    {
        return Err(Error::usage(format!(
            "{file:?} is there already: remove it, or name another with --cidfile"
        )));
    }
    let body = options.body(image, command, attached)?;
    let platform = options.platform.as_deref().unwrap_or_default();
    if options.pull == "always" {
        pull::for_run(client, image, platform, options.quiet).await?;
    }
    let post = || {
        let call = Call::post("/containers/create")
            .given("name", options.name.as_deref().unwrap_or_default())
            .given("platform", platform);
        client.ask::<Value>(call.json(&body))
    };
    let created = match post().await {
        Err(error) if error.is_missing_image() && options.pull == "missing" => {
            if !options.quiet {
                note(&format!("Unable to find image '{image}' locally"));
            }
            pull::for_run(client, image, platform, options.quiet).await?;
            post().await?
        }
        created => created?,
    };
    for warning in created["Warnings"].as_array().into_iter().flatten() {
        note(&format!(
            "WARNING: {}",
            warning.as_str().unwrap_or_default()
        ));
    }
    let id = created["Id"].as_str().unwrap_or_default().to_owned();
    if let Some(file) = &options.cidfile {
        std::fs::write(file, &id).map_err(Error::file("writing", file))?;
    }
    Ok(id)
}

impl Run {
    /// Whatever keeps the container from running has an exit code of its own.
    pub async fn run(self, client: &Client) -> Outcome {
        match self.try_run(client).await {
            Err(error) if error.is_broken_pipe() => Ok(0),
            Err(error) => {
                crate::terminal::restore();
                complain(&error);
                Ok(error.code_of_start())
            }
            outcome => outcome,
        }
    }

    async fn try_run(mut self, client: &Client) -> Outcome {
        let (image, command) = split(&self.words)?;
        let attached = self.attached();
        let options = &self.options;
        if options.tty && attached.stdin && options.interactive && !is_terminal_input() {
            return Err(Error::usage(
                "the input is no terminal: leave --tty out, or --interactive",
            ));
        }
        if self.detach {
            let id = create(client, options, image, command, attached).await?;
            let started = client
                .tell(Call::post(format!("/containers/{id}/start")))
                .await;
            remove_unstarted(client, &id, options.rm, &started).await;
            started?;
            print_line(&id)?;
            return Ok(0);
        }
        self.watching.choose_keys()?;
        let keys = DetachKeys::parse(&self.watching.detach_keys)?;
        let id = create(client, options, image, command, attached).await?;
        let watched = Watched {
            client,
            id: &id,
            tty: options.tty,
            attached,
            keys,
            watching: &self.watching,
        };
        let condition = if options.rm { "removed" } else { "next-exit" };
        let outcome = watched.start(condition).await;
        remove_unstarted(client, &id, options.rm, &outcome).await;
        outcome
    }

    fn attached(&self) -> Attached {
        if self.detach {
            return Attached {
                stdin: false,
                stdout: false,
                stderr: false,
            };
        }
        let named = |name: &str| self.attach.iter().any(|one| one.eq_ignore_ascii_case(name));
        match self.attach.is_empty() {
            true => Attached {
                stdin: self.options.interactive,
                stdout: true,
                stderr: true,
            },
            false => Attached {
                stdin: named("stdin"),
                stdout: named("stdout"),
                stderr: named("stderr"),
            },
        }
    }
}

/// One that never ran is not removed by its end.
async fn remove_unstarted<T>(client: &Client, id: &str, rm: bool, outcome: &Result<T>) {
    if rm && outcome.is_err() {
        let remove = Call::delete(format!("/containers/{id}")).flag("v", true);
        let _gone = client.tell(remove).await;
    }
}

/// A container that is started and looked at.
struct Watched<'a> {
    client: &'a Client,
    id: &'a str,
    tty: bool,
    attached: Attached,
    keys: DetachKeys,
    watching: &'a Watching,
}

impl Watched<'_> {
    /// Attaches, waits, starts, in this order: nothing that it writes is missed, nor its end.
    async fn start(self, condition: &str) -> Outcome {
        let Self { client, id, .. } = self;
        let (connection, framed) = client.hijack(self.attach()).await?;
        let wait = Call::post(format!("/containers/{id}/wait")).query("condition", condition);
        let wait = client.send(wait).await?;
        // Before the start, which may fail and must then leave the terminal as it is.
        let raw = match self.tty && self.attached.stdin && is_terminal_input() {
            true => Some(Raw::enter()?),
            false => None,
        };
        client
            .tell(Call::post(format!("/containers/{id}/start")))
            .await?;
        forward(client.clone(), id.to_owned(), self.watching.sig_proxy)?;
        if self.tty && is_terminal_output() {
            Resized::container(client, id).follow().await?;
        }
        let session = Session {
            connection,
            framed,
            typed: self.attached.stdin,
            keys: self.tty.then_some(self.keys),
        };
        let ended = session.converse().await;
        drop(raw);
        match ended? {
            Ended::Detached => Ok(0),
            Ended::Output => exit_code(wait).await,
        }
    }

    fn attach(&self) -> Call {
        Call::post(format!("/containers/{}/attach", self.id))
            .query("stream", "1")
            .flag("stdin", self.attached.stdin)
            .flag("stdout", self.attached.stdout)
            .flag("stderr", self.attached.stderr)
            .given("detachKeys", &self.watching.detach_keys)
    }
}

/// Starts a container that is there, and stays with it until it ends.
pub async fn watch(client: &Client, id: &str, tty: bool, stdin: bool, removed: bool) -> Outcome {
    let mut watching = Watching {
        sig_proxy: true,
        detach_keys: String::new(),
    };
    watching.choose_keys()?;
    let watched = Watched {
        client,
        id,
        tty,
        attached: Attached {
            stdin,
            stdout: true,
            stderr: true,
        },
        keys: DetachKeys::parse(&watching.detach_keys)?,
        watching: &watching,
    };
    let condition = if removed { "removed" } else { "next-exit" };
    watched.start(condition).await
}

/// Of an answer to `wait`.
pub async fn exit_code(answer: Answer) -> Outcome {
    let ended: Value = answer.json().await?;
    if let Some(message) = ended.pointer("/Error/Message").and_then(Value::as_str) {
        return Err(Error::Failed(message.to_owned()));
    }
    let code = ended["StatusCode"].as_i64().unwrap_or(i64::from(NOT_RUN));
    Ok(u8::try_from(code & 0xff).unwrap_or(NOT_RUN))
}

impl Start {
    pub async fn run(mut self, client: &Client) -> Outcome {
        if !self.attach && !self.interactive {
            return each(&self.containers, async |name| {
                let path = format!("/containers/{}/start", segment(name));
                client.tell(Call::post(path)).await?;
                print_line(name)
            })
            .await;
        }
        let [name] = self.containers.as_slice() else {
            return Err(Error::usage(
                "only one container can be attached to at a time",
            ));
        };
        self.watching.choose_keys()?;
        let found = client
            .get(format!("/containers/{}/json", segment(name)))
            .await?;
        let id = found["Id"].as_str().unwrap_or_default();
        let flag = |pointer: &str| found.pointer(pointer).and_then(Value::as_bool) == Some(true);
        let watched = Watched {
            client,
            id,
            tty: flag("/Config/Tty"),
            attached: Attached {
                stdin: self.interactive && flag("/Config/OpenStdin"),
                stdout: true,
                stderr: true,
            },
            keys: DetachKeys::parse(&self.watching.detach_keys)?,
            watching: &self.watching,
        };
        let condition = match flag("/HostConfig/AutoRemove") {
            true => "removed",
            false => "next-exit",
        };
        match watched.start(condition).await {
            Err(error @ Error::Refused { .. }) => {
                complain(&error);
                Ok(error.code_of_start())
            }
            outcome => outcome,
        }
    }
}
