//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    attach, build, changes, compose, context, copy, events, exec, history, images, inspect,
    lifecycle, login, logs, network, ps, pull, push, run, search, shell, stats, system, top,
    transfer, volume,
};
use crate::contexts::{Contexts, home};
use crate::daemon::{Endpoint, TlsFiles};
use crate::error::Result;
use crate::plugin::Plugins;

/// Containers, images, networks and volumes of a Berth daemon
#[derive(Debug, Parser)]
#[command(name = "berth", version, disable_help_subcommand = true)]
#[command(after_help = "`berth COMMAND --help` tells more of a command.")]
pub struct Arguments {
    #[command(flatten)]
    pub place: Place,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Place {
    /// The daemon: unix:///path, tcp://host:port or ssh://user@host [environment: BERTH_HOST]
    #[arg(short = 'H', long, value_name = "ADDRESS")]
    host: Option<String>,
    /// The daemon, by a name of `berth context` [environment: BERTH_CONTEXT]
    #[arg(short = 'c', long, value_name = "NAME", conflicts_with = "host")]
    context: Option<String>,
    /// Speak TLS, and believe certificates of --tlscacert alone
    #[arg(long, alias = "tls")]
    tlsverify: bool,
    /// Whom to trust [default: ~/.docker/ca.pem]
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// This client's certificate [default: ~/.docker/cert.pem]
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Its key [default: ~/.docker/key.pem]
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
}

impl Place {
    /// Flags, then the environment, then the context in use.
    pub fn endpoint(&self) -> Result<Endpoint> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(host) = &self.host {
            return Endpoint::parse(host, self.tls());
        }
        if let Some(name) = &self.context {
            return Contexts::open()?.get(name)?.endpoint();
        }
        if let Some(host) = variable("BERTH_HOST") {
            return Endpoint::parse(&host, self.tls());
        }
        let contexts = Contexts::open()?;
        match variable("BERTH_CONTEXT") {
            Some(name) => contexts.get(&name)?.endpoint(),
            None => contexts.get(contexts.current())?.endpoint(),
        }
    }

