//! Counts of what passed, failed and was skipped.

use std::fmt;
use std::ops::AddAssign;
use std::sync::{Mutex, PoisonError};

/// What was said of failures, to be said again where the output ends: of a long one, often only
/// the end is kept.
static FAILURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Shows a line that tells of a failure, and keeps it.
pub fn tell_failure(line: &str) {
    println!("  {line}");
    FAILURES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(line.to_owned());
}

/// What [`tell_failure`] has kept.
pub fn failures() -> Vec<String> {
    FAILURES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Tally {
    pub const PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    pub const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    pub const SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    /// Counts one check and says how it went.
    pub fn check(&mut self, name: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => {
                println!("  ok      {name}");
                *self += Self::PASSED;
            }
            Err(error) => {
                tell_failure(&format!("FAILED  {name}: {error:#}"));
                *self += Self::FAILED;
            }
        }
    }

    /// Counts one part that could not run here.
    pub fn skip(&mut self, name: &str, reason: &str) {
        println!("  skipped {name}: {reason}");
        *self += Self::SKIPPED;
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}
