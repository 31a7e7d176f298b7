//! Options before the command.

use crate::arguments::{Arguments, Flag, switch, value};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

pub const FLAGS: &[Flag] = &[
    switch("debug", "", "enable debug logging"),
    value(
        "log",
        "",
        "set the log file to write logs to (default is '/dev/stderr')",
    ),
    value(
        "log-format",
        "",
        "set the log format ('text' (default), or 'json')",
    ),
    value(
        "root",
        "",
        "root directory for storage of container state (default: \"/run/berth-oci\")",
    ),
    switch(
        "systemd-cgroup",
        "",
        "enable systemd cgroup support, expects cgroupsPath to be of form \"slice:prefix:name\"",
    ),
    value(
        "rootless",
        "",
        "ignore cgroup permission errors ('true', 'false', or 'auto')",
    ),
    // Before the end of the words, as `--help` and `--version` of any command.
    switch("help", "h", "show help"),
    switch("version", "v", "print the version"),
];

const DEFAULT_ROOT: &str = "/run/berth-oci";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone)]
pub struct Global {
    /// State of all containers.
    pub root: PathBuf,
    /// Whether the caller chose the root: then it has to exist for `list`.
    pub root_given: bool,
    pub log: Option<PathBuf>,
    pub format: LogFormat,
    pub debug: bool,
    pub systemd_cgroup: bool,
}

impl Global {
    pub fn new(given: &Arguments) -> Result<Self> {
        let root = match given.value("root") {
            Some(root) => {
                let path = Path::new(root);
                let path = std::path::absolute(path).map_err(Error::io("resolve", path))?;
                clean(&path)
            }
            None if given.is_given("root") => return Err(Error::RootIsSlash),
            None => default_root(),
        };
        if root == Path::new("/") {
            return Err(Error::RootIsSlash);
        }
        Ok(Self {
            root,
            root_given: given.is_given("root"),
            log: given.value("log").map(PathBuf::from),
            format: match given.value("log-format") {
                None | Some("text") => LogFormat::Text,
                Some("json") => LogFormat::Json,
                Some(other) => {
                    let format = other.to_owned();
                    return Err(Error::LogFormat { format });
                }
            },
            debug: given.is_on("debug"),
            systemd_cgroup: given.is_on("systemd-cgroup"),
        })
    }
}

fn default_root() -> PathBuf {
    let runtime_directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
    match runtime_directory {
        Some(directory) if !berth_kernel::rustix::process::geteuid().is_root() => {
            Path::new(&directory).join("berth-oci")
        }
        _ => PathBuf::from(DEFAULT_ROOT),
    }
}

/// `..` taken back by name, as Go's `filepath.Clean` does.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        if component == std::path::Component::ParentDir {
            cleaned.pop();
        } else {
            cleaned.push(component);
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(line: &[&str]) -> Result<Global> {
        let words: Vec<String> = line.iter().map(ToString::to_string).collect();
        Global::new(&crate::arguments::parse(FLAGS, &words, false)?)
    }

    #[test]
    fn the_root_is_absolute_and_never_the_whole_machine() {
        let parsed = global(&["--root", "/run/../x", "--log-format=json"]).unwrap();
        assert_eq!(parsed.root, Path::new("/x"));
        assert_eq!(parsed.format, LogFormat::Json);
        for root in ["/", "", "/..", "/a/../.."] {
            let error = global(&["--root", root]).unwrap_err();
            assert!(matches!(error, Error::RootIsSlash), "{root}: {error}");
        }
    }
}
