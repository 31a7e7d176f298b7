//! `berth-oci`: the executor behind the command line of runc.
//!
//! Whatever drives runc (containerd's shim, podman, CRI-O, validation suites)
//! can drive this program: the same words and options, the same JSON, exit
//! statuses and messages. It links the executor library that the shim links,
//! and adds what a container needs when each command is a process of its own:
//! a state directory ([`store`]), a start gate that another process opens, and
//! a foreground ([`foreground`]).
//!
//! It has one thread, does nothing that the command does not need, and ends.

mod arguments;
mod bundle;
mod clock;
mod command_line;
mod commands;
mod console;
mod descriptors;
mod error;
mod foreground;
mod global;
mod images;
mod journal;
mod launch;
mod pid_file;
mod process_spec;
mod sealed;
mod signal;
mod state;
mod store;
mod streams;

use command_line::Invocation;
use journal::Journal;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    match command_line::parse(&arguments) {
        Ok(Invocation::Text(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Invocation::Command {
            command,
            global,
            arguments,
        }) => {
            if command.starts_processes {
                sealed::ensure();
            }
            let journal = match Journal::open(&global) {
                Ok(journal) => journal,
                Err(error) => return Journal::default().fatal("", &error, 1),
            };
            journal.debug(&format!("{command:?} {:?}", arguments.words));
            match (command.run)(&global, &journal, &arguments) {
                Ok(status) => ExitCode::from(status),
                Err(error) => journal.fatal(command.failure, &error, command.failed_status),
            }
        }
        Err(wrong) => {
            print!("Incorrect Usage.\n\n{}", wrong.help);
            Journal::default().fatal("", &wrong.problem, 1)
        }
    }
}
