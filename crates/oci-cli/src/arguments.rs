//! Options in the manner of Go's `flag` package, which callers of runc rely
//! on: `-name` is `--name`, a value follows or is joined by `=`, a switch takes
//! `=false`, and `--` ends the options. A table of a command's options is all
//! there is to build, so that parsing costs microseconds.

use crate::error::Error;

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    pub name: &'static str,
    pub short: &'static str,
    pub kind: FlagKind,
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagKind {
    /// On or off.
    Switch,
    /// The last value counts.
    Value,
    /// All values count, separated by commas or repeated.
    List,
}

pub const fn switch(name: &'static str, short: &'static str, help: &'static str) -> Flag {
    let kind = FlagKind::Switch;
    Flag {
        name,
        short,
        kind,
        help,
    }
}

pub const fn value(name: &'static str, short: &'static str, help: &'static str) -> Flag {
    let kind = FlagKind::Value;
    Flag {
        name,
        short,
        kind,
        help,
    }
}

pub const fn list(name: &'static str, short: &'static str, help: &'static str) -> Flag {
    let kind = FlagKind::List;
    Flag {
        name,
        short,
        kind,
        help,
    }
}

/// What was given.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Arguments {
    given: Vec<(&'static str, String)>,
    pub words: Vec<String>,
}

impl Arguments {
    /// The last value of an option, if it was given and is not empty.
    pub fn value(&self, name: &str) -> Option<&str> {
        let given = self.given.iter().rev().find(|(known, _)| *known == name);
        given
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Whether the option was given at all, also as `--name=`.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.iter().any(|(known, _)| *known == name)
    }

    pub fn is_on(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    pub fn list(&self, name: &str) -> Vec<&str> {
        self.given
            .iter()
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// A number; `None` if it was not given.
    pub fn number<N: std::str::FromStr>(&self, name: &'static str) -> Result<Option<N>, Error> {
        let Some(text) = self.value(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::InvalidOption {
                name,
                value: text.to_owned(),
            }),
        }
    }
}

/// Splits `arguments` into options and words. With `interspersed`, options
/// are also found after words; without, the first word ends them, because
/// what follows belongs to another program.
pub fn parse(
    flags: &'static [Flag],
    arguments: &[String],
    interspersed: bool,
) -> Result<Arguments, Error> {
    let mut parsed = Arguments::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            parsed.words.extend(rest.cloned());
            break;
        }
        let Some(option) = option_of(argument) else {
            parsed.words.push(argument.clone());
            if !interspersed {
                parsed.words.extend(rest.cloned());
                break;
            }
            continue;
        };
        let (name, joined) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let known = flags
            .iter()
            .find(|flag| flag.name == name || (!flag.short.is_empty() && flag.short == name));
        let flag = known.ok_or_else(|| Error::UnknownOption {
            name: name.to_owned(),
        })?;
        let value = match (flag.kind, joined) {
            (FlagKind::Switch, None) => "true".to_owned(),
            (FlagKind::Switch, Some(value)) => truth(flag.name, &value)?.to_string(),
            (_, Some(value)) => value,
            (_, None) => rest
                .next()
                .cloned()
                .ok_or(Error::ValueMissing { name: flag.name })?,
        };
        parsed.given.push((flag.name, value));
    }
    Ok(parsed)
}

/// The option without its dashes; `-` alone is a word.
fn option_of(argument: &str) -> Option<&str> {
    let option = argument.strip_prefix("--").or(argument.strip_prefix('-'))?;
    (!option.is_empty()).then_some(option)
}

/// The words that Go takes for a truth value.
fn truth(name: &'static str, value: &str) -> Result<bool, Error> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::InvalidOption {
            name,
            value: value.to_owned(),
        }),
    }
}

/// The table as people read it.
pub fn describe(flags: &[Flag]) -> String {
    let mut text = String::new();
    for flag in flags.iter().filter(|flag| !flag.help.is_empty()) {
        let mut left = format!("   --{}", flag.name);
        if flag.kind != FlagKind::Switch {
            left.push_str(" value");
        }
        if !flag.short.is_empty() {
            left.push_str(&format!(", -{}", flag.short));
        }
        text.push_str(&format!("{left:<34} {}\n", flag.help));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        switch("detach", "d", "go"),
        value("bundle", "b", "where"),
        list("env", "e", "what"),
    ];

    fn run(line: &str, interspersed: bool) -> Result<Arguments, Error> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(FLAGS, &words, interspersed)
    }

    #[test]
    fn options_are_read_as_go_reads_them() {
        let cases = [
            ("--detach -bundle /b c", true, Some("/b"), &["c"][..]),
            ("-d --bundle=/b=1 c", true, Some("/b=1"), &["c"]),
            ("--detach=false c", false, None, &["c"]),
            ("c --detach -b x", true, Some("x"), &["c"]),
            ("--b x -- -d c", false, Some("x"), &["-d", "c"]),
            ("-", false, None, &["-"]),
        ];
        for (line, detach, bundle, words) in cases {
            let parsed = run(line, true).unwrap();
            assert_eq!(parsed.is_on("detach"), detach, "{line}");
            assert_eq!(parsed.value("bundle"), bundle, "{line}");
            assert_eq!(parsed.words, words, "{line}");
        }
    }

    #[test]
    fn options_after_the_first_word_belong_to_the_program() {
        let parsed = run("-e A=1 --env B=2 c ls -d", false).unwrap();
        assert_eq!(parsed.words, ["c", "ls", "-d"]);
        assert_eq!(parsed.list("env"), ["A=1", "B=2"]);
        assert!(!parsed.is_on("detach"));
    }

    #[test]
    fn wrong_options_are_named() {
        for (line, words) in [
            ("--nothing", "flag provided but not defined: -nothing"),
            ("-b", "flag needs an argument: -bundle"),
            ("-d=maybe", "invalid value \"maybe\" for flag -detach"),
        ] {
            assert_eq!(run(line, true).unwrap_err().to_string(), words);
        }
    }
}
