//! The text of a Dockerfile as logical lines: directives taken off, comments left out,
//! continued lines joined. Each character knows where it came from.

use std::collections::BTreeMap;

use super::syntax_error::{Problem, SyntaxError};

/// A file that is read line by line.
pub struct Source<'a> {
    file: &'a str,
    lines: Vec<&'a str>,
    next: usize,
    pub directives: Directives,
}

/// What the first comments of a file may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: the frontend that the author had in mind. Nothing is fetched for it.
    pub syntax: Option<String>,
    pub escape: char,
    /// `# check=`: as it is written.
    pub check: Option<String>,
}

/// One instruction's text, continued lines joined.
#[derive(Debug, Clone, Default)]
pub struct Logical {
    pub text: String,
    /// Of each character: line and column, from 1.
    places: Vec<(usize, usize)>,
    /// The place behind the last one.
    end: (usize, usize),
    /// Where it begins.
    pub line: usize,
    pub last_line: usize,
    /// Empty lines that a continuation runs over.
    pub empty_lines: Vec<usize>,
}

impl Logical {
    /// Line and column of a character; the end is the place behind the last one.
    pub fn place(&self, at: usize) -> (usize, usize) {
        self.places.get(at).copied().unwrap_or(self.end)
    }

    fn push(&mut self, text: &str, line: usize, first_column: usize) {
        for (index, letter) in text.chars().enumerate() {
            self.text.push(letter);
            self.places.push((line, first_column + index));
            self.end = (line, first_column + index + 1);
        }
    }

    /// The same without its first `count` characters.
    pub fn from(&self, count: usize) -> Self {
        Self {
            text: self.text.chars().skip(count).collect(),
            places: self.places.iter().skip(count).copied().collect(),
            ..self.clone()
        }
    }
}

impl<'a> Source<'a> {
    /// # Errors
    /// If a directive is bad or given twice.
    pub fn new(file: &'a str, text: &'a str) -> Result<Self, SyntaxError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut source = Self {
            file,
            lines: text.lines().collect(),
            next: 0,
            directives: Directives {
                syntax: None,
                escape: '\\',
                check: None,
            },
        };
        source.read_directives()?;
        Ok(source)
    }

    fn read_directives(&mut self) -> Result<(), SyntaxError> {
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        while let Some(line) = self.lines.get(self.next) {
            let Some((name, value)) = directive(line) else {
                break;
            };
            let number = self.next + 1;
            if !["syntax", "escape", "check"].contains(&name.as_str()) {
                break;
            }
            if name == "escape" && !["\\", "`"].contains(&value) {
                let column = column_of(line, value);
                let what = format!("escape is {value:?}: it has to be \\ or `");
                return Err(self.error_at((number, column), what, ""));
            }
            if found.insert(name.clone(), value.to_owned()).is_some() {
                let what = format!("the directive {name} is given twice");
                return Err(self.error_at((number, 1), what, "keep one of them"));
            }
            self.next += 1;
        }
        self.directives = Directives {
            syntax: found.remove("syntax"),
            escape: found
                .remove("escape")
                .and_then(|value| value.chars().next())
                .unwrap_or('\\'),
            check: found.remove("check"),
        };
        Ok(())
    }

    /// The next instruction's text, or none at the end of the file.
    pub fn logical(&mut self) -> Option<Logical> {
        let mut logical = Logical::default();
        let mut begun = false;
        while let Some(&line) = self.lines.get(self.next) {
            self.next += 1;
            let number = self.next;
            let trimmed = line.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.trim_end().is_empty() {
                if begun {
                    logical.empty_lines.push(number);
                }
                continue;
            }
            if !begun {
                begun = true;
                logical.line = number;
            }
            logical.last_line = number;
            // Only the first line may be indented without that being part of it.
            let shown = if logical.text.is_empty() {
                trimmed
            } else {
                line
            };
            let column = line.chars().count() - shown.chars().count() + 1;
            match continued(shown, self.directives.escape) {
                Some(part) => logical.push(part, number, column),
                None => {
                    logical.push(shown, number, column);
                    break;
                }
            }
        }
        begun.then_some(logical)
    }

    /// The lines up to one that is `end` alone: a here-document's content. `None` where the file
    /// ends before.
    pub fn until(&mut self, end: &str, strip_tabs: bool) -> Option<String> {
        let mut content = String::new();
        while let Some(&line) = self.lines.get(self.next) {
            self.next += 1;
            let line = match strip_tabs {
                true => line.trim_start_matches('\t'),
                false => line,
            };
            if line == end {
                return Some(content);
            }
            content.push_str(line);
            content.push('\n');
        }
        None
    }

    /// How many lines are read.
    pub fn read(&self) -> usize {
        self.next
    }

    pub fn error(&self, logical: &Logical, problem: Problem) -> SyntaxError {
        self.error_at(logical.place(problem.at), problem.what, &problem.advice)
    }

    pub fn error_at(
        &self,
        (line, column): (usize, usize),
        problem: impl Into<String>,
        advice: &str,
    ) -> SyntaxError {
        let text = self.lines.get(line.saturating_sub(1)).copied();
        SyntaxError {
            file: self.file.to_owned(),
            line,
            column,
            text: text.unwrap_or_default().to_owned(),
            problem: problem.into(),
            advice: advice.to_owned(),
        }
    }
}

