use super::id;
use super::state::{print_compact, print_line};
use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::journal::Journal;
use crate::store;
use std::process::Command;

pub fn run(global: &Global, _: &Journal, given: &Arguments) -> Result<u8> {
    let state = store::read(&global.root, id(given))?;
    let pids = store::load_alive(&state)?.processes()?;
    match given.value("format") {
        None | Some("table") => table(&pids, given.words.get(1..).unwrap_or_default()),
        Some("json") => print_compact(&pids),
        Some(_) => Err(Error::OutputFormat),
    }
    .map(|()| 0)
}

/// The lines of the host's `ps` that are about the container's processes.
fn table(pids: &[i32], options: &[String]) -> Result<()> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    } else {
        command.args(options);
    }
    let output = command.output().map_err(Error::system("run ps"))?;
    if !output.status.success() {
        return Err(Error::Ps {
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or(Error::PsWithoutPid)?;
    print_line(head)?;
    for line in lines {
        let pid = line.split_whitespace().nth(column);
        let pid = pid.and_then(|pid| pid.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            print_line(line)?;
        }
    }
    Ok(())
}
