//! How a build is shown, on standard error: standard output is for what programs read.

mod lines;
mod live;

use std::io::Write;
use std::time::Duration;

use clap::ValueEnum;

use super::record::Record;
use crate::error::{Error, Result};
use crate::output::{Colour, Style};
use lines::Lines;
use live::Live;

/// Characters of a digest that people see.
const SHORT: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Show {
    /// Drawn on a terminal, line by line elsewhere
    #[default]
    Auto,
    /// Line by line
    Plain,
    /// Drawn, wherever it goes
    Tty,
    /// Nothing but what goes wrong
    Quiet,
    /// The daemon's records, an object a line
    Rawjson,
}

pub struct Display {
    kind: Kind,
    style: Style,
}

enum Kind {
    Lines(Lines),
    Live(Box<Live>),
    Json,
    /// What was said is told only if it comes to nothing.
    Quiet(String),
}

impl Display {
    pub fn new(show: Show) -> Self {
        let style = Style::of_stderr();
        let kind = match show {
            Show::Auto if style.is_terminal => Kind::Live(Box::default()),
            Show::Tty => Kind::Live(Box::default()),
            Show::Auto | Show::Plain => Kind::Lines(Lines::default()),
            Show::Quiet => Kind::Quiet(String::new()),
            Show::Rawjson => Kind::Json,
        };
        Self { kind, style }
    }

    pub fn sending(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Live(live) => write(&live.draw(self.style)),
            _ => Ok(()),
        }
    }

    pub fn record(&mut self, record: &Record) -> Result<()> {
        match &mut self.kind {
            Kind::Lines(lines) => write(&lines.take(record, self.style)),
            Kind::Live(live) => write(&live.take(record, self.style)),
            Kind::Json => write(&format!(
                "{}\n",
                serde_json::to_string(record).map_err(Error::Answer)?
            )),
            Kind::Quiet(_) => Ok(()),
        }
    }

    pub fn warning(&mut self, text: &str) -> Result<()> {
        let name = self.style.paint(Some(Colour::Yellow), "WARNING:");
        let line = format!("{name} {text}\n");
        match &mut self.kind {
            Kind::Live(live) => write(&live.above(&line, self.style)),
            Kind::Lines(_) => write(&line),
            Kind::Json => write(&format!("{}\n", serde_json::json!({ "warning": text }))),
            Kind::Quiet(_) => Ok(()),
        }
    }

    /// What a daemon without records says.
    pub fn text(&mut self, text: &str) -> Result<()> {
        match &mut self.kind {
            Kind::Live(live) => write(&live.above(text, self.style)),
            Kind::Lines(_) => write(text),
            Kind::Json => write(&format!("{}\n", serde_json::json!({ "stream": text }))),
            Kind::Quiet(said) => {
                said.push_str(text);
                Ok(())
            }
        }
    }

    pub fn tick(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Live(live) => write(&live.draw(self.style)),
            _ => Ok(()),
        }
    }

    /// What people want to see once more where it came to nothing.
    pub fn failed(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Live(live) => write(&live.clear()),
            Kind::Quiet(said) => write(said),
            Kind::Lines(_) | Kind::Json => Ok(()),
        }
    }

    pub fn built(&mut self, image: &str, took: Duration) -> Result<()> {
        let digest = image.split_once(':').map_or(image, |(_, hex)| hex);
        let short: String = digest.chars().take(SHORT).collect();
        let steps = match &self.kind {
            Kind::Lines(lines) => lines.counted(),
            Kind::Live(live) => live.counted(),
            Kind::Json | Kind::Quiet(_) => return Ok(()),
        };
        if let Kind::Live(live) = &mut self.kind {
            write(&live.clear())?;
        }
        let (all, cached) = steps;
        let text = format!(
            "Built {short} in {}: {all} steps, {cached} cached",
            seconds(took)
        );
        write(&format!(
            "{}\n",
            self.style.paint(Some(Colour::Green), &text)
        ))
    }
}

fn write(text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut to = std::io::stderr().lock();
    to.write_all(text.as_bytes())
        .and_then(|()| to.flush())
        .map_err(Error::Output)
}

/// `0.3s`, `1m 5s`.
fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0..100 => format!("{:.1}s", duration.as_secs_f64()),
        whole => format!("{}m {}s", whole / 60, whole % 60),
    }
}

/// A step's text on one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a terminal would obey is left out of what a command says; tabs stay.
fn harmless(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\t' => out.push(' '),
            '\x1b' if letters.next_if_eq(&'[').is_some() => {
                // A control sequence ends with its first letter: ECMA-48 5.4.
                for within in letters.by_ref() {
                    if ('@'..='~').contains(&within) {
                        break;
                    }
                }
            }
            letter if letter.is_control() => {}
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_cannot_steer_the_terminal() {
        assert_eq!(harmless("\x1b[31mred\x1b[0m\ta\x07b\x1b]c"), "red ab]c");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(seconds(Duration::from_millis(340)), "0.3s");
        assert_eq!(seconds(Duration::from_secs(125)), "2m 5s");
        assert_eq!(one_line("RUN <<E\n  a\n\tb\nE"), "RUN <<E a b E");
    }
}
