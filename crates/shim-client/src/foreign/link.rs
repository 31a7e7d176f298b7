//! `<bundle>/foreign.json`: how to find the shim of a container again, and how to clean up behind
//! it, whatever the daemon's configuration says by then.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ForeignShim;
use crate::error::{Error, path_error};

const NAME: &str = "foreign.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub shim: ForeignShim,
    /// `None` while the shim is being started.
    pub endpoint: Option<Endpoint>,
    pub output: Option<Output>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// Of the Task API.
    pub version: u32,
    pub socket: PathBuf,
}

/// What the shim writes, and where it goes. A terminal has only one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Output {
    pub stdout: PathBuf,
    pub stderr: Option<PathBuf>,
    pub log: Option<PathBuf>,
}

impl Link {
    /// `None` for a bundle whose shim is Berth's own, or that has none.
    pub fn read(bundle: &Path) -> Result<Option<Self>, Error> {
        let path = bundle.join(NAME);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| path_error("understand", path)(error.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(path_error("read", path)(error)),
        }
    }

    /// Replaces what was there, whole or not at all.
    pub fn write(&self, bundle: &Path) -> Result<(), Error> {
        let path = bundle.join(NAME);
        let fresh = path.with_extension("new");
        serde_json::to_vec(self)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::File::create(&fresh)?.write_all(&text))
            .and_then(|()| std::fs::rename(&fresh, &path))
            .map_err(path_error("write", path))
    }

    pub fn is_there(bundle: &Path) -> bool {
        Self::path(bundle).exists()
    }

    pub fn path(bundle: &Path) -> PathBuf {
        bundle.join(NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Link::read(dir.path()).unwrap(), None);
        let link = Link {
            shim: ForeignShim {
                binary: "/bin/shim".into(),
                namespace: "berth".into(),
                address: "/run/x.sock".into(),
                options: Some(("type".into(), vec![1, 2])),
            },
            endpoint: Some(Endpoint {
                version: 3,
                socket: "/run/s/1".into(),
            }),
            output: None,
        };
        link.write(dir.path()).unwrap();
        assert_eq!(Link::read(dir.path()).unwrap(), Some(link));
        std::fs::write(dir.path().join(NAME), "{").unwrap();
        let error = Link::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(NAME), "{error}");
    }
}
