//! Raw results of libc calls as [`Result`].

use crate::{Errno, Result};

/// The calling thread's `errno`, right after a call that failed.
pub(crate) fn last_errno() -> Errno {
    let raw = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(raw.unwrap_or(libc::EIO))
}

pub(crate) fn check(result: libc::c_int) -> Result<libc::c_int> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}

pub(crate) fn check_long(result: libc::c_long) -> Result<libc::c_long> {
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(result)
    }
}
