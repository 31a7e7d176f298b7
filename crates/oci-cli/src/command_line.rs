//! From the words of the command line to a command and its options.

use crate::arguments::{self, Arguments};
use crate::commands::{self, Command};
use crate::error::Error;
use crate::global::{self, Global};

/// What is to be done.
#[derive(Debug)]
pub enum Invocation {
    /// Help or the version: to be printed.
    Text(String),
    Command {
        command: &'static Command,
        global: Global,
        arguments: Arguments,
    },
}

/// A command line that makes no sense, and the help that would have told.
#[derive(Debug)]
pub struct Wrong {
    pub problem: Error,
    pub help: String,
}

pub fn parse(words: &[String]) -> Result<Invocation, Box<Wrong>> {
    let wrong = |problem, help: String| Box::new(Wrong { problem, help });
    let before = arguments::parse(global::FLAGS, words, false)
        .map_err(|problem| wrong(problem, overview()))?;
    if before.is_on("version") {
        return Ok(Invocation::Text(version()));
    }
    let Some((name, rest)) = before.words.split_first() else {
        return Ok(Invocation::Text(overview()));
    };
    if before.is_on("help") {
        return Ok(Invocation::Text(overview()));
    }
    if name == "help" || name == "h" {
        let topic = rest.first().and_then(|name| commands::find(name));
        return Ok(Invocation::Text(topic.map_or_else(overview, describe)));
    }
    let command = commands::find(name).ok_or_else(|| {
        let problem = Error::UnknownCommand { word: name.clone() };
        wrong(problem, overview())
    })?;
    if asks_for_help(command, rest) {
        return Ok(Invocation::Text(describe(command)));
    }
    let here = |problem| wrong(problem, describe(command));
    let global = Global::new(&before).map_err(here)?;
    let arguments = arguments::parse(command.flags, rest, command.interspersed).map_err(here)?;
    let count = arguments.words.len();
    if count < command.least || count > command.most {
        let expected = command.expected;
        let command = command.name;
        return Err(here(Error::ArgumentCount { command, expected }));
    }
    Ok(Invocation::Command {
        command,
        global,
        arguments,
    })
}

/// `--help` before the first word; after it, it may be the program's own.
fn asks_for_help(command: &Command, rest: &[String]) -> bool {
    rest.iter()
        .take_while(|word| command.interspersed || word.starts_with('-'))
        .take_while(|word| *word != "--")
        .any(|word| matches!(word.as_str(), "--help" | "-help" | "-h"))
}

pub fn version() -> String {
    format!(
        "berth-oci version {}\nspec: {}\n",
        env!("CARGO_PKG_VERSION"),
        commands::SPEC_VERSION,
    )
}

fn overview() -> String {
    let mut text = String::from(
        "NAME:\n   berth-oci - Open Container Initiative runtime\n\n\
         USAGE:\n   berth-oci [global options] command [command options] [arguments...]\n\n\
         COMMANDS:\n",
    );
    for command in commands::ALL {
        text.push_str(&format!("   {:<12} {}\n", command.name, command.about));
    }
    text.push_str("\nGLOBAL OPTIONS:\n");
    text.push_str(&arguments::describe(global::FLAGS));
    text
}

fn describe(command: &Command) -> String {
    let mut text = format!(
        "NAME:\n   berth-oci {} - {}\n\nUSAGE:\n   berth-oci {} [command options] {}\n",
        command.name, command.about, command.name, command.usage,
    );
    if !command.flags.is_empty() {
        text.push_str("\nOPTIONS:\n");
        text.push_str(&arguments::describe(command.flags));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<Invocation, Box<Wrong>> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    #[test]
    fn a_command_comes_with_its_options_and_words() {
        let parsed = run("--root /r --log=/l exec -d -p /p.json c").unwrap();
        let Invocation::Command {
            command,
            global,
            arguments,
        } = parsed
        else {
            panic!("{parsed:?}");
        };
        assert_eq!(command.name, "exec");
        assert_eq!(global.root.to_str(), Some("/r"));
        assert_eq!(arguments.words, ["c"]);
        assert!(arguments.is_on("detach"));
    }

    #[test]
    fn help_of_a_program_in_the_container_is_not_ours() {
        assert!(matches!(
            run("exec c ls --help"),
            Ok(Invocation::Command { .. })
        ));
        assert!(matches!(run("exec --help"), Ok(Invocation::Text(_))));
        assert!(matches!(run("--version"), Ok(Invocation::Text(_))));
    }

    #[test]
    fn wrong_lines_are_refused_with_the_help_of_what_was_meant() {
        for (line, problem, help) in [
            ("stat c", "No help topic for 'stat'", "COMMANDS"),
            ("state", "requires exactly 1", "berth-oci state"),
            ("kill a 9 x", "requires", "berth-oci kill"),
            ("run --nope c", "not defined: -nope", "--pid-file"),
        ] {
            let wrong = run(line).unwrap_err();
            assert!(wrong.problem.to_string().contains(problem), "{line}");
            assert!(wrong.help.contains(help), "{line}: {}", wrong.help);
        }
    }
}
