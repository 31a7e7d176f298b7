//! `.env` and `env_file`: lines of `NAME=value`.
//!
//! Single quotes keep everything, double quotes know escapes, both may go over lines; outside of
//! them a ` #` begins a comment. Variables are replaced except in single quotes, and know what the
//! lines above have set.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::interpolate::{Variables, substitute};

/// Names with their values, in the order of the file. A name alone has none.
pub type Lines = Vec<(String, Option<String>)>;

pub fn read(path: &Path, known: &Variables) -> Result<Lines> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&path.display().to_string(), &text, known)
}

/// `known` counts more than what the file says itself, as the shell's environment does.
pub fn parse(file: &str, text: &str, known: &Variables) -> Result<Lines> {
    let mut lines = Lines::new();
    let mut own = Variables::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut number = 0;
    while !rest.is_empty() {
        let at = number + 1;
        let wrong = |reason: String| Error::EnvFile {
            file: file.to_owned(),
            line: at,
            reason,
        };
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = line.trim_start();
        if trimmed.trim_end().is_empty() || trimmed.starts_with('#') {
            rest = after;
            number += 1;
            continue;
        }
        let offset = line.len() - trimmed.len();
        let body = &rest[offset..];
        let body = match body.strip_prefix("export ") {
            Some(body) => body.trim_start_matches([' ', '\t']),
            None => body,
        };
        let (name, value, used) = entry(body).map_err(wrong)?;
        let value = match value {
            None => known.get(&name).cloned(),
            Some(Value::Literal(text)) => Some(text),
            Some(Value::Template(text)) => {
                let mut scope = own.clone();
                scope.extend(known.clone());
                Some(substitute(&text, &scope, &mut Vec::new()).map_err(wrong)?)
            }
        };
        if let Some(value) = &value {
            own.insert(name.clone(), value.clone());
        }
        lines.push((name, value));
        let consumed = rest.len() - body.len() + used;
        number += rest[..consumed].matches('\n').count();
        rest = &rest[consumed..];
    }
    Ok(lines)
}

enum Value {
    Literal(String),
    Template(String),
}

/// One entry, and the bytes that it takes with the end of its line.
fn entry(text: &str) -> Result<(String, Option<Value>, usize), String> {
    let line_end = text.find('\n').unwrap_or(text.len());
    let past_line = (line_end + 1).min(text.len());
    let line = text[..line_end].trim_end();
    let separator = line.find(['=', ':']);
    let Some(separator) = separator else {
        let name = line.split(" #").next().unwrap_or(line).trim();
        return Ok((check_name(name)?, None, past_line));
    };
    let name = check_name(line[..separator].trim_end())?;
    let value = &text[separator + 1..];
    let start = value.len() - value.trim_start_matches([' ', '\t']).len();
    let quoted = &value[start..];
    match quoted.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let end = end_of_quote(&quoted[1..], quote)
                .ok_or_else(|| format!("the value of {name} has no closing {quote}"))?;
            let inner = &quoted[1..=end];
            let value = match quote {
                '"' => Value::Template(unescape(inner)),
                _ => Value::Literal(inner.to_owned()),
            };
            let past = separator + 1 + start + end + 2;
            let rest = &text[past..];
            let tail = rest.split('\n').next().unwrap_or_default();
            if !tail.trim().is_empty() && !tail.trim_start().starts_with('#') {
                return Err(format!(
                    "after the value of {name} stands {:?}; put all of it into the quotes",
                    tail.trim()
                ));
            }
            Ok((name, Some(value), (past + tail.len() + 1).min(text.len())))
        }
        _ => {
            let value = line.get(separator + 1..).unwrap_or_default();
            let value = match value.find(" #").or_else(|| value.find("\t#")) {
                Some(comment) => &value[..comment],
                None => value,
            };
            let value = Value::Template(value.trim().to_owned());
            Ok((name, Some(value), past_line))
        }
    }
}

fn check_name(name: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-[]".contains(c);
    if name.is_empty() || !name.chars().all(good) {
        return Err(format!(
            "{name:?} is no variable's name: a line is NAME=value, or a comment after #"
        ));
    }
    Ok(name.to_owned())
}

fn end_of_quote(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (place, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            c if c == quote => return Some(place),
            _ => {}
        }
    }
    None
}

/// Escapes of double quotes. An escaped `$` is one that begins no variable.
fn unescape(text: &str) -> String {
    let mut result = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            result.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => result.push('\n'),
            Some('r') => result.push('\r'),
            Some('t') => result.push('\t'),
            Some('$') => result.push_str("$$"),
            Some(other @ ('"' | '\\')) => result.push(other),
            Some(other) => result.extend(['\\', other]),
            None => result.push('\\'),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Variables {
        [("HOME".to_owned(), "/root".to_owned())].into()
    }

    #[test]
    fn lines_are_read_as_shells_would() {
        let text = "# c\n\nA=1\nexport B = two words # no\nC='$A # \\n'\nD=\"x\\n${A}\\$A\"\nE=\nF: yes\nHOME\nG=${HOME}/$A\nH=a#b\nI='one\ntwo' # c\nJ=last";
        let lines = parse("e", text, &known()).unwrap();
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "$A # \\n"),
            ("D", "x\n1$A"),
            ("E", ""),
            ("F", "yes"),
            ("HOME", "/root"),
            ("G", "/root/1"),
            ("H", "a#b"),
            ("I", "one\ntwo"),
            ("J", "last"),
        ];
        let found: Vec<(&str, &str)> = lines
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref().unwrap()))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(parse("e", "GONE", &known()).unwrap()[0].1, None);
    }

    #[test]
    fn bad_lines_are_told_with_their_number() {
        for (text, expected) in [
            (
                "A=1\nB C=2",
                "e:2: \"B C\" is no variable's name: a line is NAME=value, or a comment after #",
            ),
            ("\nA='x", "e:2: the value of A has no closing '"),
            (
                "I='a\nb'\nA=\"x\" y",
                "e:3: after the value of A stands \"y\"; put all of it into the quotes",
            ),
        ] {
            let error = parse("e", text, &known()).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
