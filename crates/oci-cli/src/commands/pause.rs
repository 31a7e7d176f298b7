use super::id;
use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::journal::Journal;
use crate::state::State;
use crate::store::{self, Entry};
use berth_executor::Container;

pub fn pause(global: &Global, _: &Journal, given: &Arguments) -> Result<u8> {
    let (_entry, _, container) = find(global, given)?;
    container.pause()?;
    Ok(0)
}

pub fn resume(global: &Global, _: &Journal, given: &Arguments) -> Result<u8> {
    let (_entry, _, container) = find(global, given)?;
    if !container.cgroup().is_frozen().unwrap_or(false) {
        return Err(Error::NotPaused);
    }
    container.resume()?;
    Ok(0)
}

/// The container, with its entry locked.
fn find(global: &Global, given: &Arguments) -> Result<(Entry, State, Container)> {
    let entry = Entry::find(&global.root, id(given))?;
    let state = entry.state()?;
    let container = store::load_alive(&state)?;
    Ok((entry, state, container))
}
