//! `compose`: projects of many containers, by files.

mod board;
mod body;
mod build;
mod config;
mod converge;
mod down;
mod files;
mod found;
mod images;
mod labels;
mod lifecycle;
mod listing;
mod logs;
mod manage;
mod once;
mod parts;
mod references;
mod talk;
mod up;
mod watch;

use std::path::PathBuf;

use berth_compose::{Options, Project, Service};
use clap::{Args, Subcommand};

use super::Outcome;
use crate::daemon::{Client, Endpoint};
use crate::error::{Error, Result};
use crate::output::note;
use found::Found;

/// Projects of many containers, by Compose files
#[derive(Debug, Args)]
#[command(after_help = "`berth compose COMMAND --help` tells more of a command.")]
pub struct Compose {
    #[command(flatten)]
    files: Files,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Files {
    /// A Compose file; later ones lie over earlier ones [default: compose.yaml here or above]
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// The project's name [default: that of the files or their directory]
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<String>,
    /// Where paths begin [default: the directory of the first file]
    #[arg(long, value_name = "DIRECTORY")]
    project_directory: Option<PathBuf>,
    /// A file of variables in place of .env
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Services of this profile, too
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
}

impl Files {
    fn options(&self) -> Result<Options> {
        let current = std::env::current_dir().map_err(Error::file("finding", "."))?;
        let text = |value: std::ffi::OsString| value.into_string().ok();
        Ok(Options {
            files: self.file.clone(),
            project_directory: self.project_directory.clone(),
            project_name: self.project_name.clone(),
            env_files: self.env_file.clone(),
            profiles: self.profile.clone(),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
                .collect(),
            current_directory: current,
            no_interpolation: false,
        })
    }

    fn project(&self) -> Result<Project> {
        let project = Project::load(&self.options()?)?;
        for warning in &project.warnings {
            note(&format!("berth: {warning}"));
        }
        Ok(project)
    }

