//! A build line by line, for logs: each line says which step it belongs to, as several go on at once.

use std::collections::BTreeMap;

use crate::build::record::{Record, What};
use crate::output::{Colour, Style};

use super::one_line;

#[derive(Debug, Default)]
pub struct Lines {
    steps: BTreeMap<usize, Step>,
    done: usize,
    cached: usize,
}

#[derive(Debug, Default)]
struct Step {
    began: u64,
    is_cached: bool,
    /// The beginning of a line.
    open: String,
}

impl Lines {
    /// Steps, and those that were there already.
    pub fn counted(&self) -> (usize, usize) {
        (self.done, self.cached)
    }

    pub fn take(&mut self, record: &Record, style: Style) -> String {
        let number = record.step;
        match &record.what {
            What::Begun {
                stage,
                number: own,
                of,
                text,
                ..
            } => {
                let step = Step {
                    began: record.at,
                    ..Step::default()
                };
                self.steps.insert(number, step);
                let head = format!("#{number} [{stage} {own}/{of}] {}", one_line(text));
                format!("{}\n", style.paint(Some(Colour::Bold), &head))
            }
            What::Cached => {
                let step = self.steps.entry(number).or_default();
                if std::mem::replace(&mut step.is_cached, true) {
                    return String::new();
                }
                self.cached += 1;
                format!("#{number} CACHED\n")
            }
            What::Output { text } => {
                let step = self.steps.entry(number).or_default();
                let at = seconds(record.at, step.began);
                step.open.push_str(text);
                let mut out = String::new();
                while let Some(end) = step.open.find('\n') {
                    let line: String = step.open.drain(..=end).collect();
                    out += &format!("#{number} {at} {}\n", line.trim_end_matches(['\r', '\n']));
                }
                out
            }
            What::Ended { .. } => {
                self.done += 1;
                self.end(record, "DONE")
            }
            What::Failed => self.end(record, "FAILED"),
            What::Unknown => String::new(),
        }
    }

    fn end(&mut self, record: &Record, word: &str) -> String {
        let number = record.step;
        let step = self.steps.remove(&number).unwrap_or_default();
        let took = seconds(record.at, step.began);
        let mut out = String::new();
        if !step.open.is_empty() {
            out += &format!("#{number} {took} {}\n", step.open);
        }
        if !step.is_cached {
            out += &format!("#{number} {word} {took}s\n");
        }
        out + "\n"
    }
}

fn seconds(at: u64, began: u64) -> String {
    format!("{:.1}", at.saturating_sub(began) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_steps_at_the_same_time_are_told_apart() {
        let begun = |stage: &str, text: &str| What::Begun {
            stage: stage.into(),
            number: 2,
            of: 3,
            total: 6,
            text: text.into(),
        };
        let output = |text: &str| What::Output { text: text.into() };
        let ended = || What::Ended { image: "ab".into() };
        let mut lines = Lines::default();
        let style = Style {
            is_terminal: false,
            coloured: false,
        };
        let told: String = [
            (0, 2, begun("a", "RUN one \\\n  two")),
            (10, 5, begun("b", "COPY . .")),
            (200, 2, output("first\nsec")),
            (210, 5, What::Cached),
            (211, 5, ended()),
            (1500, 2, output("ond\nlast")),
            (2000, 2, What::Failed),
        ]
        .into_iter()
        .map(|(at, step, what)| lines.take(&Record { at, step, what }, style))
        .collect();
        assert_eq!(
            told,
            "#2 [a 2/3] RUN one \\ two\n#5 [b 2/3] COPY . .\n#2 0.2 first\n#5 CACHED\n\n\
             #2 1.5 second\n#2 2.0 last\n#2 FAILED 2.0s\n\n"
        );
        assert_eq!(lines.counted(), (1, 1));
    }
}
