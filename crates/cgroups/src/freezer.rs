//! Stopping all processes of a cgroup where they stand.

use crate::cgroup::{Cgroup, Home};
use crate::control::{ControlDir, flat_value};
use crate::error::{Error, Result};
use crate::layout::Controller;
use std::path::Path;
use std::time::{Duration, Instant};

/// A process freezes at its next return to user space; one in an
/// uninterruptible wait may take long.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

impl Cgroup {
    /// Stops every process of this cgroup and below, and waits until they
    /// have stopped. If they do not within five seconds the cgroup is thawed
    /// again and the error is [`Error::FreezeTimeout`].
    pub fn freeze(&self) -> Result<()> {
        let home = self.freezer()?;
        let result = set(home, true);
        if matches!(result, Err(Error::FreezeTimeout { .. })) {
            // Half frozen is worse than running.
            let _ = set(home, false);
        }
        result
    }

    /// Lets the processes run again.
    pub fn thaw(&self) -> Result<()> {
        set(self.freezer()?, false)
    }

    /// True if the cgroup is frozen or on the way to it.
    pub fn is_frozen(&self) -> Result<bool> {
        match self.freezer()? {
            Home::V1(directory) => Ok(directory.read("freezer.state")?.trim() != "THAWED"),
            Home::V2(directory) => Ok(directory.read("cgroup.freeze")?.trim() == "1"),
        }
    }

    /// Where the freezer is, for programs that are told a path.
    pub fn freezer_directory(&self) -> Result<&Path> {
        let (Home::V1(directory) | Home::V2(directory)) = self.freezer()?;
        Ok(directory.path())
    }

    fn freezer(&self) -> Result<Home<'_>> {
        if let Some(directory) = self.v1(Controller::Freezer) {
            return Ok(Home::V1(directory));
        }
        if self.is_nowhere() {
            return Err(Error::Absent);
        }
        self.unified()
            .map(Home::V2)
            .ok_or_else(|| Error::ControllerMissing {
                controller: Controller::Freezer.v1_name(),
                path: self.path().to_string(),
            })
    }
}

fn set(home: Home<'_>, frozen: bool) -> Result<()> {
    match home {
        Home::V1(directory) => {
            let state = if frozen { "FROZEN" } else { "THAWED" };
            // A process that forks while the kernel goes through the list can
            // leave the cgroup FREEZING; asking again includes the child.
            wait(directory, |again| {
                if again {
                    directory.write("freezer.state", state)?;
                }
                let now = directory.read("freezer.state")?;
                Ok((now.trim() == state, now))
            })
        }
        Home::V2(directory) => {
            directory.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
            let wanted = u64::from(frozen);
            wait(directory, |_| {
                let events = directory.read("cgroup.events")?;
                Ok((flat_value(&events, "frozen") == Some(wanted), events))
            })
        }
    }
}

/// Calls `check` until it says yes, at growing intervals. Its argument is
/// true on the first call and then now and again.
fn wait(
    directory: &ControlDir,
    mut check: impl FnMut(bool) -> Result<(bool, String)>,
) -> Result<()> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    for round in 0.. {
        let (done, state) = check(round % 8 == 0)?;
        if done {
            return Ok(());
        }
        let waited = start.elapsed();
        if waited >= PATIENCE {
            return Err(Error::FreezeTimeout {
                path: directory.path().to_owned(),
                state: state.trim().to_owned(),
                waited,
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}
