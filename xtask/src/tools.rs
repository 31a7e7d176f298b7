//! What the suites need besides our own programs.

mod criu;
mod debian;
mod go;
mod old_docker;
mod python;

use anyhow::Result;

pub use criu::{path as criu_path, program as criu};
pub use go::{Tool, ensure, path};

pub use debian::postgresql;
pub use old_docker::old_docker;
pub use python::docker_py;

/// Installs what is missing. Debian packages need root.
pub fn install() -> Result<()> {
    debian::install()?;
    go::install()?;
    docker_py().map(drop)
}
