//! What steps of suites look at, told as an error that a person can read.

use anyhow::{Result, ensure};

/// Like `assert_eq`, as an error.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<()> {
    ensure!(
        found == expected,
        "{what}: {found:?} instead of {expected:?}"
    );
    Ok(())
}

/// A part of some output that has to be there.
pub fn contains(what: &str, text: &str, part: &str) -> Result<()> {
    ensure!(text.contains(part), "{what}: no {part:?} in {text:?}");
    Ok(())
}
