//! The fault points of the daemon, as its sources name them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::workspace;

const FAILING: &str = "berth_faults::at(\"";
const CALLS: [&str; 2] = [FAILING, "berth_faults::passing(\""];

/// Their own room; it only speaks of them.
const ROOM: &str = "faults";

/// All names, sorted. One that stands at two places is an error: a run could not say where it was.
pub fn all() -> Result<Vec<String>> {
    of_calls(&CALLS)
}

/// Those at which a step can fail.
pub fn failing() -> Result<Vec<String>> {
    of_calls(&[FAILING])
}

fn of_calls(calls: &[&str]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut open = vec![workspace::root().join("crates")];
    while let Some(directory) = open.pop() {
        for path in entries(&directory)? {
            if path.is_dir() && !path.ends_with(ROOM) {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("reading {}", path.display()))?;
                names.extend(named(&text, calls));
            }
        }
    }
    names.sort();
    for pair in names.windows(2) {
        ensure!(
            pair[0] != pair[1],
            "fault point {} is at two places",
            pair[0]
        );
    }
    Ok(names)
}

/// Which of the points a program knows.
pub fn known_to(program: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut names = all()?;
    names.retain(|name| text.contains(name.as_str()));
    Ok(names)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    listed().with_context(|| format!("listing {}", directory.display()))
}

fn listed_in(text: &str, call: &str) -> Vec<String> {
    let rest = text.split(call).skip(1);
    rest.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
        .collect()
}

fn named(text: &str, calls: &[&str]) -> Vec<String> {
    calls
        .iter()
        .flat_map(|call| listed_in(text, call))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_both_calls() {
        let text = "x;\n berth_faults::at(\"a.b\")?; berth_faults::passing(\"c\");";
        assert_eq!(named(text, &CALLS), ["a.b", "c"]);
        assert_eq!(named(text, &[FAILING]), ["a.b"]);
    }

    #[test]
    fn every_point_has_one_place() {
        let names = all().unwrap();
        assert!(names.len() > 50, "{names:?}");
    }
}