/// `# name=value`.
fn directive(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.trim_start().strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let named = name.chars().all(|letter| letter.is_ascii_alphanumeric());
    let good = named && name.starts_with(|letter: char| letter.is_ascii_alphabetic());
    (good && !value.is_empty()).then(|| (name.to_ascii_lowercase(), value))
}

fn column_of(line: &str, part: &str) -> usize {
    let before = line.find(part).and_then(|at| line.get(..at));
    before.map_or(1, |before| before.chars().count() + 1)
}

/// The line without the escape at its end, if it has one that is not escaped itself.
fn continued(line: &str, escape: char) -> Option<&str> {
    let bare = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!bare.ends_with(escape)).then_some(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        let mut source = Source::new("Dockerfile", text).unwrap();
        std::iter::from_fn(|| source.logical().map(|one| one.text)).collect()
    }

    #[test]
    fn lines_are_joined_and_comments_left_out() {
        for (text, expected) in [
            ("FROM a\nRUN b\n", &["FROM a", "RUN b"][..]),
            ("\u{feff}FROM a\r\nRUN b\r\n", &["FROM a", "RUN b"]),
            ("RUN a \\\n  b\n", &["RUN a   b"]),
            ("RUN a \\  \n# no\n   # no\n\n  b", &["RUN a   b"]),
            ("  RUN a \\", &["RUN a "]),
            ("RUN a \\\\\nRUN b", &["RUN a \\\\", "RUN b"]),
            ("RUN \\\n  \\\n  a", &["RUN     a"]),
            ("# escape=`\nRUN c:\\\nRUN a `\nb", &["RUN c:\\", "RUN a b"]),
            ("RUN echo '# kept'\n", &["RUN echo '# kept'"]),
            ("#\n\n   \n", &[]),
        ] {
            assert_eq!(texts(text), expected, "{text:?}");
        }
    }

    #[test]
    fn directives_stand_first_or_are_comments() {
        let read = |text| Source::new("f", text).unwrap().directives;
        let all = read("#syntax = docker/dockerfile:1\n# ESCAPE=`\n# check=skip=all\nFROM a");
        assert_eq!(all.syntax.as_deref(), Some("docker/dockerfile:1"));
        assert_eq!(all.escape, '`');
        assert_eq!(all.check.as_deref(), Some("skip=all"));
        assert_eq!(read("# a comment\n# escape=`\n").escape, '\\');
        assert_eq!(read("# other=x\n# escape=`\n").escape, '\\');
        assert_eq!(read("\n# escape=`\n").escape, '\\');
        for bad in ["# escape=x", "# escape=`\n# escape=`", "#escape=\\\\"] {
            assert!(Source::new("f", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_character_knows_its_place() {
        let mut source = Source::new("f", "# c\n  RUN a \\\n  # c\n\tb c").unwrap();
        let logical = source.logical().unwrap();
        assert_eq!(logical.text, "RUN a \tb c");
        let at = |letter| logical.place(logical.text.find(letter).unwrap());
        assert_eq!((at('R'), at('b'), at('c')), ((2, 3), (4, 2), (4, 4)));
        assert_eq!(logical.place(99), (4, 5));
        assert_eq!((logical.line, logical.last_line), (2, 4));
    }
}
