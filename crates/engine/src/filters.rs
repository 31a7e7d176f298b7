//! Filters of lists, prunings and events: a JSON map from a filter's name to the values that it
//! accepts, as an array or, as old clients write it, as a map to `true`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::{Error, Result};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Map(BTreeMap<String, bool>),
}

impl Filters {
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let parsed: BTreeMap<String, Values> =
            serde_json::from_str(text).map_err(|_| Error::bad("invalid filter"))?;
        let filters = parsed.into_iter().map(|(name, values)| {
            let values = match values {
                Values::List(values) => values.into_iter().collect(),
                Values::Map(values) => {
                    let set = values.into_iter().filter(|(_, is_set)| *is_set);
                    set.map(|(value, _)| value).collect()
                }
            };
            (name, values)
        });
        Ok(Self(filters.collect()))
    }

    /// Refuses filters with other names.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(Error::bad(format!("invalid filter '{name}'"))),
            None => Ok(()),
        }
    }

    pub fn add(&mut self, name: &str, value: &str) {
        let values = self.0.entry(name.to_owned()).or_default();
        values.insert(value.to_owned());
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Values of a filter; none where it is not given.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Whether the filter is not given, or any of its values is accepted by `matches`.
    pub fn any(&self, name: &str, matches: impl Fn(&str) -> bool) -> bool {
        match self.0.get(name) {
            Some(values) if !values.is_empty() => values.iter().any(|value| matches(value)),
            _ => true,
        }
    }

    /// Whether the filter is not given, or one of its values is exactly this.
    pub fn exact(&self, name: &str, value: &str) -> bool {
        self.any(name, |wanted| wanted == value)
    }

    /// Whether all of `key` and `key=value` in the filter hold for these labels.
    pub fn labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(name)
            .all(|wanted| match wanted.split_once('=') {
                Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
                None => labels.contains_key(wanted),
            })
    }

    /// A filter that is a single yes or no; `None` where it is not given.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        let mut values = self.values(name);
        let (first, second) = (values.next(), values.next());
        match (first, second) {
            (None, _) => Ok(None),
            (Some("1" | "true" | "True" | "TRUE" | "t" | "T"), None) => Ok(Some(true)),
            (Some("0" | "false" | "False" | "FALSE" | "f" | "F"), None) => Ok(Some(false)),
            _ => {
                let given: Vec<_> = self.values(name).collect();
                Err(Error::bad(format!(
                    "invalid filter '{name}=[{}]'",
                    given.join(" ")
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let new = Filters::parse(r#"{"label":["a=1","b"],"dangling":["true"]}"#).unwrap();
        let old =
            Filters::parse(r#"{"label":{"a=1":true,"b":true,"c":false},"dangling":{"true":true}}"#)
                .unwrap();
        assert_eq!(new, old);
        assert_eq!(new.flag("dangling").unwrap(), Some(true));
        assert_eq!(new.flag("until").unwrap(), None);
        assert!(new.only(&["label", "dangling"]).is_ok());
        let error = new.only(&["label"]).unwrap_err();
        assert_eq!(error.to_string(), "invalid filter 'dangling'");
    }

    #[test]
    fn labels_must_all_hold_and_values_may_be_any() {
        let filters = Filters::parse(r#"{"label":["a=1","b"],"name":["x","y"]}"#).unwrap();
        let labels = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            filters.labels("label", &pairs.collect())
        };
        assert!(labels(&[("a", "1"), ("b", "2")]));
        assert!(!labels(&[("a", "2"), ("b", "2")]));
        assert!(!labels(&[("a", "1")]));
        assert!(filters.exact("name", "y") && !filters.exact("name", "z"));
        assert!(filters.exact("absent", "z"));
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["x", "[]", r#"{"a":"b"}"#, r#"{"a":{"b":1}}"#] {
            assert!(Filters::parse(text).is_err(), "{text}");
        }
        let two = Filters::parse(r#"{"dangling":["true","false"]}"#).unwrap();
        assert!(two.flag("dangling").is_err());
    }
}
