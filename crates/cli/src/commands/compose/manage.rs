//! Commands that change containers that are there, or images.

use clap::Args;

use super::board::Board;
use super::converge::seconds;
use super::found::Found;
use super::{Files, build, chosen, images, lifecycle, services};
use crate::build::Show;
use crate::commands::{Outcome, confirm};
use crate::daemon::Client;
use crate::error::Error;

#[derive(Debug, Args)]
pub struct Services {
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Start {
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Stop {
    /// Seconds until one that does not stop is killed
    #[arg(short, long, value_name = "SECONDS", allow_hyphen_values = true)]
    timeout: Option<i64>,
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Restart {
    /// Seconds until one that does not stop is killed
    #[arg(short, long, value_name = "SECONDS", allow_hyphen_values = true)]
    timeout: Option<i64>,
    /// Not those that asked to be restarted with them
    #[arg(long)]
    no_deps: bool,
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// Name or number
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Stop them first
    #[arg(short, long)]
    stop: bool,
    /// With their volumes that nobody named
    #[arg(short)]
    volumes: bool,
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Pull {
    /// Go on where one cannot be pulled
    #[arg(long)]
    ignore_pull_failures: bool,
    /// Tell nothing of it
    #[arg(short, long)]
    quiet: bool,
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Push {
    /// Tell nothing of it
    #[arg(short, long)]
    quiet: bool,
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Build {
    /// NAME=value for the build
    #[arg(long, value_name = "ARGUMENT")]
    build_arg: Vec<String>,
    /// Take nothing of earlier builds
    #[arg(long)]
    no_cache: bool,
    /// Ask registries for newer base images
    #[arg(long)]
    pull: bool,
    /// For RUN --mount=type=ssh: default, or NAME=SOCKET
    #[arg(long, value_name = "AGENT")]
    ssh: Vec<String>,
    /// How it is shown, on standard error
    #[arg(long, value_enum, value_name = "KIND", default_value = "auto")]
    progress: Show,
    /// What these services wait for, too
    #[arg(long)]
    with_dependencies: bool,
    /// Send the images to their registries afterwards
    #[arg(long)]
    push: bool,
    /// Tell nothing of it
    #[arg(short, long)]
    quiet: bool,
    services: Vec<String>,
}

async fn change(
    client: &Client,
    files: &Files,
    services: &[String],
    (action, words): (&str, (&str, &str)),
    wanted: impl Fn(&Found) -> bool,
) -> Outcome {
    let (_, _, mut containers) = chosen(client, files, services).await?;
    containers.retain(wanted);
    lifecycle::change(client, &Board::new(), &containers, action, words, &[]).await?;
    Ok(0)
}

impl Services {
    pub async fn pause(self, client: &Client, files: &Files) -> Outcome {
        let words = ("pause", ("Pausing", "Paused"));
        change(client, files, &self.services, words, Found::is_running).await
    }

    pub async fn unpause(self, client: &Client, files: &Files) -> Outcome {
        let words = ("unpause", ("Going on", "Goes on"));
        let is_paused = |one: &Found| one.state == "paused";
        change(client, files, &self.services, words, is_paused).await
    }
}

impl Start {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let (name, _, containers) = chosen(client, files, &self.services).await?;
        if containers.is_empty() {
            return Err(Error::Failed(format!(
                "{name} has no such containers; `berth compose up -d` makes them"
            )));
        }
        let words = ("start", ("Starting", "Started"));
        let rests = |one: &Found| !one.is_running() && one.state != "paused";
        change(client, files, &self.services, words, rests).await
    }
}

impl Stop {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let (_, project, containers) = chosen(client, files, &self.services).await?;
        let board = Board::new();
        let project = project.as_ref();
        lifecycle::stop_in_order(client, &board, project, &containers, self.timeout).await?;
        Ok(0)
    }
}

impl Restart {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let (_, project, mut containers) = chosen(client, files, &self.services).await?;
        if let Some(project) = project.filter(|_| !self.no_deps && !self.services.is_empty()) {
            let more: Vec<String> = project
                .services
                .values()
                .filter(|service| {
                    let on = service.dependencies();
                    on.iter()
                        .any(|on| on.restart && self.services.contains(&on.service))
                        && !self.services.contains(&service.name)
                })
                .map(|service| service.name.clone())
                .collect();
            if !more.is_empty() {
                containers.extend(chosen(client, files, &more).await?.2);
            }
        }
        let board = Board::new();
        let words = ("Restarting", "Started");
        let query = [("t", seconds(self.timeout))];
        lifecycle::change(client, &board, &containers, "restart", words, &query).await?;
        Ok(0)
    }
}

impl Kill {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let (_, _, mut containers) = chosen(client, files, &self.services).await?;
        containers.retain(Found::is_running);
        let query = [("signal", self.signal)];
        let words = ("Killing", "Killed");
        lifecycle::change(client, &Board::new(), &containers, "kill", words, &query).await?;
        Ok(0)
    }
}

impl Remove {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let (_, _, mut containers) = chosen(client, files, &self.services).await?;
        let board = Board::new();
        if self.stop {
            lifecycle::stop(client, &board, &containers, None).await?;
        } else {
            containers.retain(|one| !one.is_running() && one.state != "paused");
        }
        if containers.is_empty() {
            crate::output::note("Nothing to remove: only what has been stopped is");
            return Ok(0);
        }
        let names: Vec<&str> = containers.iter().map(|one| one.name.as_str()).collect();
        if !self.force && !confirm(&format!("This removes {}", names.join(", ")))? {
            return Ok(1);
        }
        for one in &containers {
            lifecycle::remove(client, &board, one, self.volumes).await?;
        }
        Ok(0)
    }
}

impl Pull {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let project = files.project()?;
        let all = services(&project, &self.services)?;
        let (name, ignore) = (&project.name, self.ignore_pull_failures);
        images::pull_all(client, &all, name, self.quiet, ignore).await?;
        Ok(0)
    }
}

impl Push {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let project = files.project()?;
        let all = services(&project, &self.services)?;
        images::push_all(client, &all, self.quiet).await?;
        Ok(0)
    }
}

impl Build {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let project = files.project()?;
        let options = build::Options {
            no_cache: self.no_cache,
            pull: self.pull,
            show: if self.quiet {
                Show::Quiet
            } else {
                self.progress
            },
            arguments: self.build_arg.clone(),
            agents: self.ssh.clone(),
        };
        let chosen = project.select(&self.services, self.with_dependencies)?;
        let all = services(&chosen, &[])?;
        let built: Vec<_> = all
            .into_iter()
            .filter(|service| service.has_build())
            .collect();
        if built.is_empty() {
            crate::output::note("Nothing to build: no service has a build");
        }
        let mut pushed = Vec::new();
        for service in built {
            match build::platforms(service)?.filter(|_| self.push) {
                Some(platforms) => {
                    build::push_several(client, &project, service, platforms, &options).await?;
                }
                None => {
                    build::build(client, &project, service, &options).await?;
                    pushed.push(service);
                }
            }
        }
        if self.push {
            images::push_all(client, &pushed, self.quiet).await?;
        }
        Ok::<_, Error>(0)
    }
}
