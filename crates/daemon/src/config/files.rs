//! Files and their drop-ins, one over the other.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Config;

pub(super) fn read_with_drop_ins(file: &Path, required: bool) -> Result<toml::Table> {
    let mut merged = toml::Table::new();
    match fs::read_to_string(file) {
        Ok(text) => merge(&mut merged, parse(file, &text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {file:?}")),
    }
    for drop_in in drop_ins(file)? {
        let text =
            fs::read_to_string(&drop_in).with_context(|| format!("cannot read {drop_in:?}"))?;
        merge(&mut merged, parse(&drop_in, &text)?);
    }
    Ok(merged)
}

fn drop_ins(file: &Path) -> Result<Vec<PathBuf>> {
    let mut dir = file.as_os_str().to_owned();
    dir.push(".d");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {dir:?}")),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {dir:?}"))?
            .path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A file on its own must be a valid configuration: that is how an error gets its line.
pub(super) fn parse(file: &Path, text: &str) -> Result<toml::Table> {
    let located = |error: toml::de::Error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        anyhow::anyhow!("{}:{line}: {}", file.display(), error.message())
    };
    toml::from_str::<Config>(text).map_err(located)?;
    toml::from_str(text).map_err(located)
}

/// Tables are merged key by key; anything else replaces what was there.
pub(super) fn merge(into: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(present)), toml::Value::Table(table)) => merge(present, table),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
