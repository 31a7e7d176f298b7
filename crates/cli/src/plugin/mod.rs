//! This program as plugins of Docker's client, which finds them by their names: `docker-buildx`
//! and `docker-compose`.
//!
//! ```text
//! docker build . ─► docker-buildx [flags of docker] buildx build . ─► what berth build does
//! ```

mod buildx;
mod install;
mod leave;
mod place;

use std::ffi::OsString;
use std::path::Path;

use clap::{Parser, Subcommand};
use serde_json::json;

use crate::commands::{Outcome, compose};
use crate::daemon::Client;
use crate::output::print_line;

pub use install::Plugins;

/// Docker's client sets it for the plugins that it runs.
const RUN_BY: &str = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND";
const METADATA: &str = "docker-cli-plugin-metadata";

/// Names of programs, the commands that they bring, and the versions that those are measured by:
/// what is asked of a plugin depends on it.
const NAMES: &[(&str, &str, &str)] = &[
    ("docker-buildx", "buildx", "v0.17.0-berth"),
    ("docker-compose", "compose", "v2.40.0-berth"),
];

#[derive(Debug, Parser)]
#[command(name = "docker", bin_name = "docker", disable_help_subcommand = true)]
pub struct Arguments {
    #[command(flatten)]
    place: place::Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(name = METADATA, hide = true)]
    Metadata,
    /// Builds by the daemon's own builder
    Buildx(Box<buildx::Buildx>),
    /// Projects of many containers, by Compose files
    Compose(Box<compose::Compose>),
}

/// The words of the command line, if this program is called as a plugin. Without Docker's client
/// before it, the command that it brings is what it is called by.
pub fn words(mut words: Vec<OsString>) -> Option<Vec<OsString>> {
    let (_, command, _) = named(words.first()?)?;
    let is_metadata = words.get(1).is_some_and(|word| word == METADATA);
    if !is_metadata && std::env::var_os(RUN_BY).is_none() {
        words.insert(1, command.into());
    }
    Some(words)
}

fn named(program: &OsString) -> Option<(&'static str, &'static str, &'static str)> {
    let name = Path::new(program).file_name()?;
    NAMES.iter().copied().find(|(known, ..)| name == *known)
}

impl Arguments {
    pub async fn run(self) -> Outcome {
        let place = self.place;
        place.settle();
        let command = async {
            match self.command {
                Command::Metadata => metadata(),
                Command::Buildx(command) => {
                    let (name, endpoint) = place.endpoint()?;
                    command.run(&Client::new(endpoint), &name).await
                }
                Command::Compose(command) => command.run(|| Ok(place.endpoint()?.1)).await,
            }
        };
        tokio::select! {
            outcome = command => outcome,
            () = leave::left() => Ok(1),
        }
    }
}

fn metadata() -> Outcome {
    let program = std::env::args_os().next().unwrap_or_default();
    let (_, command, version) = named(&program).unwrap_or(NAMES[0]);
    let told = match command {
        "compose" => "Projects of many containers, by Compose files (Berth)",
        _ => "Builds by the daemon's own builder (Berth)",
    };
    let metadata = json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "Berth",
        "Version": version,
        "ShortDescription": told,
    });
    print_line(&metadata.to_string())?;
    Ok(0)
}

/// By which a plugin of this program is told from others.
fn version(command: &str) -> &'static str {
    let mut known = NAMES.iter();
    let found = known.find(|(_, name, _)| *name == command);
    found.map_or("", |(.., version)| *version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn all(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_command_line_does_not_contradict_itself() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_plugin_is_known_by_its_name() {
        assert_eq!(words(all(&["/bin/berth", "build"])), None);
        assert_eq!(words(Vec::new()), None);
        let told = words(all(&["/x/docker-buildx", METADATA])).unwrap();
        assert_eq!(told, all(&["/x/docker-buildx", METADATA]));
        let alone = words(all(&["docker-compose", "up"])).unwrap();
        assert_eq!(alone, all(&["docker-compose", "compose", "up"]));
    }

    #[test]
    fn docker_s_own_flags_stand_before_the_command() {
        let line = [
            "docker-buildx",
            "--config",
            "/c",
            "-H",
            "unix:///d",
            "--tlsverify",
            "buildx",
            "build",
            "--load",
            "--builder",
            "default",
            "-t",
            "a:1",
            "--secret",
            "id=a,src=/f",
            ".",
        ];
        let parsed = Arguments::try_parse_from(line).unwrap();
        assert!(matches!(parsed.command, Command::Buildx(_)), "{parsed:?}");
    }
}
