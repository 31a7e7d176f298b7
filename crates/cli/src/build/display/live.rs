//! A build on a terminal: what has ended stays as a line, and below it what goes on is drawn anew,
//! with its time and the last lines that it said.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::build::record::{Record, What};
use crate::output::{Colour, Style, terminal_size};

use super::{harmless, one_line, seconds};

/// Lines of output that are seen of a step that goes on, and of one that failed.
const TAIL: usize = 5;
const LAST_WORDS: usize = 40;
/// Where the terminal does not say how large it is.
const SIZE: (usize, usize) = (80, 24);

#[derive(Debug)]
pub struct Live {
    began: Instant,
    /// By number.
    steps: BTreeMap<usize, Step>,
    total: usize,
    done: usize,
    cached: usize,
    /// Lines that are drawn over.
    drawn: usize,
}

#[derive(Debug)]
struct Step {
    label: String,
    began: Instant,
    is_cached: bool,
    said: VecDeque<String>,
    open: String,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            steps: BTreeMap::new(),
            total: 0,
            done: 0,
            cached: 0,
            drawn: 0,
        }
    }
}

impl Step {
    fn new(label: String) -> Self {
        Self {
            label,
            began: Instant::now(),
            is_cached: false,
            said: VecDeque::new(),
            open: String::new(),
        }
    }

    fn hear(&mut self, text: &str) {
        self.open.push_str(text);
        while let Some(end) = self.open.find('\n') {
            let line: String = self.open.drain(..=end).collect();
            // A program that draws over its line has said the last of it.
            let line = line.trim_end_matches(['\r', '\n']);
            let line = line.rsplit('\r').next().unwrap_or(line);
            self.said.push_back(harmless(line));
            if self.said.len() > LAST_WORDS {
                self.said.pop_front();
            }
        }
    }
}

impl Live {
    /// Steps, and those that were there already.
    pub fn counted(&self) -> (usize, usize) {
        (self.done, self.cached)
    }

    /// What is to be written for a record.
    pub fn take(&mut self, record: &Record, style: Style) -> String {
        let number = record.step;
        match &record.what {
            What::Begun {
                stage,
                number: own,
                of,
                total,
                text,
            } => {
                self.total = *total;
                let label = format!("[{stage} {own}/{of}] {}", harmless(&one_line(text)));
                self.steps.insert(number, Step::new(label));
                self.draw(style)
            }
            What::Cached => {
                if let Some(step) = self.steps.get_mut(&number) {
                    step.is_cached = true;
                }
                String::new()
            }
            What::Output { text } => {
                if let Some(step) = self.steps.get_mut(&number) {
                    step.hear(text);
                }
                // The clock draws it.
                String::new()
            }
            What::Ended { .. } => {
                let Some(step) = self.steps.remove(&number) else {
                    return String::new();
                };
                self.done += 1;
                self.cached += usize::from(step.is_cached);
                let line = ended(&step, style);
                self.above(&line, style)
            }
            What::Failed => match self.steps.remove(&number) {
                Some(step) => self.above(&failed(step, style), style),
                None => String::new(),
            },
            What::Unknown => String::new(),
        }
    }

    /// Lines that stay, above those that are drawn again.
    pub fn above(&mut self, lines: &str, style: Style) -> String {
        let cleared = self.clear();
        let drawn = self.draw(style);
        format!("{cleared}{lines}{drawn}")
    }

    pub fn draw(&mut self, style: Style) -> String {
        let size = terminal_size().unwrap_or(SIZE);
        let lines = self.lines(size, style);
        let cleared = self.clear();
        self.drawn = lines.len();
        format!("{cleared}{}\n", lines.join("\n"))
    }

    /// To the first of the drawn lines, and nothing below.
    pub fn clear(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }

