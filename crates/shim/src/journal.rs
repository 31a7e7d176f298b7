//! The shim's own messages, on its standard error.

use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::status::Error;
use berth_executor::Stamp;

/// Writes one line. The standard macros panic when the line cannot be written;
/// a full disk must not end a container.
pub fn write(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{} {line}", Stamp::now());
}

macro_rules! note {
    ($($argument:tt)*) => { $crate::journal::write(format_args!($($argument)*)) };
}
pub(crate) use note;

/// Opens the file that becomes the standard error of a serving shim.
pub fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(|source| Error::path("open", path, source))
}
