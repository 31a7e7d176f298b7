use super::id;
use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::journal::Journal;
use crate::state::Status;
use crate::store::{self, Entry};
use berth_executor::open_start_gate;

pub fn run(global: &Global, journal: &Journal, given: &Arguments) -> Result<u8> {
    let entry = Entry::find(&global.root, id(given))?;
    let state = entry.state()?;
    let Some(connection) = entry.connect()? else {
        return Err(match store::status(&global.root, &state)? {
            Status::Stopped => Error::StartStopped,
            Status::Paused => Error::StartOther {
                status: Status::Paused.name(),
            },
            Status::Created | Status::Running => Error::StartRunning,
        });
    };
    let started = open_start_gate(&state.id, connection);
    entry.started()?;
    started?;
    for failure in state.container.run_poststart() {
        journal.warning(&failure.to_string());
    }
    Ok(0)
}
