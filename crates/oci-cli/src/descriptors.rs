//! Descriptors that a caller hands through to the program.

use crate::error::{Error, Result};
use oci_spec::runtime::Process;
use std::path::PathBuf;

/// How many descriptors from number 3 on the program keeps: sockets of socket
/// activation (`LISTEN_FDS`), then those of `--preserve-fds`.
pub fn preserved(listening: u16, asked: u16) -> Result<u16> {
    for index in 0..asked {
        let number = 3 + u32::from(listening) + u32::from(index);
        let entry = PathBuf::from(format!("/proc/self/fd/{number}"));
        if std::fs::symlink_metadata(entry).is_err() {
            return Err(Error::PreservedDescriptor {
                index: u32::from(index),
                count: asked,
            });
        }
    }
    Ok(listening.saturating_add(asked))
}

/// Sockets of socket activation that are meant for this process
/// (sd_listen_fds(3)).
pub fn listening() -> u16 {
    let variable = |name: &str| std::env::var(name).ok();
    let ours = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let count = variable("LISTEN_FDS").and_then(|count| count.parse().ok());
    count.filter(|_| ours).unwrap_or(0)
}

/// Tells the program, which will be number 1, of its sockets.
pub fn announce(process: &mut Process, listening: u16) {
    if listening == 0 {
        return;
    }
    let mut environment = process.env().clone().unwrap_or_default();
    environment.push(format!("LISTEN_FDS={listening}"));
    environment.push("LISTEN_PID=1".to_owned());
    process.set_env(Some(environment));
}
