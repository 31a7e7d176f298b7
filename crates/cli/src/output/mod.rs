//! What people see: tables, templates, units, colours and progress.

mod listing;
mod objects;
mod progress;
mod style;
mod table;
pub mod template;
mod units;

pub use listing::Listing;
pub use objects::print_inspected;
pub use progress::Progress;
pub use style::{Colour, Style, terminal_size, terminal_width};
pub use table::Table;
pub use units::{ago, binary_size, bytes_of, duration_of, size};

use std::io::Write;

use crate::error::{Error, Result};

/// To standard output, at once: what comes next may take its time.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}

pub fn print_line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// To standard error. Where nobody reads it, nobody misses it.
pub fn note(text: &str) {
    let _unread = writeln!(std::io::stderr(), "{text}");
}
