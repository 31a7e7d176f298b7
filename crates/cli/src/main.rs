//! `berth`: containers, images, networks and volumes for people. It knows a daemon by its Engine
//! API alone, here or elsewhere.

mod arguments;
mod build;
mod commands;
mod contexts;
mod daemon;
mod error;
mod logins;
mod options;
mod output;
mod plugin;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use error::Error;
use output::{Colour, Style, note};

/// What this program is called as.
enum Program {
    Berth(Box<Arguments>),
    Plugin(plugin::Arguments),
}

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let parsed = match plugin::words(words.clone()) {
        Some(words) => plugin::Arguments::try_parse_from(words).map(Program::Plugin),
        None => Arguments::try_parse_from(words).map(|parsed| Program::Berth(Box::new(parsed))),
    };
    let program = match parsed {
        Ok(program) => program,
        Err(error) => {
            let _unread = error.print();
            // Help was asked for; else it is what Docker's client ends with.
            let code = if error.use_stderr() {
                error::NOT_RUN
            } else {
                0
            };
            return ExitCode::from(code);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&Error::Terminal("the program cannot be set up", error));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match program {
            Program::Berth(arguments) => commands::run(*arguments).await,
            Program::Plugin(arguments) => arguments.run().await,
        }
    });
    terminal::restore();
    let code = match outcome {
        Ok(code) => code,
        Err(error) if error.is_broken_pipe() => 0,
        Err(error) => {
            complain(&error);
            1
        }
    };
    // A read of standard input that nobody waits for any more would keep the runtime.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// What went wrong, and below it what can be done.
pub fn complain(error: &Error) {
    let style = Style::of_stderr();
    let name = style.paint(Some(Colour::Red), "berth:");
    note(&format!("{name} {}", error.report()));
    if let Some(hint) = error.hint() {
        note(&style.paint(Some(Colour::Dim), &format!("  {hint}")));
    }
}
