//! Dockerfiles: text to instructions, by stages.
//!
//! ```text
//! text ─ source (lines, places) ─► parse (flags, words, here-documents) ─► Dockerfile ─► check
//! ```
//!
//! What cannot be read is refused with its line, a mark below the place and advice; what can be
//! read and is better written otherwise becomes a [`Warning`], as `docker build --check` names it.

mod check;
mod expand;
mod glob;
mod instruction;
mod options;
mod parse;
mod source;
mod syntax_error;
mod words;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;

pub use expand::Expander;
pub use instruction::{
    Argument, Command, Copy, Document, From, Healthcheck, Instruction, Kind, Mount, MountKind,
    Owned, Run, RunNetwork, RunSecurity, Sharing,
};
pub use source::Directives;
pub use syntax_error::{Problem, SyntaxError};

use source::Source;

/// Largest text that is read, in bytes.
pub const LARGEST: usize = 16 << 20;

/// A Dockerfile that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub directives: Directives,
    /// `ARG` before the first `FROM`.
    pub arguments: Vec<Instruction>,
    pub stages: Vec<Stage>,
    pub warnings: Vec<Warning>,
}

/// A `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub from: From,
    /// As it is written.
    pub text: String,
    pub line: usize,
    pub steps: Vec<Instruction>,
}

/// What is better written otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// As BuildKit names it.
    pub rule: &'static str,
    pub line: usize,
    pub text: String,
}

impl Warning {
    fn new(rule: &'static str, line: usize, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { rule, line, text }
    }
}

impl Dockerfile {
    /// # Errors
    /// With the first place that cannot be read.
    pub fn parse(file: &str, text: &str) -> Result<Self, SyntaxError> {
        let mut source = Source::new(file, text)?;
        let mut warnings = Vec::new();
        let instructions = parse::all(&mut source, &mut warnings)?;
        let mut dockerfile = Self {
            directives: source.directives.clone(),
            arguments: Vec::new(),
            stages: Vec::new(),
            warnings,
        };
        for instruction in instructions {
            dockerfile.take(instruction, &source)?;
        }
        if dockerfile.stages.is_empty() {
            let advice = "begin with FROM and an image";
            return Err(source.error_at((1, 1), "the Dockerfile has no FROM", advice));
        }
        dockerfile.check(&source)?;
        Ok(dockerfile)
    }

    fn take(&mut self, instruction: Instruction, source: &Source<'_>) -> Result<(), SyntaxError> {
        match (instruction.kind, self.stages.last_mut()) {
            (Kind::From(from), _) => self.stages.push(Stage {
                from,
                text: instruction.text,
                line: instruction.line,
                steps: Vec::new(),
            }),
            (kind, Some(stage)) => stage.steps.push(Instruction {
                kind,
                ..instruction
            }),
            (kind @ Kind::Arg(_), None) => self.arguments.push(Instruction {
                kind,
                ..instruction
            }),
            (_, None) => {
                let place = (instruction.line, 1);
                let what = "there is no build stage yet";
                let advice = "begin with FROM and an image; only ARG may stand before";
                return Err(source.error_at(place, what, advice));
            }
        }
        Ok(())
    }

    /// The stage of this name or number.
    pub fn stage(&self, name: &str) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        let named = |stage: &Stage| stage.from.name.as_deref() == Some(lower.as_str());
        let by_number = || name.parse().ok().filter(|at| *at < self.stages.len());
        self.stages.iter().rposition(named).or_else(by_number)
    }
}

/// A trigger that an image carries, as an instruction.
///
/// # Errors
/// If it is none.
pub fn trigger(text: &str) -> Result<Instruction, SyntaxError> {
    let mut source = Source::new("ONBUILD", text)?;
    let mut instructions = parse::all(&mut source, &mut Vec::new())?;
    match (instructions.pop(), instructions.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(source.error_at((1, 1), "a trigger is one instruction", "")),
    }
}

/// The one of `known` that is most like `word`, if one is at all.
fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let tolerated = 1 + word.chars().count() / 4;
    known
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters to be put in, left out or changed.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().take(64).enumerate() {
        let mut next = vec![index + 1];
        let mut left = index + 1;
        for ((above_left, above), candidate) in row.iter().zip(row.iter().skip(1)).zip(&other) {
            let changed = above_left + usize::from(letter != *candidate);
            left = changed.min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
