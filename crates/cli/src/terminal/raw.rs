//! A terminal that hands on every key, and is put back however the program ends.

use std::io::{self, IsTerminal};
use std::sync::Mutex;

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use crate::error::{Error, Result};

/// How it was, while it is not so. Whoever ends the program puts it back.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// While it lives the terminal is raw.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    pub fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        if let Ok(mut kept) = BEFORE.lock() {
            kept.get_or_insert(before);
        }
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back, if it was made raw. For ends that drop nothing, too.
pub fn restore() {
    let before = BEFORE.lock().ok().and_then(|mut kept| kept.take());
    if let Some(before) = before {
        // A terminal that is gone needs it no more.
        let _gone = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
    }
}

/// A line that is not shown while it is typed. What is no terminal is read as it is.
pub fn read_secret(question: &str) -> Result<String> {
    let silent = match tcgetattr(io::stdin()) {
        Ok(before) => {
            eprint!("{question}");
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            if let Ok(mut kept) = BEFORE.lock() {
                kept.get_or_insert(before);
            }
            tcsetattr(io::stdin(), OptionalActions::Now, &silent).map_err(failed)?;
            Some(Raw(()))
        }
        Err(_) => None,
    };
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    if silent.is_some() {
        eprintln!();
    }
    read.map_err(|source| Error::Terminal("reading what is typed", source))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

pub fn is_terminal_input() -> bool {
    io::stdin().is_terminal()
}

pub fn is_terminal_output() -> bool {
    io::stdout().is_terminal()
}

fn failed(error: rustix::io::Errno) -> Error {
    Error::Terminal("the terminal does not do what is asked of it", error.into())
}
