//! Daemons that have a name here: `contexts.json` in the configuration's directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::daemon::{Endpoint, TlsFiles};
use crate::error::{Error, Result};

/// The daemon of this machine; it is always there.
pub const DEFAULT: &str = "default";
const SOCKET: &str = "/run/berth/docker.sock";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Context {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
}

impl Context {
    pub fn endpoint(&self) -> Result<Endpoint> {
        Endpoint::parse(&self.host, self.tls.clone())
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    current: Option<String>,
    contexts: BTreeMap<String, Context>,
}

#[derive(Debug)]
pub struct Contexts {
    path: PathBuf,
    stored: Stored,
}

impl Contexts {
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn open() -> Result<Self> {
        Self::at(&directory())
    }

    fn at(directory: &Path) -> Result<Self> {
        let path = directory.join("contexts.json");
        let stored = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| Error::BadFile {
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Stored::default(),
            Err(source) => return Err(Error::file("reading", path)(source)),
        };
        Ok(Self { path, stored })
    }

    pub fn current(&self) -> &str {
        self.stored.current.as_deref().unwrap_or(DEFAULT)
    }

    pub fn get(&self, name: &str) -> Result<Context> {
        if name == DEFAULT {
            return Ok(Context {
                description: "The daemon of this machine".to_owned(),
                host: format!("unix://{}", default_socket().display()),
                tls: None,
            });
        }
        let found = self.stored.contexts.get(name).cloned();
        found.ok_or_else(|| Error::NoContext(name.to_owned()))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(DEFAULT).chain(self.stored.contexts.keys().map(String::as_str))
    }

    pub fn create(&mut self, name: &str, context: Context) -> Result<()> {
        let is_name = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.+-".contains(&b));
        if !is_name || name.is_empty() {
            return Err(Error::usage(format!(
                "{name:?} is no name of a context: letters, digits and _.+- only"
            )));
        }
        if name == DEFAULT || self.stored.contexts.contains_key(name) {
            return Err(Error::usage(format!(
                "a context is called {name} already: remove it first with `berth context rm {name}`"
            )));
        }
        context.endpoint()?;
        self.stored.contexts.insert(name.to_owned(), context);
        self.store()
    }

    pub fn select(&mut self, name: &str) -> Result<()> {
        self.get(name)?;
        self.stored.current = (name != DEFAULT).then(|| name.to_owned());
        self.store()
    }

    pub fn remove(&mut self, name: &str, force: bool) -> Result<()> {
        if name == DEFAULT {
            return Err(Error::usage("the context default stays"));
        }
        self.get(name)?;
        if self.current() == name {
            if !force {
                return Err(Error::usage(format!(
                    "context {name} is in use: `berth context use default` first, or --force"
                )));
            }
            self.stored.current = None;
        }
        self.stored.contexts.remove(name);
        self.store()
    }

    /// As a whole or not at all.
    fn store(&self) -> Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).map_err(Error::file("making", directory))?;
        }
        let text = serde_json::to_vec_pretty(&self.stored).map_err(Error::Answer)?;
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &self.path))
            .map_err(Error::file("writing", &self.path))
    }
}

/// `BERTH_CONFIG`, or `berth` among this person's configurations.
fn directory() -> PathBuf {
    if let Some(given) = std::env::var_os("BERTH_CONFIG") {
        return given.into();
    }
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let own = own.filter(|path| path.is_absolute());
    own.unwrap_or_else(|| home().join(".config")).join("berth")
}

pub fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| "/".into(), PathBuf::from)
}

/// An ordinary user's own daemon, where one listens; else that of the machine.
fn default_socket() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = own.map(|directory| directory.join("berth/docker.sock"));
    let is_root = rustix::process::geteuid().is_root();
    match own {
        Some(own) if !is_root && own.exists() => own,
        _ => SOCKET.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> Context {
        Context {
            host: "ssh://me@far".to_owned(),
            ..Context::default()
        }
    }

    #[test]
    fn contexts_are_kept_and_one_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("berth");
        let mut contexts = Contexts::at(&place).unwrap();
        assert_eq!(contexts.current(), DEFAULT);
        contexts.create("far", far()).unwrap();
        contexts.select("far").unwrap();

        let mut again = Contexts::at(&place).unwrap();
        assert_eq!(again.current(), "far");
        assert_eq!(again.get("far").unwrap(), far());
        assert_eq!(again.names().collect::<Vec<_>>(), ["default", "far"]);
        assert!(again.create("far", far()).is_err());
        assert!(again.remove("far", false).is_err());
        again.remove("far", true).unwrap();
        assert_eq!(Contexts::at(&place).unwrap().current(), DEFAULT);
    }

    #[test]
    fn what_cannot_be_a_context_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut contexts = Contexts::at(directory.path()).unwrap();
        for name in ["", "a/b", "default", "a b"] {
            assert!(contexts.create(name, far()).is_err(), "{name}");
        }
        let nowhere = Context {
            host: "nowhere".to_owned(),
            ..Context::default()
        };
        assert!(contexts.create("a", nowhere).is_err());
        assert!(contexts.select("a").is_err());
        assert!(contexts.remove("default", true).is_err());
        fs::write(directory.path().join("contexts.json"), "{").unwrap();
        assert!(Contexts::at(directory.path()).is_err());
    }
}
