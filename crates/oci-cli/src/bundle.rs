//! A bundle's `config.json`.

use crate::error::{Error, Result};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};

pub const CONFIG: &str = "config.json";

/// The bundle's directory: the working directory unless one is named.
pub fn directory(named: Option<&str>) -> Result<PathBuf> {
    let path = Path::new(named.unwrap_or("."));
    path.canonicalize().map_err(Error::io("find bundle", path))
}

pub fn spec(bundle: &Path) -> Result<Spec> {
    parse(&bundle.join(CONFIG))
}

/// Only the process: an exec needs nothing else.
pub fn process(bundle: &Path) -> Result<Option<Process>> {
    #[derive(Deserialize)]
    struct Part {
        process: Option<Process>,
    }
    parse(&bundle.join(CONFIG)).map(|part: Part| part.process)
}

pub fn parse<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = path.to_owned();
            return Err(Error::NoSpec { path });
        }
        read => read.map_err(Error::io("read", path))?,
    };
    serde_json::from_slice(&text).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })
}

/// Whether nothing of the container outlives its first process.
pub fn owns_pids(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| {
        let joined = namespace.path().as_ref();
        namespace.typ() == LinuxNamespaceType::Pid
            && joined.is_none_or(|path| path.as_os_str().is_empty())
    })
}
