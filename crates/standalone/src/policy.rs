//! Whether and when a container that ended is started again.

use std::time::Duration;

use crate::config::RestartPolicy;
use crate::error::{Error, Result};
use crate::record::Record;

/// Before the first restart; each further one waits twice as long.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// A run of this length shows that the container works: the next wait is short again.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// Refuses what no policy is.
pub fn check(policy: &RestartPolicy, auto_remove: bool) -> Result<()> {
    let retries = policy.maximum_retry_count;
    match policy.name.as_str() {
        "" | "no" | "always" | "unless-stopped" if retries != 0 => Err(Error::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        )),
        "on-failure" if retries < 0 => Err(Error::invalid(
            "invalid restart policy: maximum retry count cannot be negative",
        )),
        "" | "no" => Ok(()),
        "on-failure" | "always" | "unless-stopped" if auto_remove => Err(Error::invalid(
            "can't create 'AutoRemove' container with restart policy",
        )),
        "on-failure" | "always" | "unless-stopped" => Ok(()),
        other => Err(Error::invalid(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', \
             'on-failure', or 'unless-stopped'"
        ))),
    }
}

/// After how long it is started again, if at all. The record says how it ended.
pub fn after(record: &Record, last_wait: Option<Duration>, ran: Duration) -> Option<Duration> {
    let policy = &record.host.restart_policy;
    let again = match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => {
            let limit = policy.maximum_retry_count;
            record.exit_code != 0 && (limit == 0 || i64::from(record.restarts) < limit)
        }
        _ => false,
    };
    if !again || record.stopped_by_hand {
        return None;
    }
    Some(match last_wait {
        Some(last) if ran < GOOD_RUN => (last * 2).min(LONGEST),
        _ => FIRST,
    })
}

/// Whether one that does not run is started when the daemon is.
pub fn at_start(record: &Record) -> bool {
    match record.host.restart_policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !record.stopped_by_hand,
        "on-failure" => record.exit_code != 0 && !record.stopped_by_hand,
        _ => false,
    }
}
