//! Replacing the process image.

#![allow(unsafe_code)] // execve takes arrays of pointers

use crate::sys::last_errno;
use crate::{Errno, Result};
use std::ffi::{CStr, CString, NulError, c_char};
use std::os::fd::{AsFd, AsRawFd};

/// Arguments and environment of an exec, laid out before a clone so that
/// nothing is allocated after it.
#[derive(Debug)]
pub struct Execution {
    arguments: StringTable,
    environment: StringTable,
}

#[derive(Debug)]
struct StringTable {
    /// Owns the bytes that `pointers` point to.
    strings: Vec<CString>,
    /// One per string, and a null at the end.
    pointers: Vec<*const c_char>,
}

impl StringTable {
    fn new<S: AsRef<str>>(values: &[S]) -> std::result::Result<Self, NulError> {
        let strings = values
            .iter()
            .map(|value| CString::new(value.as_ref()))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect();
        Ok(Self { strings, pointers })
    }
}

impl Execution {
    /// Fails if a string has a NUL byte within.
    pub fn new<A, E>(arguments: &[A], environment: &[E]) -> std::result::Result<Self, NulError>
    where
        A: AsRef<str>,
        E: AsRef<str>,
    {
        Ok(Self {
            arguments: StringTable::new(arguments)?,
            environment: StringTable::new(environment)?,
        })
    }

    #[must_use]
    pub fn arguments(&self) -> &[CString] {
        &self.arguments.strings
    }

    #[must_use]
    pub fn environment(&self) -> &[CString] {
        &self.environment.strings
    }

    /// Executes `program`; returns only on failure, with the reason.
    #[must_use]
    pub fn run(&self, program: &CStr) -> Errno {
        // SAFETY: `program` is a C string, and both tables hold pointers to C
        // strings that live as long as `self`, ended by a null.
        unsafe {
            libc::execve(
                program.as_ptr(),
                self.arguments.pointers.as_ptr(),
                self.environment.pointers.as_ptr(),
            );
        }
        last_errno()
    }

    /// Executes an open file; returns only on failure, with the reason.
    /// A script needs a descriptor that is not close-on-exec (`ENOENT`).
    #[must_use]
    pub fn run_file<Fd: AsFd>(&self, program: Fd) -> Errno {
        // SAFETY: as in `run`; the path is an empty literal, so that the live
        // descriptor itself is executed.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                program.as_fd().as_raw_fd(),
                c"".as_ptr(),
                self.arguments.pointers.as_ptr(),
                self.environment.pointers.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        last_errno()
    }
}

/// Whether the calling process may execute the regular file at `path`, judged
/// by its effective ids: `EISDIR` for a directory, `EACCES` for anything else
/// that is not a regular file.
pub fn executable_at(path: &CStr) -> Result<()> {
    let found = rustix::fs::stat(path)?;
    match rustix::fs::FileType::from_raw_mode(found.st_mode) {
        rustix::fs::FileType::RegularFile => {}
        rustix::fs::FileType::Directory => return Err(Errno::ISDIR),
        _ => return Err(Errno::ACCESS),
    }
    let access =
        |flags| rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, flags);
    match access(rustix::fs::AtFlags::EACCESS) {
        // faccessat2 is younger than many a filter, which is in force already. The older call
        // judges by the real ids; where that is not let through either, exec is to judge.
        Err(Errno::PERM | Errno::NOSYS) => match access(rustix::fs::AtFlags::empty()) {
            Err(Errno::PERM | Errno::NOSYS) if found.st_mode & 0o111 != 0 => Ok(()),
            judged => judged,
        },
        judged => judged,
    }
}
