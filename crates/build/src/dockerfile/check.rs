//! What is to be told of a Dockerfile that can be read: the checks that BuildKit's users know by
//! their names, as far as a text tells without a build. `# check=skip=…;error=true` is heeded.

use std::collections::HashSet;

use super::instruction::Kind;
use super::source::Source;
use super::{Dockerfile, SyntaxError, Warning};

/// `# check=`.
struct Wish {
    skip_all: bool,
    skip: Vec<String>,
    is_error: bool,
}

impl Wish {
    fn parse(text: &str) -> Self {
        let mut wish = Self {
            skip_all: false,
            skip: Vec::new(),
            is_error: false,
        };
        for part in text.split(';') {
            match part.trim().split_once('=') {
                Some(("skip", "all")) => wish.skip_all = true,
                Some(("skip", rules)) => {
                    wish.skip = rules
                        .split(',')
                        .map(|rule| rule.trim().to_owned())
                        .collect();
                }
                Some(("error", value)) => wish.is_error = value.trim() == "true",
                _ => {}
            }
        }
        wish
    }
}

impl Dockerfile {
    pub(super) fn check(&mut self, source: &Source<'_>) -> Result<(), SyntaxError> {
        let mut found = std::mem::take(&mut self.warnings);
        self.stage_names(&mut found);
        self.repeated(&mut found);
        self.paths(&mut found);
        self.casing(&mut found);
        let wish = Wish::parse(self.directives.check.as_deref().unwrap_or_default());
        found.retain(|one| !wish.skip_all && !wish.skip.iter().any(|rule| rule == one.rule));
        found.sort_by_key(|one| one.line);
        if let Some(first) = found.first().filter(|_| wish.is_error) {
            let what = format!("{} ({})", first.text, first.rule);
            let advice = format!("# check=skip={} leaves this check out", first.rule);
            return Err(source.error_at((first.line, 1), what, &advice));
        }
        self.warnings = found;
        Ok(())
    }

    fn stage_names(&self, found: &mut Vec<Warning>) {
        let mut names = HashSet::new();
        for stage in &self.stages {
            let name = stage.from.name.as_deref();
            if let Some(name) = name.filter(|name| !names.insert(*name)) {
                let text = format!("there are several stages with the name {name}");
                found.push(Warning::new("DuplicateStageName", stage.line, text));
            }
        }
    }

    /// Where only the last one counts.
    fn repeated(&self, found: &mut Vec<Warning>) {
        for stage in &self.stages {
            for keyword in ["CMD", "ENTRYPOINT", "HEALTHCHECK"] {
                let same = stage.steps.iter().filter(|step| match step.kind {
                    Kind::Cmd(_) => keyword == "CMD",
                    Kind::Entrypoint(_) => keyword == "ENTRYPOINT",
                    Kind::Healthcheck(_) => keyword == "HEALTHCHECK",
                    _ => false,
                });
                let lines: Vec<usize> = same.map(|step| step.line).collect();
                for line in lines.iter().rev().skip(1) {
                    let text = format!("only the last {keyword} of a stage counts");
                    found.push(Warning::new("MultipleInstructionsDisallowed", *line, text));
                }
            }
        }
    }

    fn paths(&self, found: &mut Vec<Warning>) {
        for stage in &self.stages {
            let mut is_known = false;
            for step in &stage.steps {
                let Kind::WorkDir(path) = &step.kind else {
                    continue;
                };
                let is_absolute = path.trim_matches(['"', '\'']).starts_with(['/', '$']);
                if !is_absolute && !is_known {
                    let text = format!(
                        "WORKDIR {path} is relative to a directory that the base image decides on"
                    );
                    found.push(Warning::new("WorkdirRelativePath", step.line, text));
                }
                is_known |= is_absolute;
            }
        }
    }

    fn casing(&self, found: &mut Vec<Warning>) {
        let of_stages = self.stages.iter().map(|stage| (stage.line, &stage.text));
        let steps = self.stages.iter().flat_map(|stage| &stage.steps);
        let of_steps = steps
            .chain(&self.arguments)
            .map(|step| (step.line, &step.text));
        let words: Vec<(usize, &str)> = of_stages
            .chain(of_steps)
            .filter_map(|(line, text)| Some((line, text.split_whitespace().next()?)))
            .collect();
        let upper = |word: &str| !word.chars().any(|letter| letter.is_ascii_lowercase());
        let lower = |word: &str| !word.chars().any(|letter| letter.is_ascii_uppercase());
        let uppers = words.iter().filter(|(_, word)| upper(word)).count();
        let lowers = words.iter().filter(|(_, word)| lower(word)).count();
        let wants_upper = uppers >= lowers;
        for (line, word) in words {
            if (wants_upper && !upper(word)) || (!wants_upper && !lower(word)) {
                let text = format!("{word} is not written like the other instructions");
                found.push(Warning::new("ConsistentInstructionCasing", line, text));
            }
        }
    }
}
