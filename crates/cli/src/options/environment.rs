//! Variables and labels, given one by one or in files.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// `NAME=value` of files first, so that those given by themselves win. A name alone takes this
/// program's value, and is left out where it has none.
pub fn environment(given: &[String], files: &[PathBuf]) -> Result<Vec<String>> {
    resolve(given, files, |name| std::env::var(name).ok())
}

fn resolve(
    given: &[String],
    files: &[PathBuf],
    value_of: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>> {
    let mut entries = Vec::new();
    for file in files {
        entries.extend(lines(file)?);
    }
    entries.extend(given.iter().cloned());
    let mut out = Vec::new();
    for entry in entries {
        let name = entry.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Error::usage(format!(
                "{entry:?} is no variable: write NAME=value"
            )));
        }
        match entry.contains('=') {
            true => out.push(entry),
            false => out.extend(value_of(&entry).map(|value| format!("{entry}={value}"))),
        }
    }
    Ok(out)
}

pub fn labels(given: &[String], files: &[PathBuf]) -> Result<Map<String, Value>> {
    let mut entries = Vec::new();
    for file in files {
        entries.extend(lines(file)?);
    }
    entries.extend(given.iter().cloned());
    Ok(pairs(&entries))
}

/// What has no value has an empty one.
pub fn pairs(entries: &[String]) -> Map<String, Value> {
    let pairs = entries.iter().map(|entry| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        (name.to_owned(), value.into())
    });
    pairs.collect()
}

/// Without comments and empty lines.
fn lines(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(Error::file("reading", path))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = text.lines().map(str::trim_start);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_from_files_flags_and_this_program() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("env");
        fs::write(&file, "# comment\nA=file\n\n  B=2 3\nHERE\n").unwrap();
        let given = ["A=flag", "HERE", "NOT_HERE", "EMPTY="].map(String::from);
        let value_of = |name: &str| (name == "HERE").then(|| "yes".to_owned());
        assert_eq!(
            resolve(&given, &[file], value_of).unwrap(),
            [
                "A=file", "B=2 3", "HERE=yes", "A=flag", "HERE=yes", "EMPTY="
            ]
        );
        for bad in ["=x", "a b=c"] {
            assert!(resolve(&[bad.to_owned()], &[], |_| None).is_err(), "{bad}");
        }
        let missing = resolve(&[], &["/nowhere/env".into()], |_| None);
        assert!(missing.unwrap_err().to_string().contains("/nowhere/env"));
    }
}
