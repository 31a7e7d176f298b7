use super::id;
use crate::arguments::{Arguments, Flag, switch};
use crate::error::{Error, Result};
use crate::global::Global;
use crate::journal::Journal;
use crate::state::{State, Status};
use crate::store::{self, Entry};
use berth_executor::Found;

pub const FLAGS: &[Flag] = &[switch(
    "force",
    "f",
    "forcibly delete the container if it is still running (uses SIGKILL)",
)];

pub fn run(global: &Global, _: &Journal, given: &Arguments) -> Result<u8> {
    let force = given.is_on("force");
    let entry = match Entry::find(&global.root, id(given)) {
        Err(Error::NotExist) if force => return Ok(0),
        found => found?,
    };
    let state = match entry.state() {
        Err(Error::NotExist) => {
            // A create that broke off.
            entry.remove()?;
            return if force { Ok(0) } else { Err(Error::NotExist) };
        }
        state => state?,
    };
    end_or_refuse(global, &state, force)?;
    entry.remove()?;
    Ok(0)
}

/// Ends what is left of a container, also by force.
pub fn end(state: &State) -> Result<()> {
    match store::load(state)? {
        Found::Ended(remains) => Ok(remains.remove()?),
        Found::Alive(mut container) => Ok(container.delete(true)?),
    }
}

/// A container that was never started is deleted without force, as no program
/// of its own is running.
fn end_or_refuse(global: &Global, state: &State, force: bool) -> Result<()> {
    let mut container = match store::load(state)? {
        Found::Ended(remains) => return Ok(remains.remove()?),
        Found::Alive(container) => container,
    };
    let frozen = container.cgroup().is_frozen().unwrap_or(false);
    if !force && (frozen || !store::waits_at_gate(&global.root, state)) {
        let status = if frozen {
            Status::Paused
        } else {
            Status::Running
        };
        return Err(Error::DeleteRunning {
            id: state.id.clone(),
            status: status.name(),
        });
    }
    if frozen {
        // On v1 a frozen process does not die.
        container.resume()?;
    }
    Ok(container.delete(true)?)
}
