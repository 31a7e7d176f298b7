//! Patterns of paths: those of `.dockerignore`, with `**` and exceptions, and those of sources that
//! are copied. As Go's `filepath.Match` and Docker's pattern matcher have them.

use std::collections::BTreeSet;

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is no pattern of paths: {problem}")]
pub struct BadPattern {
    pub pattern: String,
    pub problem: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Letter(char),
    /// Any letter but a slash.
    One,
    /// Any letters without a slash.
    Within,
    /// Anything.
    All,
    /// The next part may be left out.
    Optional,
    /// Anything up to and with a slash.
    Directories,
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

/// One pattern, for whole paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

impl Pattern {
    /// With `**` for any number of directories.
    pub fn deep(pattern: &str) -> Result<Self, BadPattern> {
        Self::parse(pattern, true)
    }

    /// Where `**` is no more than `*`.
    pub fn flat(pattern: &str) -> Result<Self, BadPattern> {
        Self::parse(pattern, false)
    }

    /// Whether a path has letters that mean more than themselves.
    pub fn is_one(path: &str) -> bool {
        path.contains(['*', '?', '['])
    }

    fn parse(pattern: &str, is_deep: bool) -> Result<Self, BadPattern> {
        let bad = |problem| BadPattern {
            pattern: pattern.to_owned(),
            problem,
        };
        let mut parts = Vec::new();
        let mut letters = pattern.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '*' if is_deep && letters.peek() == Some(&'*') => {
                    letters.next();
                    letters.next_if_eq(&'/');
                    if letters.peek().is_none() {
                        parts.push(Part::All);
                    } else {
                        parts.extend([Part::Optional, Part::Directories]);
                    }
                }
                '*' => parts.push(Part::Within),
                '?' => parts.push(Part::One),
                '\\' => {
                    let next = letters.next().ok_or_else(|| bad("it ends with \\"))?;
                    parts.push(Part::Letter(next));
                }
                '[' => parts.push(class(&mut letters).ok_or_else(|| bad("[ does not end"))?),
                other => parts.push(Part::Letter(other)),
            }
        }
        Ok(Self(parts))
    }

    /// Follows all ways through the pattern at once: the time does not grow with its stars.
    pub fn matches(&self, path: &str) -> bool {
        let mut states = BTreeSet::new();
        self.enter(0, &mut states);
        for letter in path.chars() {
            let mut next = BTreeSet::new();
            for &state in &states {
                self.step(state, letter, &mut next);
            }
            states = next;
            if states.is_empty() {
                return false;
            }
        }
        states.contains(&self.0.len())
    }

    /// A state, and those that are reached without a letter.
    fn enter(&self, state: usize, states: &mut BTreeSet<usize>) {
        if !states.insert(state) {
            return;
        }
        match self.0.get(state) {
            Some(Part::Within | Part::All) => self.enter(state + 1, states),
            Some(Part::Optional) => {
                self.enter(state + 1, states);
                self.enter(state + 2, states);
            }
            _ => {}
        }
    }

    fn step(&self, state: usize, letter: char, next: &mut BTreeSet<usize>) {
        let Some(part) = self.0.get(state) else {
            return;
        };
        let takes = match part {
            Part::Letter(wanted) => *wanted == letter,
            Part::One => letter != '/',
            Part::Class { not, ranges } => {
                let within = |(low, high): &(char, char)| (*low..=*high).contains(&letter);
                letter != '/' && ranges.iter().any(within) != *not
            }
            Part::Within => {
                if letter != '/' {
                    self.enter(state, next);
                }
                return;
            }
            Part::All => {
                self.enter(state, next);
                return;
            }
            Part::Directories => {
                self.enter(state, next);
                letter == '/'
            }
            Part::Optional => false,
        };
        if takes {
            self.enter(state + 1, next);
        }
    }
}

