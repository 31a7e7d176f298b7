//! What a file says, with the place of each word: the form in which files are read, merged and
//! checked.

use crate::error::At;

#[derive(Debug, Clone)]
pub struct Node {
    pub at: At,
    pub kind: Kind,
    pub merge: Mark,
}

/// Tags that tell how a value meets the one that it overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mark {
    #[default]
    None,
    /// `!reset`: what was there goes, and so does this.
    Reset,
    /// `!override`: this stands as it is.
    Override,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    /// Of the key, so that an unknown one can be pointed at.
    pub at: At,
    pub value: Node,
}

/// Two nodes are the same where they say the same, wherever that is.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Node {
    pub fn new(at: &At, kind: Kind) -> Self {
        Self {
            at: at.clone(),
            kind,
            merge: Mark::None,
        }
    }

    pub fn text(at: &At, text: impl Into<String>) -> Self {
        Self::new(at, Kind::Text(text.into()))
    }

    pub fn map<const N: usize>(at: &At, entries: [(&str, Kind); N]) -> Self {
        let entry = |(key, kind): (&str, Kind)| Entry {
            key: key.to_owned(),
            at: at.clone(),
            value: Self::new(at, kind),
        };
        Self::new(at, Kind::Map(entries.into_iter().map(entry).collect()))
    }

    pub fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        let entry = self.entries().iter().find(|entry| entry.key == key)?;
        Some(&entry.value)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.kind {
            Kind::Map(entries) => {
                let entry = entries.iter_mut().find(|entry| entry.key == key)?;
                Some(&mut entry.value)
            }
            _ => None,
        }
    }

    /// Replaces what is there. Only of a map.
    pub fn set(&mut self, key: &str, value: Node) {
        if let Some(old) = self.get_mut(key) {
            *old = value;
        } else if let Kind::Map(entries) = &mut self.kind {
            entries.push(Entry {
                key: key.to_owned(),
                at: value.at.clone(),
                value,
            });
        }
    }

    pub fn take(&mut self, key: &str) -> Option<Node> {
        match &mut self.kind {
            Kind::Map(entries) => {
                let place = entries.iter().position(|entry| entry.key == key)?;
                Some(entries.remove(place).value)
            }
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Any scalar as it is written into an environment; `None` for null, lists and maps.
    pub fn scalar(&self) -> Option<String> {
        match &self.kind {
            Kind::Bool(value) => Some(value.to_string()),
            Kind::Int(value) => Some(value.to_string()),
            Kind::Float(value) => Some(float(*value)),
            Kind::Text(text) => Some(text.clone()),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// For messages.
    pub fn what(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
            Kind::Text(text) => format!("{text:?}"),
            _ => self.scalar().unwrap_or_default(),
        }
    }
}

/// As Go writes one, so that stock clients see the same: the shortest digits, with an exponent only
/// where the number is very large or very small.
pub fn float(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    value.to_string()
}
