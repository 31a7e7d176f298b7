//! `$NAME` and `${NAME…}` in values. Keys stay as they are.

use std::collections::BTreeMap;

use crate::error::{Error, Path, Result};
use crate::node::{Kind, Node};

/// Where names come from.
pub type Variables = BTreeMap<String, String>;

/// Replaces every variable of a tree. Names that nobody has set are put into `unset`.
pub fn interpolate(
    node: &mut Node,
    path: &Path,
    variables: &Variables,
    unset: &mut Vec<String>,
) -> Result<()> {
    match &mut node.kind {
        Kind::Text(text) if text.contains('$') => {
            *text = substitute(text, variables, unset)
                .map_err(|reason| Error::field(&node.at, path, reason))?;
            Ok(())
        }
        Kind::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                interpolate(item, &path.index(index), variables, unset)?;
            }
            Ok(())
        }
        Kind::Map(entries) => {
            for entry in entries {
                interpolate(&mut entry.value, &path.key(&entry.key), variables, unset)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// One text. The error is a reason, for whoever knows where the text is.
pub fn substitute(
    text: &str,
    variables: &Variables,
    unset: &mut Vec<String>,
) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = rest.find('$') {
        result.push_str(&rest[..place]);
        rest = &rest[place + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('{') {
            let end = closing(inner)
                .ok_or_else(|| format!("{text:?} has a ${{ without its }}; a $ is written $$"))?;
            result.push_str(&braced(&inner[..end], variables, unset)?);
            rest = &inner[end + 1..];
        } else {
            let length = name_length(rest);
            if length == 0 {
                return Err(format!(
                    "{text:?} has a $ that begins no variable's name; a $ is written $$"
                ));
            }
            result.push_str(&value(&rest[..length], variables, unset));
            rest = &rest[length..];
        }
    }
    result.push_str(rest);
    Ok(result)
}

/// The brace that ends what began before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (place, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(place),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn name_length(text: &str) -> usize {
    let is_part = |(place, c): &(usize, char)| {
        *c == '_' || c.is_ascii_alphabetic() || (*place > 0 && c.is_ascii_digit())
    };
    text.char_indices().take_while(is_part).count()
}

fn value(name: &str, variables: &Variables, unset: &mut Vec<String>) -> String {
    variables.get(name).cloned().unwrap_or_else(|| {
        unset.push(name.to_owned());
        String::new()
    })
}

/// What stands between the braces.
fn braced(inner: &str, variables: &Variables, unset: &mut Vec<String>) -> Result<String, String> {
    let length = name_length(inner);
    let (name, rest) = inner.split_at(length);
    let bad = || {
        format!(
            "${{{inner}}} cannot be understood: a name may be followed by :-, -, :?, ?, :+ or + \
             and a word; a $ is written $$"
        )
    };
    if name.is_empty() {
        return Err(bad());
    }
    if rest.is_empty() {
        return Ok(value(name, variables, unset));
    }
    let (also_empty, rest) = match rest.strip_prefix(':') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let operator = rest.chars().next().ok_or_else(bad)?;
    let word = &rest[operator.len_utf8()..];
    let set = variables
        .get(name)
        .filter(|value| !(also_empty && value.is_empty()));
    match (operator, set) {
        ('-' | '?', Some(value)) => Ok(value.clone()),
        ('-', None) => substitute(word, variables, unset),
        ('?', None) => {
            let word = substitute(word, variables, unset)?;
            let said = if word.is_empty() {
                String::new()
            } else {
                format!(": {word}")
            };
            Err(format!(
                "the variable {name} has to be set{said} (in the environment, or in .env)"
            ))
        }
        ('+', Some(_)) => substitute(word, variables, unset),
        ('+', None) => Ok(String::new()),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> Variables {
        [("NAME", "web"), ("EMPTY", ""), ("_x1", "y")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    fn all(text: &str) -> Result<String, String> {
        substitute(text, &given(), &mut Vec::new())
    }

    #[test]
    fn variables_are_replaced() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$NAME-1", "web-1"),
            ("${NAME}1", "web1"),
            ("$_x1.", "y."),
            ("$$NAME", "$NAME"),
            ("$${NAME}", "${NAME}"),
            ("${NAME:-no}", "web"),
            ("${EMPTY:-yes}", "yes"),
            ("${EMPTY-no}", ""),
            ("${GONE-yes}", "yes"),
            ("${GONE:-}", ""),
            ("${GONE:-${NAME}-x}", "web-x"),
            ("${GONE:-${GONE2:-{a}}}!", "{a}!"),
            ("${NAME:-{\"a\": 1}}", "web"),
            ("${GONE-a:b-c}", "a:b-c"),
            ("${NAME:+yes}", "yes"),
            ("${EMPTY:+no}", ""),
            ("${EMPTY+yes}", "yes"),
            ("${GONE+no}", ""),
            ("${NAME:?no}", "web"),
            ("${EMPTY?no}", ""),
            ("a${NAME}b${NAME}c", "awebbwebc"),
            ("${GONE:-a$$b}", "a$b"),
        ] {
            assert_eq!(all(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_write() {
        for (text, part) in [
            ("${NAME", "without its }"),
            ("$", "written $$"),
            ("a $ b", "written $$"),
            ("$1", "written $$"),
            ("${}", "cannot be understood"),
            ("${NAME!x}", "cannot be understood"),
            ("${NAME:}", "cannot be understood"),
            ("${GONE:?is needed}", "GONE has to be set: is needed (in"),
            ("${EMPTY:?}", "EMPTY has to be set (in"),
            ("${GONE?for ${NAME}}", "GONE has to be set: for web (in"),
        ] {
            let error = all(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn names_that_nobody_set_are_told() {
        let mut unset = Vec::new();
        substitute("$A ${B} ${C:-c} ${D+d}", &given(), &mut unset).unwrap();
        assert_eq!(unset, ["A", "B"]);
    }
}