    fn lines(&self, (width, height): (usize, usize), style: Style) -> Vec<String> {
        let took = seconds(self.began.elapsed());
        let head = match self.total {
            0 => format!("Sending the context {took}"),
            total => format!("Building {took} ({}/{total})", self.done),
        };
        let mut lines = vec![style.paint(Some(Colour::Bold), &clip(&head, width))];
        // A line that scrolled away cannot be drawn over.
        let room = height.saturating_sub(2).max(1);
        let tail = match self.steps.len() {
            0 => 0,
            steps => (room / steps).saturating_sub(1).min(TAIL),
        };
        for step in self.steps.values() {
            let time = step.began.elapsed();
            lines.push(timed(&format!(" ▸ {}", step.label), time, width));
            let said = step.said.iter().rev().take(tail).rev();
            lines.extend(said.map(|line| {
                let line = clip(&format!("   │ {line}"), width);
                style.paint(Some(Colour::Dim), &line)
            }));
        }
        lines.truncate(room);
        lines
    }
}

fn ended(step: &Step, style: Style) -> String {
    let width = terminal_size().unwrap_or(SIZE).0;
    let line = match step.is_cached {
        true => clip(&format!(" ✓ CACHED {}", step.label), width),
        false => timed(&format!(" ✓ {}", step.label), step.began.elapsed(), width),
    };
    let colour = match step.is_cached {
        true => Colour::Dim,
        false => Colour::Green,
    };
    format!("{}\n", style.paint(Some(colour), &line))
}

/// With everything that is known of what it said last, as it was said.
fn failed(mut step: Step, style: Style) -> String {
    let width = terminal_size().unwrap_or(SIZE).0;
    if !step.open.is_empty() {
        step.hear("\n");
    }
    let head = timed(&format!(" ✗ {}", step.label), step.began.elapsed(), width);
    let mut out = format!("{}\n", style.paint(Some(Colour::Red), &head));
    for line in &step.said {
        out += &format!("   │ {line}\n");
    }
    out
}

/// With the time at the right.
fn timed(text: &str, time: Duration, width: usize) -> String {
    let time = seconds(time);
    let room = width.saturating_sub(time.len() + 1);
    let text = clip(text, room);
    let gap = " ".repeat(room.saturating_sub(text.width()) + 1);
    format!("{text}{gap}{time}")
}

fn clip(text: &str, width: usize) -> String {
    let mut used = 0;
    let fits = |letter: &char| {
        used += letter.width().unwrap_or(0);
        used <= width
    };
    text.chars().take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style {
        is_terminal: true,
        coloured: false,
    };

    fn begun(live: &mut Live, step: usize, text: &str) {
        let what = What::Begun {
            stage: "a".into(),
            number: step,
            of: 9,
            total: 9,
            text: text.into(),
        };
        let _drawn = live.take(&Record { at: 0, step, what }, STYLE);
    }

    fn said(live: &mut Live, step: usize, text: &str) {
        let what = What::Output { text: text.into() };
        let _drawn = live.take(&Record { at: 0, step, what }, STYLE);
    }

    #[test]
    fn what_goes_on_is_drawn_within_the_terminal() {
        let mut live = Live::default();
        assert!(live.lines((80, 24), STYLE)[0].starts_with("Sending the context"));
        begun(&mut live, 2, "RUN make");
        begun(&mut live, 5, "RUN test");
        for line in 0..100 {
            said(&mut live, 2, &format!("line {line}\n"));
        }
        said(&mut live, 2, "half of");
        let lines = live.lines((60, 24), STYLE);
        assert_eq!(lines.len(), 1 + 2 + TAIL, "{lines:?}");
        assert!(lines[0].ends_with("(0/9)"), "{lines:?}");
        assert!(lines[1].starts_with(" ▸ [a 2/9] RUN make "), "{lines:?}");
        assert_eq!(lines[6], "   │ line 99");
        for (width, height) in [(10, 3), (20, 5), (200, 4)] {
            let lines = live.lines((width, height), STYLE);
            assert!(lines.len() < height, "{lines:?}");
            assert!(lines.iter().all(|line| line.width() <= width), "{lines:?}");
        }
    }

    #[test]
    fn what_failed_says_its_last_words() {
        let mut live = Live::default();
        begun(&mut live, 2, "RUN make");
        said(&mut live, 2, "10%\r50%\r100%\nwrong\nno newline");
        let failed = Record {
            at: 0,
            step: 2,
            what: What::Failed,
        };
        let told = live.take(&failed, STYLE);
        for part in [
            " ✗ [a 2/9] RUN make",
            "│ 100%\n",
            "│ wrong\n",
            "│ no newline\n",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }
}
