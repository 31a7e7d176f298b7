use super::id;
use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::journal::Journal;
use crate::store;
use std::io::Write;
use std::path::Path;

pub fn run(global: &Global, _: &Journal, given: &Arguments) -> Result<u8> {
    let state = store::read(&global.root, id(given))?;
    let status = store::status(&global.root, &state)?;
    print_pretty(&state.shown(status, String::new()))?;
    Ok(0)
}

/// JSON with two spaces for each level, as runc prints it.
pub fn print_pretty<T: serde::Serialize>(value: &T) -> Result<()> {
    let json = |source| Error::Json {
        path: Path::new("standard output").to_owned(),
        source,
    };
    let text = serde_json::to_string_pretty(value).map_err(json)?;
    print_line(&text)
}

pub fn print_compact<T: serde::Serialize>(value: &T) -> Result<()> {
    let json = |source| Error::Json {
        path: Path::new("standard output").to_owned(),
        source,
    };
    let text = serde_json::to_string(value).map_err(json)?;
    print_line(&text)
}

/// Not by `println!`, which panics when nobody reads.
pub fn print_line(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").map_err(Error::system("write to standard output"))
}
