//! What is wrong with a Dockerfile, and where.

use std::fmt;

/// Shown with the line that is meant and a mark below the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SyntaxError {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line as it is written.
    pub text: String,
    pub problem: String,
    /// What to do about it; may be empty.
    pub advice: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file, line, column, ..
        } = self;
        writeln!(f, "{file}:{line}:{column}: {}", self.problem)?;
        let number = line.to_string();
        writeln!(f, " {number} | {}", self.text)?;
        // Tabs stay tabs, so that the mark stands where the terminal shows the place.
        let before = self.text.chars().take(column.saturating_sub(1));
        let before: String = before
            .map(|letter| if letter == '\t' { '\t' } else { ' ' })
            .collect();
        write!(f, " {} | {before}^", " ".repeat(number.len()))?;
        match self.advice.as_str() {
            "" => Ok(()),
            advice => write!(f, "\n{advice}"),
        }
    }
}

/// A problem before it is known which file and line it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Characters into the text that was looked at.
    pub at: usize,
    pub what: String,
    pub advice: String,
}

impl Problem {
    pub fn new(at: usize, what: impl Into<String>) -> Self {
        Self {
            at,
            what: what.into(),
            advice: String::new(),
        }
    }

    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stands_below_the_place() {
        let error = SyntaxError {
            file: "Dockerfile".into(),
            line: 12,
            column: 4,
            text: "\tRUM x".into(),
            problem: "unknown instruction RUM".into(),
            advice: "did you mean RUN?".into(),
        };
        assert_eq!(
            error.to_string(),
            "Dockerfile:12:4: unknown instruction RUM\n 12 | \tRUM x\n    | \t  ^\ndid you mean RUN?"
        );
    }
}
