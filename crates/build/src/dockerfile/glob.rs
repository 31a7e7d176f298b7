//! A shell's patterns in expansions of variables: `*`, `?`, and a backslash before what is meant as
//! a letter.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Letter(char),
    One,
    Any,
}

/// A pattern.
pub struct Glob(Vec<Part>);

impl Glob {
    pub fn new(pattern: &str) -> Self {
        let mut parts = Vec::new();
        let mut letters = pattern.chars();
        while let Some(letter) = letters.next() {
            parts.push(match letter {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => Part::Letter(letters.next().unwrap_or('\\')),
                other => Part::Letter(other),
            });
        }
        // A row of them means the same as one, and would be tried again and again.
        parts.dedup_by(|one, other| *one == Part::Any && *other == Part::Any);
        Self(parts)
    }

    /// The value without its shortest or longest beginning that matches.
    pub fn without_prefix<'v>(&self, value: &'v str, longest: bool) -> &'v str {
        let found = self.cut(value, longest, |at| value.get(..at).unwrap_or_default());
        found.and_then(|at| value.get(at..)).unwrap_or(value)
    }

    /// The value without its shortest or longest end that matches.
    pub fn without_suffix<'v>(&self, value: &'v str, longest: bool) -> &'v str {
        let found = self.cut(value, !longest, |at| value.get(at..).unwrap_or_default());
        found.and_then(|at| value.get(..at)).unwrap_or(value)
    }

    /// The first or last place at which what `part` cuts off matches.
    fn cut<'v>(&self, value: &str, last: bool, part: impl Fn(usize) -> &'v str) -> Option<usize> {
        let places = value.char_indices().map(|(at, _)| at).chain([value.len()]);
        let mut matching = places.filter(|at| self.matches(part(*at)));
        match last {
            true => matching.last(),
            false => matching.next(),
        }
    }

    /// The first or every part that matches, each as long as can be, replaced.
    pub fn replace(&self, value: &str, with: &str, all: bool) -> String {
        let mut replaced = String::new();
        let mut rest = value;
        while !rest.is_empty() {
            let Some(length) = self.longest_start(rest).filter(|length| *length > 0) else {
                let mut letters = rest.chars();
                replaced.extend(letters.next());
                rest = letters.as_str();
                continue;
            };
            replaced.push_str(with);
            rest = rest.get(length..).unwrap_or_default();
            if !all {
                break;
            }
        }
        replaced + rest
    }

    fn longest_start(&self, value: &str) -> Option<usize> {
        self.cut(value, true, |at| value.get(..at).unwrap_or_default())
    }

    /// Whether all of `text` matches. Goes back to the last star alone, which is enough.
    fn matches(&self, text: &str) -> bool {
        let letters: Vec<char> = text.chars().collect();
        let (mut part, mut letter) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while let Some(&found) = letters.get(letter) {
            match self.0.get(part) {
                Some(Part::Any) => {
                    star = Some((part, letter));
                    part += 1;
                    continue;
                }
                Some(Part::One) => {
                    (part, letter) = (part + 1, letter + 1);
                    continue;
                }
                Some(Part::Letter(wanted)) if *wanted == found => {
                    (part, letter) = (part + 1, letter + 1);
                    continue;
                }
                _ => {}
            }
            let Some((at, taken)) = star else {
                return false;
            };
            star = Some((at, taken + 1));
            (part, letter) = (at + 1, taken + 1);
        }
        self.0.iter().skip(part).all(|part| *part == Part::Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("a**?", "ab", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("[a]", "a", false),
            ("*a*b*", "xaxbx", true),
            ("ä?", "äö", true),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(text),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_pattern_of_many_stars_is_quick() {
        let glob = Glob::new(&"*a".repeat(50));
        assert!(!glob.matches(&"a".repeat(49)));
        assert_eq!(glob.without_prefix(&"b".repeat(500), true).len(), 500);
    }
}
