use super::id;
use crate::arguments::{Arguments, Flag, switch};
use crate::error::{Error, Result};
use crate::global::Global;
use crate::journal::Journal;
use crate::signal::{self, SIGKILL, SIGTERM};
use crate::store;

/// Without a help text, because it does nothing that kill does not do anyway;
/// old callers still pass it.
pub const FLAGS: &[Flag] = &[switch("all", "a", "")];

pub fn run(global: &Global, _: &Journal, given: &Arguments) -> Result<u8> {
    let state = store::read(&global.root, id(given))?;
    let signal = match given.words.get(1) {
        Some(word) => signal::parse(word)?,
        None => SIGTERM,
    };
    let container = match store::load_alive(&state) {
        Err(Error::NotRunning) if given.is_on("all") => return Ok(0),
        loaded => loaded?,
    };
    if signal == SIGKILL && !state.own_pids {
        // Nothing ends the others when the first process has.
        container.kill(signal, true)?;
    } else {
        match container.kill(signal, false) {
            Err(berth_executor::Error::NotRunning { .. }) => return Err(Error::NotRunning),
            done => done?,
        }
    }
    if signal == SIGKILL && container.cgroup().is_frozen().unwrap_or(false) {
        // On v1 a frozen process does not die.
        container.resume()?;
    }
    Ok(0)
}
