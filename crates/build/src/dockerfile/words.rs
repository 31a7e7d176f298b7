//! A line taken apart: words with their places, flags, pairs, lists. Quotes and escapes stay in the
//! words: they are resolved when variables are.

use super::syntax_error::Problem;

/// A part of a line, and how many characters stand before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub at: usize,
}

/// A flag as it is written: `--name=value` or `--name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    pub name: String,
    pub value: Option<String>,
    pub at: usize,
}

/// Parts between white space, whatever the quotes.
pub fn plain(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    for (at, letter) in text.chars().enumerate() {
        if letter.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_with(|| Word {
            text: String::new(),
            at,
        });
        word.text.push(letter);
    }
    words.extend(word);
    words
}

/// Parts between white space that is neither quoted nor escaped.
pub fn quoted(text: &str, escape: char) -> Vec<Word> {
    let mut scan = Scan::new(text, escape);
    let mut words = Vec::new();
    while let Some(word) = scan.word() {
        words.push(word);
    }
    words
}

/// Takes flags off the front. What is left begins at the returned place.
pub fn flags(text: &str, escape: char) -> (Vec<Flag>, usize) {
    let mut scan = Scan::new(text, escape);
    let mut flags = Vec::new();
    loop {
        let before = scan.skip_space();
        let Some(word) = scan.word() else {
            return (flags, before);
        };
        let Some(flag) = word.text.strip_prefix("--") else {
            return (flags, before);
        };
        if flag.is_empty() {
            return (flags, scan.skip_space());
        }
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        flags.push(Flag {
            name: name.to_owned(),
            value,
            at: word.at,
        });
    }
}

/// `a=1 b=2`, or the old form `a the rest`, which is told by the flag.
pub fn pairs(text: &str, escape: char) -> Result<(Vec<(Word, Word)>, bool), Problem> {
    let words = quoted(text, escape);
    let Some(first) = words.first() else {
        return Err(Problem::new(0, "a name and a value are missing"));
    };
    if !first.text.contains('=') {
        let name_length = first.text.chars().count();
        let rest: String = text.chars().skip(first.at + name_length).collect();
        let skipped = rest.chars().take_while(|letter| letter.is_whitespace());
        let at = first.at + name_length + skipped.count();
        let value = rest.trim();
        if value.is_empty() {
            let what = format!("{} has no value", first.text);
            return Err(Problem::new(first.at, what).advise("write NAME=VALUE"));
        }
        let value = Word {
            text: value.to_owned(),
            at,
        };
        return Ok((vec![(first.clone(), value)], true));
    }
    let pair = |word: &Word| match word.text.split_once('=') {
        Some(("", _)) => Err(Problem::new(word.at, "a name is missing before =")),
        Some((name, value)) => {
            let value = Word {
                text: value.to_owned(),
                at: word.at + name.chars().count() + 1,
            };
            let name = Word {
                text: name.to_owned(),
                at: word.at,
            };
            Ok((name, value))
        }
        None => {
            let what = format!("{} has no =", word.text);
            Err(Problem::new(word.at, what)
                .advise("write NAME=VALUE, and values with spaces in quotes"))
        }
    };
    let pairs = words.iter().map(pair).collect::<Result<_, _>>()?;
    Ok((pairs, false))
}

/// A JSON array of strings; `None` where the text is none and is meant for the shell.
pub fn json(text: &str) -> Result<Option<Vec<String>>, Problem> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(serde_json::Value::Array(values)) = serde_json::from_str(text) else {
        return Ok(None);
    };
    let string = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Ok(text),
        other => {
            let what = format!("{other} is no string: a JSON array may have strings alone");
            let at = text.find(&other.to_string()).unwrap_or(0);
            Err(Problem::new(at, what).advise(format!("write \"{other}\" in quotes")))
        }
    };
    values
        .into_iter()
        .map(string)
        .collect::<Result<_, _>>()
        .map(Some)
}

struct Scan {
    letters: Vec<char>,
    at: usize,
    escape: char,
}

