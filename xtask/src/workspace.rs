//! Where things lie.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Root of the repository.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Cargo's output directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The programs of the house, side by side, as they are installed.
pub fn artefacts() -> PathBuf {
    target().join("berth")
}

/// Logs of suites, kept after a run.
pub fn logs() -> Result<PathBuf> {
    let logs = artefacts().join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
    Ok(logs)
}

/// Programs that are built once per version and outlive `cargo clean`.
pub fn tools() -> Result<PathBuf> {
    Ok(cache()?.join("tools"))
}

/// What is made or fetched once.
pub fn cache() -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(cache.join("berth"))
}
