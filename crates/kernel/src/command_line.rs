//! The words that `ps` shows of a process.

#![allow(unsafe_code)] // the memory that the kernel put the arguments into

use crate::{Errno, Result, is_single_threaded};

/// Where the arguments of the calling process begin and end, in what follows its name in
/// `proc_pid_stat(5)`.
const ARG_START: usize = 45;
const ARG_END: usize = 46;

/// The memory that `/proc/<pid>/cmdline` is read from. It belongs to the process for as long as it
/// lives, and a copy of the process has a copy of it.
#[derive(Debug)]
pub struct CommandLine {
    start: usize,
    length: usize,
}

impl CommandLine {
    /// Finds that of the calling process.
    pub fn of_process() -> Result<Self> {
        let stat = std::fs::read("/proc/self/stat")
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let stat = String::from_utf8_lossy(&stat);
        // The name in the second field may hold anything, also parentheses.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let number = |at: usize| {
            let field = after_name.split_whitespace().nth(at);
            field.and_then(|field| field.parse::<usize>().ok())
        };
        match (number(ARG_START), number(ARG_END)) {
            (Some(start), Some(end)) if 0 < start && start < end => Ok(Self {
                start,
                length: end - start,
            }),
            // Hidden from processes that may not be looked into.
            _ => Err(Errno::PERM),
        }
    }

    /// Has `words` shown instead of those that the process was started with, as far as there is
    /// room. `EBUSY` if the process has more than one thread: another could be reading them.
    pub fn show(&mut self, words: &[&str]) -> Result<()> {
        if !is_single_threaded()? {
            return Err(Errno::BUSY);
        }
        let mut text: Vec<u8> = Vec::with_capacity(self.length);
        for word in words {
            text.extend(word.as_bytes());
            text.push(0);
        }
        // The last byte stays the end of a string, whatever was cut off.
        text.resize(self.length, 0);
        if let Some(last) = text.last_mut() {
            *last = 0;
        }
        // SAFETY: the kernel laid the arguments there, `length` bytes of the initial stack, which
        // are mapped and writable while the process lives; nothing in Rust borrows them, and there
        // is no other thread to read them meanwhile (checked above).
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), self.start as *mut u8, self.length) };
        Ok(())
    }
}
