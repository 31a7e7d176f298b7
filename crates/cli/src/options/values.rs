//! Values of single flags, as the API has them.

use std::fs;

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// A seccomp profile is a file here, and sent as what it holds: the daemon may be elsewhere.
pub(super) fn security(text: &str) -> Result<Value> {
    match text.strip_prefix("seccomp=") {
        None | Some("unconfined" | "builtin") => Ok(text.into()),
        Some(path) => {
            let profile = fs::read(path).map_err(Error::file("reading", path))?;
            let profile: Value =
                serde_json::from_slice(&profile).map_err(|source| Error::BadFile {
                    path: path.into(),
                    source,
                })?;
            Ok(format!("seccomp={profile}").into())
        }
    }
}

/// `name:address`, or `name=address`.
pub(super) fn hosts(given: &[String]) -> Result<Vec<String>> {
    let hosts = given.iter().map(|text| {
        let parts = text.split_once('=').or_else(|| text.split_once(':'));
        let (name, address) = parts
            .ok_or_else(|| Error::usage(format!("{text:?} is no host: write name:address")))?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        Ok(format!("{name}:{address}"))
    });
    hosts.collect()
}

pub(super) fn ulimit(text: &str) -> Result<Value> {
    let read = || {
        let (name, limits) = text.split_once('=')?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let (soft, hard): (i64, i64) = (soft.parse().ok()?, hard.parse().ok()?);
        Some(json!({"Name": name, "Soft": soft, "Hard": hard}))
    };
    read().ok_or_else(|| {
        Error::usage(format!(
            "{text:?} is no limit: write nofile=1024 or nofile=1024:2048"
        ))
    })
}

/// What is no path on the host is the name of a CDI device.
pub(super) fn device(text: &str) -> Result<Value> {
    let parts: Vec<&str> = text.split(':').collect();
    let (outside, inside, access) = match parts.as_slice() {
        [path] => (*path, *path, "rwm"),
        [path, access] if access.chars().all(|c| "rwm".contains(c)) => (*path, *path, *access),
        [outside, inside] => (*outside, *inside, "rwm"),
        [outside, inside, access] => (*outside, *inside, *access),
        _ => {
            return Err(Error::usage(format!(
                "{text:?} is no device: write /dev/fuse or /dev/sda:/dev/xvda:r"
            )));
        }
    };
    Ok(json!({"PathOnHost": outside, "PathInContainer": inside, "CgroupPermissions": access}))
}

pub(super) fn gpus(text: &str) -> Result<Value> {
    let count = match text {
        "all" => -1,
        number => number
            .parse::<i64>()
            .map_err(|_| Error::usage(format!("{text:?} are no GPUs: write all, or how many")))?,
    };
    Ok(json!({"Count": count, "Capabilities": [["gpu"]]}))
}

pub(super) fn policy(text: &str) -> Result<Value> {
    let (name, times) = text.split_once(':').unwrap_or((text, "0"));
    let times: Option<i64> = times.parse().ok();
    match (name, times) {
        ("no" | "always" | "unless-stopped", Some(0)) | ("on-failure", Some(_)) => {
            Ok(json!({"Name": name, "MaximumRetryCount": times}))
        }
        _ => Err(Error::usage(format!(
            "{text:?} is no restart policy: write no, on-failure, on-failure:5, always or \
             unless-stopped"
        ))),
    }
}

/// For `update`.
pub fn restart_policy(text: &str) -> Result<Value> {
    policy(text)
}
