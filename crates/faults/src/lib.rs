//! Named places at which a test can break the daemon.
//!
//! ```text
//! berth_faults::at("pod.run.after-network")?;      a step that can fail
//! berth_faults::passing("container.exit.recorded"); one that cannot
//! ```
//!
//! They stand where state lies in two places at once: after a record was written and before what it
//! describes is made, between a rename and the commit that refers to it. A name is used at one place
//! only, and says operation and step.
//!
//! In an ordinary build both calls are empty and their names are not in the binary. With the feature
//! `points`, the variable `BERTH_FAULTS` says what happens where ([`rules`] has the words),
//! `BERTH_FAULTS_SEED` what chance does, and `BERTH_FAULTS_GATE` names a file without which nothing
//! happens and no passing counts.

#[cfg(any(test, feature = "points"))]
mod rules;

#[cfg(feature = "points")]
mod armed;

/// A step that a test let fail.
#[cfg(feature = "points")]
#[derive(Debug, thiserror::Error)]
#[error("fault point {point}: failed as told")]
pub struct Injected {
    pub(crate) point: &'static str,
}

/// Never happens in this build.
#[cfg(not(feature = "points"))]
#[derive(Debug, thiserror::Error)]
pub enum Injected {}

/// A step that may be made to fail here, beside what [`passing`] does.
///
/// # Errors
/// Where a rule says so.
#[cfg(feature = "points")]
pub fn at(point: &'static str) -> Result<(), Injected> {
    armed::at(point)
}

/// A step that may be made to fail here. In this build none is.
///
/// # Errors
/// None.
#[cfg(not(feature = "points"))]
#[inline(always)]
pub fn at(_point: &'static str) -> Result<(), Injected> {
    Ok(())
}

/// A place where the process may be killed, made to panic, or held up; blocks in the latter case.
#[cfg(feature = "points")]
pub fn passing(point: &'static str) {
    // Where nothing can fail, a rule for failures means nothing.
    let _cannot_fail = armed::at(point);
}

/// A place where the process may be killed. In this build it is not.
#[cfg(not(feature = "points"))]
#[inline(always)]
pub fn passing(_point: &'static str) {}