fn class(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Part> {
    let not = letters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let one = |letters: &mut std::iter::Peekable<std::str::Chars<'_>>| match letters.next()? {
        '\\' => letters.next(),
        other => Some(other),
    };
    loop {
        if letters.peek() == Some(&']') && !ranges.is_empty() {
            letters.next();
            return Some(Part::Class { not, ranges });
        }
        let low = one(letters)?;
        let high = match letters.next_if_eq(&'-') {
            Some(_) => one(letters)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

/// The rules of a `.dockerignore`: the last one that matches a path, or a directory above it, wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    pattern: Pattern,
    /// It takes back what earlier rules left out.
    keeps: bool,
}

impl Ignore {
    /// The text of a `.dockerignore`.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self::of(text.lines().filter(|line| !line.starts_with('#')))
    }

    /// Patterns one by one.
    pub fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, BadPattern> {
        let mut rules = Vec::new();
        for pattern in patterns {
            let pattern = pattern.trim();
            let (keeps, path) = match pattern.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, pattern),
            };
            if path.is_empty() {
                if keeps {
                    return Err(BadPattern {
                        pattern: pattern.to_owned(),
                        problem: "nothing follows !",
                    });
                }
                continue;
            }
            let path = clean(path);
            if !path.is_empty() {
                let pattern = Pattern::deep(&path)?;
                rules.push(Rule { pattern, keeps });
            }
        }
        Ok(Self(rules))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something may be kept in a directory that is left out.
    pub fn has_exceptions(&self) -> bool {
        self.0.iter().any(|rule| rule.keeps)
    }

    /// Whether a path, relative and without `.` and `..`, is left out.
    pub fn excludes(&self, path: &str) -> bool {
        let mut excluded = false;
        for rule in &self.0 {
            // Only a rule that changes something is worth looking at.
            if rule.keeps == excluded && rule.matches(path) {
                excluded = !rule.keeps;
            }
        }
        excluded
    }
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at);
        let mut above = ends.filter_map(|at| path.get(..at));
        self.pattern.matches(path) || above.any(|directory| self.pattern.matches(directory))
    }
}

/// A path without `.`, `..` and slashes that say nothing, relative to the root.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_docker_s_do() {
        for (pattern, path, expected) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "file", true),
            ("**/file", "file", true),
            ("**/file", "a/b/file", true),
            ("**/file", "a/bfile", false),
            ("dir/**", "dir/a/b", true),
            ("dir/**", "dir", false),
            ("**/dir2/*", "a/dir2/x", true),
            ("**/dir2/*", "a/dir2/x/y", false),
            ("**/dir2/**", "a/dir2/x/y", true),
            ("**file", "dir/file", true),
            ("**/**/*.txt", "a/b.txt", true),
            ("a**/*.txt", "a/b.txt", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "a/b.txt", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "ace", false),
            ("a[^b-d]e", "a/e", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("a.b", "axb", false),
            ("a$b(c)", "a$b(c)", true),
            ("ä*", "äö", true),
            ("", "", true),
            ("", "x", false),
        ] {
            let found = Pattern::deep(pattern).unwrap().matches(path);
            assert_eq!(found, expected, "{pattern} {path}");
        }
        assert!(!Pattern::flat("**/x").unwrap().matches("a/b/x"));
        for bad in ["[a", "a\\", "[", "[]"] {
            assert!(Pattern::deep(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_rule_that_matches_wins() {
        let ignore = Ignore::parse(
            "\u{feff}# comment\n\n/target\n*.md\n!README.md\n  docs/  \n!docs/keep\n./a/../b\n**/.git\n",
        )
        .unwrap();
        for (path, expected) in [
            ("target", true),
            ("target/debug/x", true),
            ("sub/target", false),
            ("a.md", true),
            ("README.md", false),
            ("sub/a.md", false),
            ("docs/x", true),
            ("docs/keep", false),
            ("docs/keep/x", false),
            ("b", true),
            ("a", false),
            ("x/y/.git/config", true),
            ("# comment", false),
        ] {
            assert_eq!(ignore.excludes(path), expected, "{path}");
        }
        assert!(Ignore::parse("!").is_err());
        assert!(Ignore::parse("[").is_err());
        assert!(Ignore::parse("# a\n/\n").unwrap().is_empty());
        let star = Ignore::parse("*\n!src\n!*.toml").unwrap();
        assert!(star.excludes("x") && !star.excludes("src/x") && !star.excludes("Cargo.toml"));
    }

    #[test]
    fn a_pattern_of_many_stars_is_quick() {
        let pattern = Pattern::deep(&"**/a*".repeat(40)).unwrap();
        assert!(!pattern.matches(&"a/".repeat(400)));
    }

    #[test]
    fn paths_stay_below_the_root() {
        for (path, expected) in [
            ("/a//b/./c/", "a/b/c"),
            ("../../a", "a"),
            ("a/../..", ""),
            ("", ""),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
