//! Commands beside a container's process, as clients name them: made first, started once, and
//! remembered for a while after their end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_lifecycle::{CommandControl, ExecRequest, Pipes, StdStreams};
use berth_names::ContainerId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::container::Container;
use crate::containers::Containers;
use crate::error::{Error, Result};
use crate::event::Event;

/// How long a command that has ended can be asked about.
const REMEMBERED: Duration = Duration::from_secs(300);

/// A command, as it is asked for and as it is.
#[derive(Debug, Clone, Default)]
pub struct Command {
    pub id: String,
    pub container: String,
    pub request: ExecRequest,
    pub privileged: bool,
    pub streams: StdStreams,
    pub detach_keys: String,
    pub started: bool,
    pub exit_code: Option<i32>,
}

impl Command {
    pub fn running(&self) -> bool {
        self.started && self.exit_code.is_none()
    }
}

/// Every command that can be asked about.
#[derive(Default)]
pub struct Commands {
    all: Mutex<HashMap<String, Command>>,
    controls: Mutex<HashMap<String, Arc<CommandControl>>>,
    /// Told whenever the exit code of one is known.
    ended: Notify,
}

impl Commands {
    pub fn get(&self, id: &str) -> Result<Command> {
        let found = self.all.lock().get(id).cloned();
        found.ok_or_else(|| Error::ExecNotFound(id.to_owned()))
    }

    /// Until its exit code can be asked for.
    pub async fn ended(&self, id: &str) {
        loop {
            let mut told = std::pin::pin!(self.ended.notified());
            told.as_mut().enable();
            if !self.get(id).is_ok_and(|command| command.running()) {
                return;
            }
            told.await;
        }
    }

    /// Those of one container that run.
    pub fn of(&self, container: &str) -> Vec<String> {
        let all = self.all.lock();
        let here = all
            .values()
            .filter(|one| one.container == container && one.running());
        here.map(|one| one.id.clone()).collect()
    }

    pub async fn resize(&self, id: &str, width: u16, height: u16) -> Result<()> {
        self.get(id)?;
        let control = self.controls.lock().get(id).cloned();
        let Some(control) = control else {
            return Err(Error::Conflict(format!("exec {id} is not running")));
        };
        Ok(control.resize(width, height).await?)
    }

    /// Those that nobody began, of a container whose run has ended: they can begin no more.
    pub(crate) fn forget_unstarted(&self, container: &ContainerId) {
        let mut all = self.all.lock();
        all.retain(|_, one| one.started || one.container != container.as_str());
    }

    fn change<T>(&self, id: &str, change: impl FnOnce(&mut Command) -> Result<T>) -> Result<T> {
        let mut all = self.all.lock();
        let command = all.get_mut(id);
        change(command.ok_or_else(|| Error::ExecNotFound(id.to_owned()))?)
    }
}

impl Containers {
    /// Notes a command for a container that runs.
    pub fn prepare(&self, container: &Container, mut command: Command) -> Result<String> {
        container.running()?;
        if command.request.command.is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        let id = new_id();
        command.id.clone_from(&id);
        command.container = container.view().id.to_string();
        let line = command.request.command.join(" ");
        self.commands.all.lock().insert(id.clone(), command);
        // Its end forgets what is noted by then: what comes after that goes here.
        if let Err(ended) = container.running() {
            self.commands.all.lock().remove(&id);
            return Err(ended);
        }
        self.tell_exec(container, format!("exec_create: {line}"), &id, None);
        Ok(id)
    }

    fn tell_exec(&self, container: &Container, action: String, exec: &str, code: Option<i32>) {
        let mut event = Event::of(&container.view(), action).with("execID", exec);
        if let Some(code) = code {
            event = event.with("exitCode", code);
        }
        self.tell_event(event);
    }

    /// Starts it, once. It goes on when the one who asked leaves.
    pub async fn begin(&self, id: &str) -> Result<(Pipes, Arc<CommandControl>)> {
        let commands = Arc::clone(&self.commands);
        let command = commands.change(id, |command| {
            if command.started {
                let text = format!("Error: Exec command {id} has already run");
                return Err(Error::Conflict(text));
            }
            command.started = true;
            Ok(command.clone())
        })?;
        let container = self.get(&command.container)?;
        let line = command.request.command.join(" ");
        self.tell_exec(&container, format!("exec_start: {line}"), id, None);
        let run = container.running()?;
        let begun = run.exec(command.request, command.streams).await;
        let (pipes, control) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                let code = match error.root() {
                    berth_lifecycle::Error::Program { exit_code, .. } => *exit_code,
                    _ => 126,
                };
                commands.change(id, |command| {
                    command.exit_code = Some(code);
                    Ok(())
                })?;
                return Err(error.into());
            }
        };
        let control = Arc::new(control);
        let mut controls = commands.controls.lock();
        controls.insert(id.to_owned(), Arc::clone(&control));
        drop(controls);
        tokio::spawn(see_to_the_end(
            self.clone(),
            container,
            id.to_owned(),
            Arc::clone(&control),
        ));
        Ok((pipes, control))
    }
}

/// As long as a container's id, so that nobody takes it for a short one.
pub(crate) fn new_id() -> String {
    (0..4)
        .map(|_| format!("{:016x}", fastrand::u64(..)))
        .collect()
}

async fn see_to_the_end(
    containers: Containers,
    container: Arc<Container>,
    id: String,
    control: Arc<CommandControl>,
) {
    let ended = control.ended().await;
    drop(control);
    let code = ended.map_or(137, |code| i32::try_from(code).unwrap_or(255));
    let commands = Arc::clone(&containers.commands);
    let _gone = commands.change(&id, |command| {
        command.exit_code = Some(code);
        Ok(())
    });
    commands.ended.notify_waiters();
    commands.controls.lock().remove(&id);
    containers.tell_exec(&container, "exec_die".to_owned(), &id, Some(code));
    tokio::time::sleep(REMEMBERED).await;
    commands.all.lock().remove(&id);
}
