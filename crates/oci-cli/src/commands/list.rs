use super::FORMAT;
use super::state::{print_compact, print_line};
use crate::arguments::{Arguments, Flag, switch};
use crate::error::{Error, Result};
use crate::global::Global;
use crate::journal::Journal;
use crate::state::Shown;
use crate::store;
use berth_executor::chain;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

pub const FLAGS: &[Flag] = &[FORMAT, switch("quiet", "q", "display only container IDs")];

/// Least width of a column, and the space after it.
const COLUMN: usize = 12;
const GAP: usize = 3;

pub fn run(global: &Global, journal: &Journal, given: &Arguments) -> Result<u8> {
    let ids = ids(global)?;
    let states: Vec<_> = ids
        .iter()
        .filter_map(|(id, owner)| match load(global, id) {
            Ok((state, status)) => Some((state, status, owner)),
            // Made or deleted at this moment.
            Err(Error::NotExist) => None,
            Err(error) => {
                journal.warning(&format!("load container {id}: {}", chain(&error)));
                None
            }
        })
        .collect();
    let shown: Vec<Shown<'_>> = states
        .iter()
        .map(|(state, status, owner)| state.shown(*status, (*owner).clone()))
        .collect();
    if given.is_on("quiet") {
        for container in &shown {
            print_line(container.id)?;
        }
        return Ok(0);
    }
    match given.value("format") {
        None | Some("table") => print_table(&shown)?,
        // An empty list is `null`, as Go writes a nil slice.
        Some("json") if shown.is_empty() => print_line("null")?,
        Some("json") => print_compact(&shown)?,
        Some(_) => return Err(Error::OutputFormat),
    }
    Ok(0)
}

fn load(global: &Global, id: &str) -> Result<(crate::state::State, crate::state::Status)> {
    let state = store::read(&global.root, id)?;
    let status = store::status(&global.root, &state)?;
    Ok((state, status))
}

/// Every directory below the root, in order, with the name of its owner.
fn ids(global: &Global) -> Result<Vec<(String, String)>> {
    let entries = match fs::read_dir(&global.root) {
        // Nothing has been made yet under the default root.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !global.root_given => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(Error::io("list", &global.root))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", &global.root))?;
        let Ok(found) = entry.metadata() else {
            continue;
        };
        if found.is_dir() {
            let name = entry.file_name().to_string_lossy().into_owned();
            ids.push((name, owner(found.uid())));
        }
    }
    ids.sort();
    Ok(ids)
}

/// The user's name if the host knows it, `#` and the number otherwise.
fn owner(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    let known = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    known.unwrap_or(format!("#{number}"))
}

fn print_table(shown: &[Shown<'_>]) -> Result<()> {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];
    let mut rows = vec![head.map(str::to_owned)];
    for container in shown {
        rows.push([
            container.id.to_owned(),
            container.pid.to_string(),
            container.status.to_owned(),
            container.bundle.clone(),
            container.created.clone(),
            container.owner.clone(),
        ]);
    }
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].len()).max();
        (longest.unwrap_or(0) + GAP).max(COLUMN)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let width = if index + 1 == row.len() { 0 } else { *width };
            line.push_str(&format!("{cell:<width$}"));
        }
        print_line(&line)?;
    }
    Ok(())
}
