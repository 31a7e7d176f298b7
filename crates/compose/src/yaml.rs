//! YAML text to nodes: anchors and aliases, merge keys, and the tags that Compose knows.
//!
//! Plain scalars mean what they mean to other Compose programs, which is YAML 1.2 with octal
//! numbers that begin with a zero.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use crate::error::{At, Error, Result};
use crate::node::{Entry, Kind, Mark, Node};

/// Nodes that one file may come to when its aliases are written out. A file of a few hundred bytes
/// can ask for billions.
const MOST: usize = 1_000_000;

/// Every document of a file, in order.
pub fn documents(file: &str, text: &str) -> Result<Vec<Node>> {
    let mut reader = Reader {
        file: Arc::from(file),
        events: Parser::new_from_str(text),
        anchors: HashMap::new(),
        count: 0,
    };
    let mut documents = Vec::new();
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            event => documents.push(reader.node(event, span)?),
        }
    }
}

struct Reader<'text> {
    file: Arc<str>,
    events: Parser<'text, granit_parser::StrInput<'text>>,
    /// A node, and how many there are in it.
    anchors: HashMap<usize, (Node, usize)>,
    count: usize,
}

impl<'text> Reader<'text> {
    fn next(&mut self) -> Result<(Event<'text>, Span)> {
        match self.events.next() {
            None => Ok((Event::StreamEnd, Span::default())),
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                let at = self.at_marker(error.marker().line(), error.marker().col());
                Err(Error::Yaml(at, error.info()))
            }
        }
    }

    fn at_marker(&self, line: usize, column: usize) -> At {
        At {
            file: Arc::clone(&self.file),
            line,
            column: column + 1,
        }
    }

    fn at(&self, span: &Span) -> At {
        self.at_marker(span.start.line(), span.start.col())
    }

    fn node(&mut self, event: Event<'text>, span: Span) -> Result<Node> {
        let at = self.at(&span);
        let before = self.count;
        self.grow(1, &at)?;
        let (kind, anchor, tag) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let kind = scalar(&text, style, tag.as_deref(), &at)?;
                (kind, anchor, tag)
            }
            Event::SequenceStart(_, anchor, tag) => (self.sequence()?, anchor, tag),
            Event::MappingStart(_, anchor, tag) => (self.mapping()?, anchor, tag),
            Event::Alias(anchor) => return self.alias(anchor, &at),
            other => return Err(Error::Yaml(at, format!("{other:?} is out of place"))),
        };
        let mut node = Node::new(&at, kind);
        node.merge = mark(tag.as_deref(), &at)?;
        if anchor != 0 {
            let size = self.count - before;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, at: &At) -> Result<Node> {
        let inside = || Error::place(at, "an alias may not stand inside what it refers to");
        let (node, size) = self.anchors.get(&anchor).cloned().ok_or_else(inside)?;
        self.grow(size, at)?;
        Ok(node)
    }

    fn grow(&mut self, by: usize, at: &At) -> Result<()> {
        self.count += by;
        if self.count > MOST {
            let reason = format!("with its aliases written out, the file has over {MOST} parts");
            return Err(Error::place(at, reason));
        }
        Ok(())
    }

    fn sequence(&mut self) -> Result<Kind> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Kind::List(items)),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn mapping(&mut self) -> Result<Kind> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_plain = matches!(&event, Event::Scalar(_, ScalarStyle::Plain, ..));
            let key = self.node(event, span)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            let Some(name) = key.scalar() else {
                let reason = format!("a key has to be a word, and is {}", key.what());
                return Err(Error::place(&key.at, reason));
            };
            if is_plain && name == "<<" {
                merged.push(value);
            } else if let Some(first) = entries.iter().find(|entry| entry.key == name) {
                let reason = format!(
                    "{name:?} stands here twice, first in line {}",
                    first.at.line
                );
                return Err(Error::place(&key.at, reason));
            } else {
                entries.push(Entry {
                    key: name,
                    at: key.at,
                    value,
                });
            }
        }
        for source in merged {
            merge_key(&mut entries, source)?;
        }
        Ok(Kind::Map(entries))
    }
}

/// `<<`: what the mapping has itself stays, and an earlier source counts more than a later one.
fn merge_key(entries: &mut Vec<Entry>, source: Node) -> Result<()> {
    match source.kind {
        Kind::Map(others) => {
            for other in others {
                if entries.iter().all(|entry| entry.key != other.key) {
                    entries.push(other);
                }
            }
            Ok(())
        }
        Kind::List(sources) => {
            for source in sources {
                merge_key(entries, source)?;
            }
            Ok(())
        }
        _ => Err(Error::place(
            &source.at,
            "<< takes a mapping, or a list of mappings",
        )),
    }
}

