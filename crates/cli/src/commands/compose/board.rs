//! What becomes of each network, volume and container: on a terminal a line each that changes in
//! place, elsewhere a line for each change.

use std::cell::RefCell;

use crate::error::{Error, Result};
use crate::output::{Colour, Style, note};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Working,
    Done,
    Failed,
}

#[derive(Debug)]
pub struct Board {
    style: Style,
    in_place: bool,
    lines: RefCell<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    all: Vec<(String, String, Stage)>,
    /// How many stand on the screen.
    drawn: usize,
}

impl Board {
    pub fn new() -> Self {
        let style = Style::of_stderr();
        Self {
            style,
            in_place: style.is_terminal,
            lines: RefCell::default(),
        }
    }

    pub fn working(&self, what: &str, doing: &str) {
        self.tell(what, doing, Stage::Working);
    }

    pub fn done(&self, what: &str, done: &str) {
        self.tell(what, done, Stage::Done);
    }

    /// Does something, and tells of it before and after.
    pub async fn during<T>(
        &self,
        what: &str,
        (doing, done): (&str, &str),
        act: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.working(what, doing);
        let outcome = act.await;
        match &outcome {
            Ok(_) => self.done(what, done),
            Err(error) => self.failed(what, error),
        }
        outcome
    }

    pub fn failed(&self, what: &str, error: &Error) {
        let text = error.report();
        let line = text.lines().next().unwrap_or_default();
        self.tell(what, &format!("Error: {line}"), Stage::Failed);
    }

    /// What is said from now on stands below.
    pub fn leave(&self) {
        let mut lines = self.lines.borrow_mut();
        lines.drawn = 0;
        lines.all.clear();
    }

    fn tell(&self, what: &str, text: &str, stage: Stage) {
        let mut lines = self.lines.borrow_mut();
        match lines.all.iter_mut().find(|(name, ..)| name == what) {
            Some(line) => {
                line.1 = text.to_owned();
                line.2 = stage;
            }
            None => lines.all.push((what.to_owned(), text.to_owned(), stage)),
        }
        if !self.in_place {
            note(&format!(" {what}  {text}"));
            return;
        }
        self.draw(&mut lines);
    }

    fn draw(&self, lines: &mut Lines) {
        let height = rustix::termios::tcgetwinsize(std::io::stderr())
            .map_or(24, |size| usize::from(size.ws_row).max(2));
        let shown = lines.all.len().min(height - 1);
        let mut text = String::new();
        if lines.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", lines.drawn));
        }
        // Of many the last: those are what is going on.
        let first = lines.all.len() - shown;
        let width = lines
            .all
            .iter()
            .map(|(what, ..)| what.len())
            .max()
            .unwrap_or(0);
        let rows = lines.all.iter().skip(first).map(|(what, doing, stage)| {
            let (mark, colour) = match stage {
                Stage::Working => ("…", Colour::Yellow),
                Stage::Done => ("✔", Colour::Green),
                Stage::Failed => ("✘", Colour::Red),
            };
            let mark = self.style.paint(Some(colour), mark);
            let doing = self.style.paint(Some(colour), doing);
            format!("\x1b[2K {mark} {what:<width$}  {doing}")
        });
        text.push_str(&rows.collect::<Vec<_>>().join("\n"));
        note(&text);
        lines.drawn = shown;
    }
}