    /// Files where there are some; else a name is enough for what is there already.
    fn name(&self) -> Result<(String, Option<Project>)> {
        let variable = || std::env::var("COMPOSE_PROJECT_NAME").ok();
        let name = self.project_name.clone().or_else(variable);
        match (self.project(), name) {
            (Ok(project), _) => Ok((project.name.clone(), Some(project))),
            (Err(Error::Compose(berth_compose::Error::NoFile)), Some(name)) => Ok((name, None)),
            (Err(error), _) => Err(error),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make and start what the files name, and change what differs
    Up(up::Up),
    /// Start what the files name, and keep containers as their files are, while those change
    Watch(watch::Watch),
    /// Make what the files name without starting it
    Create(up::Create),
    /// Stop and remove containers and networks
    Down(down::Down),
    /// List containers
    #[command(alias = "list")]
    Ps(listing::Ps),
    /// Show what containers have written
    Logs(logs::Logs),
    /// Run a command in a running container
    Exec(once::Exec),
    /// Run a command in a container of its own
    Run(once::Run),
    /// Start containers
    Start(manage::Start),
    /// Stop containers
    Stop(manage::Stop),
    /// Stop containers and start them again
    Restart(manage::Restart),
    /// Send a signal to containers
    Kill(manage::Kill),
    /// Stop every process where it is
    Pause(manage::Services),
    /// Let paused containers go on
    Unpause(manage::Services),
    /// Remove containers that do not run
    Rm(manage::Remove),
    /// Get images from their registries
    Pull(manage::Pull),
    /// Send images that were built to their registries
    Push(manage::Push),
    /// Build images
    Build(manage::Build),
    /// Show the project as one file, as it is understood
    #[command(alias = "convert")]
    Config(config::Config),
    /// Show what happens to containers, as it happens
    Events(talk::Events),
    /// Show processes
    Top(talk::Top),
    /// Copy files between a container and here
    Cp(talk::Copy),
    /// Wait until containers have ended
    Wait(talk::Wait),
    /// Show where a port is published
    Port(talk::Port),
    /// List the images of containers
    Images(listing::Images),
    /// List projects
    Ls(listing::Ls),
    /// Show this program's version
    Version(config::Version),
}

impl Compose {
    /// A daemon is looked for only by what needs one.
    pub async fn run(self, endpoint: impl FnOnce() -> Result<Endpoint>) -> Outcome {
        let files = &self.files;
        match self.command {
            Command::Config(command) => return command.run(files),
            Command::Version(command) => return command.run(),
            _ => {}
        }
        let client = &Client::new(endpoint()?);
        match self.command {
            Command::Up(command) => command.run(client, files).await,
            Command::Watch(command) => command.run(client, files).await,
            Command::Create(command) => command.run(client, files).await,
            Command::Down(command) => command.run(client, files).await,
            Command::Ps(command) => command.run(client, files).await,
            Command::Logs(command) => command.run(client, files).await,
            Command::Exec(command) => command.run(client, files).await,
            Command::Run(command) => command.run(client, files).await,
            Command::Start(command) => command.run(client, files).await,
            Command::Stop(command) => command.run(client, files).await,
            Command::Restart(command) => command.run(client, files).await,
            Command::Kill(command) => command.run(client, files).await,
            Command::Pause(command) => command.pause(client, files).await,
            Command::Unpause(command) => command.unpause(client, files).await,
            Command::Rm(command) => command.run(client, files).await,
            Command::Pull(command) => command.run(client, files).await,
            Command::Push(command) => command.run(client, files).await,
            Command::Build(command) => command.run(client, files).await,
            Command::Events(command) => command.run(client, files).await,
            Command::Top(command) => command.run(client, files).await,
            Command::Cp(command) => command.run(client, files).await,
            Command::Wait(command) => command.run(client, files).await,
            Command::Port(command) => command.run(client, files).await,
            Command::Images(command) => command.run(client, files).await,
            Command::Ls(command) => command.run(client).await,
            Command::Config(_) | Command::Version(_) => Ok(0),
        }
    }
}

/// The containers of some services, one-off ones left out. A service that is in no file and has no
/// container is an error.
async fn chosen(
    client: &Client,
    files: &Files,
    services: &[String],
) -> Result<(String, Option<Project>, Vec<Found>)> {
    let (name, project) = files.name()?;
    let mut containers = found::of_project(client, &name).await?;
    containers.retain(|one| !one.one_off);
    for service in services {
        let known = project.as_ref().is_some_and(|project| {
            project.services.contains_key(service) || project.disabled.contains_key(service)
        });
        if !known && !containers.iter().any(|one| one.service == *service) {
            let known: Vec<&str> = match &project {
                Some(project) => project.services.keys().map(String::as_str).collect(),
                None => containers.iter().map(|one| one.service.as_str()).collect(),
            };
            return Err(Error::usage(format!(
                "no service is called {service:?}; there are: {}",
                known.join(", ")
            )));
        }
    }
    Ok((name, project, found::of_services(containers, services)))
}

/// One running container of a service, by its number.
async fn one(client: &Client, files: &Files, service: &str, index: usize) -> Result<Found> {
    let services = [service.to_owned()];
    let (_, _, containers) = chosen(client, files, &services).await?;
    let found = match index {
        0 => containers
            .into_iter()
            .min_by_key(|one| (!one.is_running(), one.number)),
        index => containers.into_iter().find(|one| one.number == index),
    };
    found.ok_or_else(|| {
        let which = match index {
            0 => "no container".to_owned(),
            index => format!("no container number {index}"),
        };
        Error::Failed(format!(
            "{service} has {which}; `berth compose up -d {service}` makes it"
        ))
    })
}

/// Services by name, or all of them.
fn services<'a>(project: &'a Project, names: &[String]) -> Result<Vec<&'a Service>> {
    match names {
        [] => Ok(project.services.values().collect()),
        names => names
            .iter()
            .map(|name| Ok(project.service(name)?))
            .collect(),
    }
}
