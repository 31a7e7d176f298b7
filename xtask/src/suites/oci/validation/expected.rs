//! Programs that are known not to pass, with the reason.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use crate::workspace;

#[derive(Debug)]
pub struct Expected(BTreeMap<String, String>);

impl Expected {
    /// Of a file below `integration/oci`.
    pub fn read(name: &str) -> Result<Self> {
        let path = workspace::root().join("integration/oci").join(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text)
    }

    /// `name: reason` on each line.
    fn parse(text: &str) -> Result<Self> {
        text.lines()
            .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
            .map(|line| {
                let (name, reason) = line
                    .split_once(": ")
                    .with_context(|| format!("{line:?} names no reason"))?;
                Ok((name.to_owned(), reason.to_owned()))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    pub fn reason(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_reason_is_refused() {
        let expected = Expected::parse("# why\n\nmounts: is not there\n").unwrap();
        assert_eq!(expected.reason("mounts"), Some("is not there"));
        assert_eq!(expected.reason("delete"), None);
        assert!(Expected::parse("mounts\n").is_err());
    }
}
