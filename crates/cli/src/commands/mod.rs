//! What each command does. A command's outcome is the program's exit code.

pub mod attach;
pub mod build;
pub mod changes;
pub mod compose;
pub mod context;
pub mod copy;
pub mod events;
pub mod exec;
pub mod history;
pub mod images;
pub mod inspect;
pub mod lifecycle;
pub mod login;
pub mod logs;
pub mod network;
pub mod ps;
pub mod pull;
pub mod push;
pub mod run;
pub mod search;
pub mod shell;
pub mod stats;
pub mod system;
pub mod top;
pub mod transfer;
pub mod volume;

use crate::arguments::{Arguments, Command, Grouped};
use crate::complain;
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::output::{note, print_line};

/// An exit code, where nothing prevented the command.
pub type Outcome = Result<u8>;

pub async fn run(arguments: Arguments) -> Outcome {
    match arguments.command {
        // What needs no daemon.
        Command::Completion(command) => command.run(),
        Command::Man(command) => command.run(),
        Command::Context(command) => command.run(),
        Command::Logout(command) => command.run(),
        Command::DockerPlugins(command) => command.run(),
        Command::Compose(command) => command.run(|| arguments.place.endpoint()).await,
        command => {
            let client = Client::new(arguments.place.endpoint()?);
            ask(command, &client).await
        }
    }
}

async fn ask(command: Command, client: &Client) -> Outcome {
    let command = match command {
        Command::Container(command) => match command.alone() {
            Grouped::Prune(prune) => return prune.containers(client).await,
            Grouped::Alone(command) => command,
        },
        Command::Image(command) => match command.alone() {
            Grouped::Prune(prune) => return prune.images(client).await,
            Grouped::Alone(command) => command,
        },
        command => command,
    };
    match command {
        Command::Run(command) => command.run(client).await,
        Command::Create(command) => command.run(client).await,
        Command::Start(command) => command.run(client).await,
        Command::Stop(command) => command.run(client, "stop").await,
        Command::Restart(command) => command.run(client, "restart").await,
        Command::Kill(command) => command.run(client).await,
        Command::Pause(command) => command.change(client, "pause").await,
        Command::Unpause(command) => command.change(client, "unpause").await,
        Command::Rm(command) => command.run(client).await,
        Command::Ps(command) => command.run(client).await,
        Command::Logs(command) => command.run(client).await,
        Command::Exec(command) => command.run(client).await,
        Command::Attach(command) => command.run(client).await,
        Command::Inspect(command) => command.run(client).await,
        Command::Top(command) => command.run(client).await,
        Command::Stats(command) => command.run(client).await,
        Command::Wait(command) => command.wait(client).await,
        Command::Rename(command) => command.run(client).await,
        Command::Update(command) => command.run(client).await,
        Command::Port(command) => command.run(client).await,
        Command::Cp(command) => command.run(client).await,
        Command::Diff(command) => command.run(client).await,
        Command::Commit(command) => command.run(client).await,
        Command::Export(command) => command.run(client).await,
        Command::Build(command) => command.run(client).await,
        Command::Images(command) => command.run(client).await,
        Command::Pull(command) => command.run(client).await,
        Command::Push(command) => command.run(client).await,
        Command::Rmi(command) => command.run(client).await,
        Command::Tag(command) => command.run(client).await,
        Command::History(command) => command.run(client).await,
        Command::Save(command) => command.run(client).await,
        Command::Load(command) => command.run(client).await,
        Command::Import(command) => command.run(client).await,
        Command::Login(command) => command.run(client).await,
        Command::Search(command) => command.run(client).await,
        Command::Network(command) => command.run(client).await,
        Command::Volume(command) => command.run(client).await,
        Command::System(command) => command.run(client).await,
        Command::Events(command) => command.run(client).await,
        Command::Info(command) => command.run(client).await,
        Command::Version(command) => command.run(client).await,
        Command::DialStdio => shell::dial_stdio(client).await,
        // Both groups were taken apart, and the rest was done without a daemon.
        Command::Container(_)
        | Command::Image(_)
        | Command::Completion(_)
        | Command::Man(_)
        | Command::Context(_)
        | Command::Compose(_)
        | Command::DockerPlugins(_)
        | Command::Logout(_) => Ok(0),
    }
}

/// Does the same with each. What goes wrong with one does not keep it from the others.
async fn each(names: &[String], act: impl AsyncFn(&str) -> Result<()>) -> Outcome {
    let mut code = 0;
    for name in names {
        match act(name).await {
            Ok(()) => {}
            Err(error @ (Error::Unreachable { .. } | Error::Output(_))) => return Err(error),
            Err(error) => {
                complain(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}

/// The same without a daemon.
fn each_name(names: &[String], mut act: impl FnMut(&str) -> Result<()>) -> Outcome {
    let mut code = 0;
    for name in names {
        if let Err(error) = act(name) {
            complain(&error);
            code = 1;
        }
    }
    Ok(code)
}

/// Removes one thing and names it. With `force` one that is not there is no error.
async fn remove(client: &Client, call: Call, name: &str, force: bool) -> Result<()> {
    match client.tell(call).await {
        Err(error) if force && error.is_not_found() => {
            note(&format!("{name} was not there"));
            Ok(())
        }
        Err(error) => Err(error),
        Ok(()) => print_line(name),
    }
}

/// Asks before something that cannot be undone. Without a terminal nobody can answer.
pub fn confirm(warning: &str) -> Result<bool> {
    use std::io::Write;

    if !crate::terminal::is_terminal_input() {
        return Err(Error::usage(format!(
            "{warning}. Nobody is there to confirm it: use --force"
        )));
    }
    eprint!("{warning}. Go on? [y/N] ");
    let _unseen = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.map_err(|source| Error::Terminal("reading the answer", source))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