impl Scan {
    fn new(text: &str, escape: char) -> Self {
        Self {
            letters: text.chars().collect(),
            at: 0,
            escape,
        }
    }

    fn peek(&self) -> Option<char> {
        self.letters.get(self.at).copied()
    }

    fn skip_space(&mut self) -> usize {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
        self.at
    }

    fn word(&mut self) -> Option<Word> {
        let at = self.skip_space();
        let mut text = String::new();
        let mut quote = None;
        while let Some(letter) = self.peek() {
            if quote.is_none() && letter.is_whitespace() {
                break;
            }
            self.at += 1;
            text.push(letter);
            match quote {
                Some(open) if letter == open => quote = None,
                // Between single quotes nothing is special.
                Some('\'') => {}
                _ if letter == self.escape => {
                    if let Some(next) = self.peek() {
                        text.push(next);
                        self.at += 1;
                    }
                }
                None if matches!(letter, '\'' | '"') => quote = Some(letter),
                _ => {}
            }
        }
        (!text.is_empty()).then_some(Word { text, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: Vec<Word>) -> Vec<String> {
        words.into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn quotes_and_escapes_keep_words_together() {
        for (text, expected) in [
            ("a  b\tc", &["a", "b", "c"][..]),
            ("a=\"b c\" d='e f'", &["a=\"b c\"", "d='e f'"]),
            ("a=b\\ c d", &["a=b\\ c", "d"]),
            ("a=\"b \\\" c\" d", &["a=\"b \\\" c\"", "d"]),
            ("a='b \\' d", &["a='b \\'", "d"]),
            ("a=\"never ends", &["a=\"never ends"]),
            ("", &[]),
        ] {
            assert_eq!(texts(quoted(text, '\\')), expected, "{text:?}");
        }
        assert_eq!(texts(plain("\"a b\" c")), ["\"a", "b\"", "c"]);
    }

    #[test]
    fn flags_stand_before_everything_else() {
        let names = |text| {
            let (flags, at) = flags(text, '\\');
            let rest: String = text.chars().skip(at).collect();
            let names: Vec<_> = flags
                .into_iter()
                .map(|flag| (flag.name, flag.value))
                .collect();
            (names, rest)
        };
        let flag = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        assert_eq!(names(" a --b"), (vec![], "a --b".into()));
        assert_eq!(
            names("--from=x  --link a b"),
            (
                vec![flag("from", Some("x")), flag("link", None)],
                "a b".into()
            )
        );
        assert_eq!(
            names("--mount=type=cache,target=\"/a b\" x"),
            (
                vec![flag("mount", Some("type=cache,target=\"/a b\""))],
                "x".into()
            )
        );
        assert_eq!(names("--a -- --b"), (vec![flag("a", None)], "--b".into()));
        assert_eq!(names("--a"), (vec![flag("a", None)], String::new()));
    }

    #[test]
    fn pairs_are_new_or_old() {
        let read = |text| {
            let (pairs, old) = pairs(text, '\\').unwrap();
            let pairs: Vec<_> = pairs.into_iter().map(|(a, b)| (a.text, b.text)).collect();
            (pairs, old)
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            read("a=1 b=\"x y\" c="),
            (
                vec![pair("a", "1"), pair("b", "\"x y\""), pair("c", "")],
                false
            )
        );
        assert_eq!(read("PATH /a b  c "), (vec![pair("PATH", "/a b  c")], true));
        for bad in ["", "a", "a=1 b", "=1"] {
            assert!(pairs(bad, '\\').is_err(), "{bad}");
        }
    }

    #[test]
    fn an_array_has_strings_alone() {
        assert_eq!(json("ls [a]").unwrap(), None);
        assert_eq!(json("['a']").unwrap(), None);
        assert_eq!(json("[\"a\", \"b\"").unwrap(), None);
        assert_eq!(
            json(" [\"a\", \"b c\"] ").unwrap(),
            Some(vec!["a".into(), "b c".into()])
        );
        assert_eq!(json("[]").unwrap(), Some(vec![]));
        assert!(json("[\"a\", 1]").is_err());
    }
}