fn mark(tag: Option<&Tag>, at: &At) -> Result<Mark> {
    let Some(tag) = tag else {
        return Ok(Mark::None);
    };
    match (tag.handle(), tag.suffix()) {
        ("!", "reset") => Ok(Mark::Reset),
        ("!", "override") => Ok(Mark::Override),
        _ if tag.is_yaml_core_schema() => Ok(Mark::None),
        ("!", "") => Ok(Mark::None),
        (handle, suffix) => Err(Error::place(
            at,
            format!("the tag {handle}{suffix} is not known; there are !reset and !override"),
        )),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: &At) -> Result<Kind> {
    let core = tag.and_then(Tag::core_suffix);
    if core == Some("str") || (style != ScalarStyle::Plain && core.is_none()) {
        return Ok(Kind::Text(text.to_owned()));
    }
    let kind = plain(text);
    let fits = match core {
        None | Some("map" | "seq") => true,
        Some("null") => kind == Kind::Null,
        Some("bool") => matches!(kind, Kind::Bool(_)),
        Some("int") => matches!(kind, Kind::Int(_)),
        Some("float") => matches!(kind, Kind::Int(_) | Kind::Float(_)),
        Some(_) => true,
    };
    if !fits {
        let tag = core.unwrap_or_default();
        return Err(Error::place(at, format!("{text:?} is no {tag}")));
    }
    Ok(kind)
}

fn plain(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    if let Some(value) = integer(text) {
        return Kind::Int(value);
    }
    let digits = text.trim_start_matches(['-', '+']);
    let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.contains(|c: char| c.is_ascii_digit())
        && digits
            .chars()
            .all(|c| c.is_ascii_digit() || "._eE+-".contains(c));
    match text.replace('_', "").parse::<f64>() {
        Ok(value) if numeric => Kind::Float(value),
        _ => Kind::Text(text.to_owned()),
    }
}

fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits.as_str()),
    };
    i64::from_str_radix(digits, radix).ok()?.checked_mul(sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        documents("c.yaml", text).unwrap().remove(0)
    }

    fn failure(text: &str) -> String {
        documents("c.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn plain_words_mean_what_they_mean_to_other_programs() {
        for (text, expected) in [
            ("~", Kind::Null),
            ("true", Kind::Bool(true)),
            ("yes", Kind::Text("yes".into())),
            ("12", Kind::Int(12)),
            ("-12", Kind::Int(-12)),
            ("0440", Kind::Int(288)),
            ("0o440", Kind::Int(288)),
            ("0x10", Kind::Int(16)),
            ("1_000", Kind::Int(1000)),
            ("089", Kind::Float(89.0)),
            ("1.10", Kind::Float(1.1)),
            ("1.2.3", Kind::Text("1.2.3".into())),
            ("-", Kind::List(vec![Node::new(&At::nowhere(), Kind::Null)])),
            ("'12'", Kind::Text("12".into())),
            ("!!str 12", Kind::Text("12".into())),
            ("8080:80", Kind::Text("8080:80".into())),
            ("e5", Kind::Text("e5".into())),
            ("inf", Kind::Text("inf".into())),
        ] {
            assert_eq!(one(text).kind, expected, "{text}");
        }
    }

    #[test]
    fn merge_keys_give_way_to_what_stands_there() {
        let file = one("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  x: 9\n  <<: [*a, *b]\n");
        let c = file.get("c").unwrap();
        for (key, value) in [("x", 9), ("y", 2), ("z", 4)] {
            assert_eq!(c.get(key).unwrap().kind, Kind::Int(value), "{key}");
        }
        assert_eq!(one("'<<': 1").get("<<").unwrap().kind, Kind::Int(1));
    }

    #[test]
    fn each_word_knows_its_place() {
        let file = one("a:\n  b: [1,\n    two]\n");
        let two = &file.get("a").unwrap().get("b").unwrap().items()[1];
        assert_eq!(two.at.to_string(), "c.yaml:3:5");
        assert_eq!(file.entries()[0].at.to_string(), "c.yaml:1:1");
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_place() {
        assert_eq!(
            failure("a: 1\nb: 2\na: 3\n"),
            "c.yaml:3:1: \"a\" stands here twice, first in line 1"
        );
        assert!(failure("a: [1\nb: }").starts_with("c.yaml:2:"));
        assert_eq!(
            failure("a: !nonsense 1"),
            "c.yaml:1:14: the tag !nonsense is not known; there are !reset and !override"
        );
        assert_eq!(failure("a: !!int x"), "c.yaml:1:10: \"x\" is no int");
        assert_eq!(
            failure("a: 1\n<<: 2\n"),
            "c.yaml:2:5: << takes a mapping, or a list of mappings"
        );
        assert_eq!(
            failure("? [1]\n: 2\n"),
            "c.yaml:1:3: a key has to be a word, and is a list"
        );
    }

    #[test]
    fn a_file_that_explodes_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let last = format!("*a{}", level - 1);
            let all = [last.as_str(); 10].join(", ");
            text += &format!("a{level}: &a{level} [{all}]\n");
        }
        assert!(failure(&text).contains("over 1000000 parts"));
    }

    #[test]
    fn tags_of_compose_are_kept() {
        let file = one("a: !reset null\nb: !override\n  - 1\n");
        assert_eq!(file.get("a").unwrap().merge, Mark::Reset);
        assert_eq!(file.get("b").unwrap().merge, Mark::Override);
    }
}
