//! Properties of units as annotations: values in GVariant's text form.

use super::wire::{Property, Value};
use crate::error::{Error, Result};

const MICROSECONDS: u64 = 1_000_000;

impl Value {
    /// The property `name` with the value that `text` stands for: `true`,
    /// `'word'`, `['a', 'b']`, or a number, with its type before it if that
    /// is not `int32`. A `…Sec` is given in seconds and told as `…USec`.
    pub fn of_annotation(name: &str, text: &str) -> Result<Property> {
        let invalid = |problem| Error::InvalidResource {
            setting: "a property of the unit",
            value: format!("{name}={text}").chars().take(256).collect(),
            problem,
        };
        let named = name.len() > 2
            && name.bytes().all(|byte| byte.is_ascii_alphabetic())
            && name.starts_with(|first: char| first.is_ascii_uppercase());
        if !named {
            return Err(invalid("is not the name of a property"));
        }
        let value =
            parse(text.trim()).ok_or_else(|| invalid("has a value that is not understood"))?;
        let seconds = name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U'));
        let Some(stem) = seconds else {
            return Ok((name.to_owned(), value));
        };
        let count = match value {
            Value::I32(value) => u64::try_from(value).ok(),
            Value::I64(value) => u64::try_from(value).ok(),
            Value::U32(value) => Some(u64::from(value)),
            Value::U64(value) => Some(value),
            _ => None,
        };
        count
            .and_then(|count| count.checked_mul(MICROSECONDS))
            .map(|count| (format!("{stem}USec"), Value::U64(count)))
            .ok_or_else(|| invalid("is not a number of seconds"))
    }
}

fn parse(text: &str) -> Option<Value> {
    if let Some(list) = text.strip_prefix('[') {
        let list = list.strip_suffix(']')?.trim();
        let words = list.split(',').filter(|_| !list.is_empty());
        return words
            .map(|word| quoted(word.trim()))
            .collect::<Option<_>>()
            .map(Value::Texts);
    }
    if let Some(word) = quoted(text) {
        return Some(Value::Text(word));
    }
    let (kind, number) = text.split_once(' ').unwrap_or(("int32", text));
    let number = number.trim();
    match (kind, number) {
        ("int32", "true") => Some(Value::Bool(true)),
        ("int32", "false") => Some(Value::Bool(false)),
        ("int32", number) => number.parse().ok().map(Value::I32),
        ("uint32", number) => number.parse().ok().map(Value::U32),
        ("int64", number) => number.parse().ok().map(Value::I64),
        ("uint64", number) => number.parse().ok().map(Value::U64),
        _ => None,
    }
}

/// Without escapes, which no property of a unit needs.
fn quoted(text: &str) -> Option<String> {
    let inner = ['\'', '"']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))?;
    (!inner.contains(['\'', '"', '\\'])).then(|| inner.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_types() {
        let texts = |words: &[&str]| Value::Texts(words.iter().map(ToString::to_string).collect());
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("-7", Value::I32(-7)),
            ("uint32 7", Value::U32(7)),
            ("int64 -7", Value::I64(-7)),
            ("uint64 7", Value::U64(7)),
            ("'a b'", Value::Text("a b".to_owned())),
            ("\"a\"", Value::Text("a".to_owned())),
            ("['a', 'b']", texts(&["a", "b"])),
            ("[]", texts(&[])),
        ] {
            let (name, read) = Value::of_annotation("Some", text).unwrap();
            assert_eq!((name.as_str(), read), ("Some", value), "{text}");
        }
        for text in ["", "x", "'a", "['a', b]", "uint32 -1", "uint99 1", "'\\n'"] {
            assert!(Value::of_annotation("Some", text).is_err(), "{text}");
        }
        for name in ["", "some", "A.b", "No"] {
            assert!(Value::of_annotation(name, "1").is_err(), "{name}");
        }
    }

    #[test]
    fn seconds_are_told_in_microseconds() {
        let read = |name, text| Value::of_annotation(name, text);
        let told = ("TimeoutStopUSec".to_owned(), Value::U64(3_000_000));
        assert_eq!(read("TimeoutStopSec", "3").unwrap(), told);
        assert_eq!(read("TimeoutStopUSec", "uint64 3000000").unwrap(), told);
        assert!(read("TimeoutStopSec", "'3'").is_err());
        assert!(read("TimeoutStopSec", "-3").is_err());
    }
}
