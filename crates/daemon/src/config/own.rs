//! Where an ordinary user's daemon keeps its files, by the XDG base directory specification.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The user's directories, each with `berth` in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub file: PathBuf,
    data: PathBuf,
    state: PathBuf,
    config: PathBuf,
}

/// `None` for root.
pub fn places() -> Result<Option<Places>> {
    if rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let directory = |name: &str| {
        let set = std::env::var_os(name).map(PathBuf::from);
        set.filter(|path| path.is_absolute())
    };
    let home =
        || directory("HOME").context("HOME is not set: it says where an ordinary user's images go");
    let or_home = |name: &str, below: &str| match directory(name) {
        Some(given) => Ok(given),
        None => home().map(|home| home.join(below)),
    };
    let runtime = directory("XDG_RUNTIME_DIR").context(
        "XDG_RUNTIME_DIR is not set: log in by a session (`loginctl enable-linger USER`, \
         `machinectl shell USER@`), or set it to a directory of your own on a tmpfs",
    )?;
    let config = or_home("XDG_CONFIG_HOME", ".config")?.join("berth");
    Ok(Some(Places {
        file: config.join("berthd.toml"),
        data: or_home("XDG_DATA_HOME", ".local/share")?.join("berth"),
        state: runtime.join("berth"),
        config,
    }))
}

impl Places {
    /// What takes the place of the defaults.
    pub fn defaults(&self) -> toml::Table {
        let entries = [
            ("root", self.data.clone()),
            ("state", self.state.clone()),
            ("hosts-dir", self.config.join("hosts")),
            ("cni-conf-dir", self.config.join("cni/net.d")),
            ("seccomp-dir", self.config.join("seccomp")),
        ];
        let text = |path: PathBuf| toml::Value::String(path.to_string_lossy().into_owned());
        let entries = entries.into_iter();
        entries
            .map(|(key, path)| (key.to_owned(), text(path)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_files_are_the_users() {
        let places = Places {
            file: "/home/ann/.config/berth/berthd.toml".into(),
            data: "/home/ann/.local/share/berth".into(),
            state: "/run/user/1001/berth".into(),
            config: "/home/ann/.config/berth".into(),
        };
        let defaults = places.defaults();
        let read = |key: &str| defaults[key].as_str().unwrap().to_owned();
        assert_eq!(read("root"), "/home/ann/.local/share/berth");
        assert_eq!(read("state"), "/run/user/1001/berth");
        assert_eq!(read("hosts-dir"), "/home/ann/.config/berth/hosts");
    }
}
