//! What a program said, in the Test Anything Protocol (testanything.org).

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    ended_well: bool,
    /// How often each assertion held.
    held: BTreeMap<String, usize>,
    broken: Vec<String>,
    skipped: usize,
    /// Something went wrong outside all assertions, or inside one.
    told_an_error: bool,
    said: String,
}

impl Outcome {
    pub fn parse(ended_well: bool, stdout: &str, stderr: &str) -> Self {
        let mut outcome = Self {
            ended_well,
            held: BTreeMap::new(),
            broken: Vec::new(),
            skipped: 0,
            told_an_error: stdout.contains("\"error\": "),
            said: stderr.trim().to_owned(),
        };
        for line in stdout.lines() {
            if let Some(words) = line.strip_prefix("not ok ") {
                outcome.broken.push(assertion(words));
            } else if let Some(words) = line.strip_prefix("ok ") {
                match words.to_ascii_lowercase().contains("# skip") {
                    true => outcome.skipped += 1,
                    false => *outcome.held.entry(assertion(words)).or_default() += 1,
                }
            }
        }
        outcome
    }

    /// Something held and nothing did not; what a specification does not ask for is skipped. Some
    /// programs assert nothing and only tell what went wrong; others explain with it why something
    /// holds.
    pub fn passed(&self) -> bool {
        let silent = self.skipped == 0 && !self.told_an_error;
        self.ended_well && self.broken.is_empty() && (!self.held.is_empty() || silent)
    }

    /// Assertions that held there more often than here.
    pub fn misses_of(&self, other: &Self) -> Vec<String> {
        let here = |name: &str| self.held.get(name).copied().unwrap_or_default();
        other
            .held
            .iter()
            .filter(|(name, count)| here(name) < **count)
            .map(|(name, _)| name.clone())
            .collect()
    }

    pub fn complaint(&self) -> String {
        match (self.broken.is_empty(), self.skipped) {
            (false, _) => format!("not ok: {:?} {}", self.broken, self.said),
            (true, 0) => format!("broke off or told an error: {}", self.said),
            (true, _) => format!("is skipped {}", self.said),
        }
    }
}

/// `3 - the words`, without the number.
fn assertion(words: &str) -> String {
    let text = words.trim_start_matches(|c: char| c.is_ascii_digit());
    text.trim_start_matches([' ', '-']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertions_are_counted_by_their_words() {
        let text = "TAP version 13\nok 1 - same\nok 2 - same\n  ---\n  ok 9\n  ...\n\
                    not ok 3 - other\nok 4 # SKIP no reason\n1..4\n";
        let outcome = Outcome::parse(true, text, "");
        assert_eq!(outcome.held, BTreeMap::from([("same".to_owned(), 2)]));
        assert_eq!(outcome.broken, ["other"]);
        assert_eq!(outcome.skipped, 1);
        assert!(!outcome.passed());
        let less = Outcome::parse(true, "ok 1 - same", "");
        assert_eq!(less.misses_of(&outcome), ["same"]);
        assert!(outcome.misses_of(&less).is_empty());
    }

    #[test]
    fn a_program_that_tells_an_error_or_breaks_off_has_not_passed() {
        let error = "TAP version 13\n  ---\n  {\n    \"error\": \"x\"\n  }\n1..0\n";
        assert!(!Outcome::parse(true, error, "").passed());
        assert!(Outcome::parse(true, "TAP version 13\n1..0\n", "").passed());
        assert!(!Outcome::parse(false, "ok 1 - a", "").passed());
        assert!(!Outcome::parse(true, "1..1\nok 1 # SKIP x", "").passed());
        assert!(Outcome::parse(true, "ok 1 - a", "").passed());
    }
}
