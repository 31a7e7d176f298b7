//! The functions of a program, by the table that its linker left.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::command::stdout;

/// By address, relative to where the program is loaded: several names where the linker found the same
/// code twice.
pub type Functions = BTreeMap<u64, Vec<String>>;

/// All that have a length: others may be places inside of hand-written ones.
pub fn of(program: &Path) -> Result<Functions> {
    let table = stdout(
        Command::new("nm")
            .args(["--defined-only", "--print-size"])
            .arg(program),
    )?;
    let functions = parse(&table);
    ensure!(
        !functions.is_empty(),
        "{} has no names: it was stripped",
        program.display()
    );
    Ok(functions)
}

fn parse(table: &str) -> Functions {
    let mut functions = Functions::new();
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _size, kind, name] = words[..] else {
            continue;
        };
        if matches!(kind, "t" | "T" | "w" | "W")
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            functions.entry(address).or_default().push(name.to_owned());
        }
    }
    functions
}

/// Names for the linker, in the order in which they were called.
pub fn names(functions: &Functions, called: &[u64]) -> String {
    let mut text = String::new();
    for name in called.iter().filter_map(|at| functions.get(at)).flatten() {
        text.push_str(name);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_told_from_variables_and_labels_and_keep_the_order_of_their_calls() {
        let functions = parse(
            "0000000000001000 0000000000000010 t first\n\
             0000000000001000 0000000000000010 T alias\n\
             0000000000002000 0000000000000020 W second\n\
             0000000000003000 0000000000000008 d variable\n\
             0000000000002008 t label\n",
        );
        assert_eq!(functions.len(), 2);
        assert_eq!(
            names(&functions, &[0x2000, 0x1000, 0x77]),
            "second\nfirst\nalias\n"
        );
    }
}
