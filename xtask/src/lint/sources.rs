//! File length, names that say nothing, and unsafe outside its room.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace;

/// A room's name says what it provides; these do not.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "manager", "misc", "base", "shared",
];

/// Longer files are only pointed out: splitting may hurt more.
const LONG: usize = 600;

/// The only crate that may hold unsafe code.
const UNSAFE_ROOM: &str = "crates/kernel";

/// One line for every broken rule; prints warnings by itself.
pub fn check() -> Result<Vec<String>> {
    let root = workspace::root();
    let mut broken = Vec::new();
    for path in sources(&root)? {
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let shown = path.strip_prefix(&root).unwrap_or(&path);
        if text.lines().count() > LONG {
            println!(
                "    warning: {} has {} lines",
                shown.display(),
                text.lines().count()
            );
        }
        broken.extend(empty_name(shown));
        if !shown.starts_with(UNSAFE_ROOM) {
            broken.extend(
                unsafe_lines(&text).into_iter().map(|line| {
                    format!("{}:{line}: unsafe outside {UNSAFE_ROOM}", shown.display())
                }),
            );
        }
    }
    Ok(broken)
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.join("crates"), root.join("xtask")];
    while let Some(directory) = open.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("listing {}", directory.display()))?
                .path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Directories and file stems below `src` and `tests` are module names.
fn empty_name(path: &Path) -> Option<String> {
    path.with_extension("")
        .components()
        .filter_map(|part| part.as_os_str().to_str())
        .find(|part| EMPTY_NAMES.contains(part))
        .map(|part| {
            format!(
                "{}: \"{part}\" does not say what it provides",
                path.display()
            )
        })
}

/// Lines (from 1) with the keyword outside comments and strings, or with a
/// permission to use it.
fn unsafe_lines(text: &str) -> Vec<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.lines()
        .enumerate()
        .filter(|(_, line)| {
            let code = without_strings(line);
            let code = code.split("//").next().unwrap_or_default();
            code.contains("(unsafe_code)") && (code.contains("allow") || code.contains("expect"))
                || code.split(|c| !is_word(c)).any(|word| word == "unsafe")
        })
        .map(|(index, _)| index + 1)
        .collect()
}

/// Good enough for one line; a string over several lines may not speak of it.
fn without_strings(line: &str) -> String {
    let mut code = String::new();
    let mut quoted = false;
    let mut escaped = false;
    for c in line.chars() {
        match c {
            '"' if !escaped => quoted = !quoted,
            _ if !quoted => code.push(c),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyword_counts_only_in_code() {
        for (line, expected) in [
            ("let x = unsafe { call() };", 1),
            ("unsafe fn call() {}", 1),
            ("#![allow(unsafe_code)]", 1),
            ("#![deny(unsafe_code)]", 0),
            ("// unsafe would be quicker", 0),
            ("/// Not unsafe.", 0),
            ("let text = \"unsafe { }\";", 0),
            ("let unsafe_room = 1;", 0),
        ] {
            assert_eq!(unsafe_lines(line).len(), expected, "{line}");
        }
    }

    #[test]
    fn empty_names_are_found_as_files_and_as_directories() {
        for (path, found) in [
            ("crates/x/src/utils.rs", true),
            ("crates/x/src/common/mod.rs", true),
            ("crates/x/src/commonplace.rs", false),
            ("crates/x/src/base_image.rs", false),
        ] {
            assert_eq!(empty_name(Path::new(path)).is_some(), found, "{path}");
        }
    }
}