    fn tls(&self) -> Option<TlsFiles> {
        let asked = self.tlsverify || self.tlscacert.is_some() || self.tlscert.is_some();
        let file = |given: &Option<PathBuf>, name: &str| {
            let default = home().join(".docker").join(name);
            let default = default.exists().then_some(default);
            given.clone().or(default)
        };
        asked.then(|| TlsFiles {
            ca: file(&self.tlscacert, "ca.pem").unwrap_or_else(|| home().join(".docker/ca.pem")),
            certificate: file(&self.tlscert, "cert.pem"),
            key: file(&self.tlskey, "key.pem"),
        })
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a container of an image and run it
    Run(run::Run),
    /// Make a container without starting it
    Create(run::Create),
    /// Start containers
    Start(run::Start),
    /// Ask containers to end, and kill those that do not
    Stop(lifecycle::Stop),
    /// Stop containers and start them again
    Restart(lifecycle::Stop),
    /// Send a signal to containers
    Kill(lifecycle::Kill),
    /// Stop every process of containers where it is
    Pause(lifecycle::Names),
    /// Let paused containers go on
    Unpause(lifecycle::Names),
    /// Remove containers
    Rm(lifecycle::Remove),
    /// List containers
    Ps(ps::Ps),
    /// Show what containers have written
    Logs(logs::Logs),
    /// Run a command in a running container
    Exec(exec::Exec),
    /// Join a running container's input and output
    Attach(attach::Attach),
    /// Show everything about containers, images, networks or volumes
    Inspect(inspect::Inspect),
    /// Show a container's processes
    Top(top::Top),
    /// Show what containers use
    Stats(stats::Stats),
    /// Wait for containers to end, and show their exit codes
    Wait(lifecycle::Names),
    /// Give a container another name
    Rename(lifecycle::Rename),
    /// Change limits of containers
    Update(lifecycle::Update),
    /// Show a container's published ports
    Port(top::Port),
    /// Copy files between a container and here
    Cp(copy::Copy),
    /// Show what changed in a container's filesystem
    Diff(changes::Diff),
    /// Make an image of a container
    Commit(changes::Commit),
    /// Write a container's filesystem as a tar archive
    Export(transfer::Export),
    /// Make an image by a Dockerfile
    Build(build::Build),
    /// List images
    Images(images::Images),
    /// Get an image from its registry
    Pull(pull::Pull),
    /// Send an image to its registry
    Push(push::Push),
    /// Remove images
    Rmi(images::Remove),
    /// Give an image a further name
    Tag(images::Tag),
    /// Show how an image was made
    History(history::History),
    /// Write images as a tar archive
    Save(transfer::Save),
    /// Read images from a tar archive
    Load(transfer::Load),
    /// Make an image of a filesystem's tar archive
    Import(transfer::Import),
    /// Log in to a registry
    Login(login::LogIn),
    /// Log out of a registry
    Logout(login::LogOut),
    /// Look for images on Docker Hub
    Search(search::Search),
    /// Projects of many containers, by Compose files
    Compose(Box<compose::Compose>),
    /// Containers
    #[command(subcommand)]
    Container(Container),
    /// Images
    #[command(subcommand)]
    Image(Image),
    /// Networks
    #[command(subcommand)]
    Network(network::Network),
    /// Volumes
    #[command(subcommand)]
    Volume(volume::Volume),
    /// The daemon and what it keeps
    #[command(subcommand)]
    System(system::System),
    /// Show what happens, as it happens
    Events(events::Events),
    /// Show the daemon and its machine
    Info(system::Info),
    /// Show versions of this program and of the daemon
    Version(system::Version),
    /// Daemons by name
    #[command(subcommand)]
    Context(context::Context),
    /// This program as plugins of Docker's client
    #[command(subcommand)]
    DockerPlugins(Plugins),
    /// Write completions for a shell
    Completion(shell::Completion),
    /// Write manual pages to a directory
    Man(shell::Man),
    /// Join standard input and output with the daemon's socket, for a client elsewhere
    #[command(hide = true)]
    DialStdio,
}

/// The same commands, as scripts write them.
#[derive(Debug, Subcommand)]
pub enum Container {
    Run(run::Run),
    Create(run::Create),
    Start(run::Start),
    Stop(lifecycle::Stop),
    Restart(lifecycle::Stop),
    Kill(lifecycle::Kill),
    Pause(lifecycle::Names),
    Unpause(lifecycle::Names),
    Rm(lifecycle::Remove),
    #[command(alias = "list", alias = "ps")]
    Ls(ps::Ps),
    Logs(logs::Logs),
    Exec(exec::Exec),
    Attach(attach::Attach),
    Inspect(inspect::Inspect),
    Top(top::Top),
    Stats(stats::Stats),
    Wait(lifecycle::Names),
    Rename(lifecycle::Rename),
    Update(lifecycle::Update),
    Port(top::Port),
    Cp(copy::Copy),
    Diff(changes::Diff),
    Commit(changes::Commit),
    Export(transfer::Export),
    /// Remove every container that has ended
    Prune(system::Prune),
}

impl Container {
    /// What it is called without its group; the rest is told apart by its group.
    pub fn alone(self) -> Grouped<Command> {
        Grouped::Alone(match self {
            Self::Run(it) => Command::Run(it),
            Self::Create(it) => Command::Create(it),
            Self::Start(it) => Command::Start(it),
            Self::Stop(it) => Command::Stop(it),
            Self::Restart(it) => Command::Restart(it),
            Self::Kill(it) => Command::Kill(it),
            Self::Pause(it) => Command::Pause(it),
            Self::Unpause(it) => Command::Unpause(it),
            Self::Rm(it) => Command::Rm(it),
            Self::Ls(it) => Command::Ps(it),
            Self::Logs(it) => Command::Logs(it),
            Self::Exec(it) => Command::Exec(it),
            Self::Attach(it) => Command::Attach(it),
            Self::Inspect(it) => Command::Inspect(it.of("container")),
            Self::Top(it) => Command::Top(it),
            Self::Stats(it) => Command::Stats(it),
            Self::Wait(it) => Command::Wait(it),
            Self::Rename(it) => Command::Rename(it),
            Self::Update(it) => Command::Update(it),
            Self::Port(it) => Command::Port(it),
            Self::Cp(it) => Command::Cp(it),
            Self::Diff(it) => Command::Diff(it),
            Self::Commit(it) => Command::Commit(it),
            Self::Export(it) => Command::Export(it),
            Self::Prune(it) => return Grouped::Prune(it),
        })
    }
}

/// A command of a group: one that stands by itself, too, or the group's prune.
#[derive(Debug)]
pub enum Grouped<T> {
    Alone(T),
    Prune(system::Prune),
}

#[derive(Debug, Subcommand)]
pub enum Image {
    Build(Box<build::Build>),
    #[command(alias = "list")]
    Ls(images::Images),
    Pull(pull::Pull),
    Push(push::Push),
    #[command(alias = "remove")]
    Rm(images::Remove),
    Tag(images::Tag),
    Inspect(inspect::Inspect),
    History(history::History),
    Save(transfer::Save),
    Load(transfer::Load),
    Import(transfer::Import),
    /// Remove images without a name; with --all every one that no container uses
    Prune(system::Prune),
}

impl Image {
    pub fn alone(self) -> Grouped<Command> {
        Grouped::Alone(match self {
            Self::Build(it) => Command::Build(*it),
            Self::Ls(it) => Command::Images(it),
            Self::Pull(it) => Command::Pull(it),
            Self::Push(it) => Command::Push(it),
            Self::Rm(it) => Command::Rmi(it),
            Self::Tag(it) => Command::Tag(it),
            Self::Inspect(it) => Command::Inspect(it.of("image")),
            Self::History(it) => Command::History(it),
            Self::Save(it) => Command::Save(it),
            Self::Load(it) => Command::Load(it),
            Self::Import(it) => Command::Import(it),
            Self::Prune(it) => return Grouped::Prune(it),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_does_not_contradict_itself() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_follows_an_image_is_the_containers() {
        let line = ["berth", "run", "--rm", "-it", "image", "ls", "--all", "-it"];
        let parsed = Arguments::try_parse_from(line).unwrap();
        let Command::Run(run) = parsed.command else {
            panic!("{parsed:?}");
        };
        assert_eq!(run.words, ["image", "ls", "--all", "-it"]);
        assert!(run.options.rm && run.options.tty);
    }
}
