//! Pulls and pushes under way: a line for each layer with its bytes, and one for the whole with its
//! speed. Without a terminal each thing that changes is a line, once.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::style::{Colour, Style, terminal_width};
use super::units::size;
use crate::daemon::Answer;
use crate::error::{Error, Result};

/// Between two drawings of the same lines.
const FRAME: Duration = Duration::from_millis(80);
const BAR: usize = 28;
/// Where the terminal does not say how wide it is.
const WIDTH: usize = 80;

/// What is shown where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    Stdout,
    /// Beside a container's own output.
    Stderr,
}

#[derive(Debug)]
pub struct Progress {
    to: To,
    style: Style,
    layers: Layers,
    /// Lines on the terminal that are drawn over.
    drawn: usize,
    last: Option<Instant>,
    /// Objects that carry something for programs.
    pub aux: Vec<Value>,
}

impl Progress {
    pub fn on_stdout() -> Self {
        Self::new(To::Stdout, Style::of_stdout())
    }

    pub fn on_stderr() -> Self {
        Self::new(To::Stderr, Style::of_stderr())
    }

    fn new(to: To, style: Style) -> Self {
        Self {
            to,
            style,
            layers: Layers::new(Instant::now()),
            drawn: 0,
            last: None,
            aux: Vec::new(),
        }
    }

    /// Shows an answer to its end. With `quiet` only what goes wrong.
    ///
    /// # Errors
    /// The one that the stream tells of, too.
    pub async fn follow(&mut self, answer: Answer, quiet: bool) -> Result<()> {
        let mut objects = answer.objects();
        while let Some(object) = objects.next().await? {
            if let Some(message) = failure(&object) {
                self.draw(true)?;
                return Err(Error::Failed(message));
            }
            if let Some(aux) = object.get("aux") {
                self.aux.push(aux.clone());
                continue;
            }
            if !quiet {
                self.take(&object)?;
            }
        }
        if quiet { Ok(()) } else { self.draw(true) }
    }

    fn take(&mut self, object: &Value) -> Result<()> {
        let told = self.layers.take(object, Instant::now());
        if self.style.is_terminal {
            if let Told::Line(line) = told {
                self.above(&line)?;
            }
            return self.draw(false);
        }
        match told {
            Told::Line(line) | Told::Changed(line) => self.write(&format!("{line}\n")),
            Told::Further => Ok(()),
        }
    }

    /// A line that stays, above those that are drawn again.
    fn above(&mut self, line: &str) -> Result<()> {
        let up = self.up();
        self.drawn = 0;
        self.last = None;
        self.write(&format!("{up}{line}\n"))
    }

    fn draw(&mut self, now: bool) -> Result<()> {
        let recently = self.last.is_some_and(|last| last.elapsed() < FRAME);
        if !self.style.is_terminal || self.layers.is_empty() || recently && !now {
            return Ok(());
        }
        let width = terminal_width().unwrap_or(WIDTH);
        let lines = self.layers.lines(width, Instant::now(), self.style);
        let up = self.up();
        self.drawn = lines.len();
        self.last = Some(Instant::now());
        self.write(&format!("{up}{}\n", lines.join("\n")))
    }

    /// To the first of the drawn lines, and nothing below.
    fn up(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }

    fn write(&self, text: &str) -> Result<()> {
        let write = |mut to: Box<dyn Write>| {
            to.write_all(text.as_bytes())
                .and_then(|()| to.flush())
                .map_err(Error::Output)
        };
        match self.to {
            To::Stdout => write(Box::new(std::io::stdout().lock())),
            To::Stderr => write(Box::new(std::io::stderr().lock())),
        }
    }
}

fn failure(object: &Value) -> Option<String> {
    let detail = object.pointer("/errorDetail/message");
    let said = detail.or_else(|| object.get("error"))?;
    Some(said.as_str().unwrap_or_default().trim().to_owned())
}

/// What an object says to people.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Of the whole.
    Line(String),
    /// A layer's status became another.
    Changed(String),
    /// The same status, further on.
    Further,
}

#[derive(Debug)]
struct Layer {
    id: String,
    status: String,
    current: u64,
    total: u64,
}

/// In the order in which they were first told of.
#[derive(Debug)]
struct Layers {
    known: Vec<Layer>,
    places: HashMap<String, usize>,
    began: Instant,
}

impl Layers {
    fn new(began: Instant) -> Self {
        Self {
            known: Vec::new(),
            places: HashMap::new(),
            began,
        }
    }

    fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn take(&mut self, object: &Value, now: Instant) -> Told {
        let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
        let stream = text("stream");
        if !stream.is_empty() {
            return Told::Line(stream.trim_end_matches('\n').to_owned());
        }
        let (id, status) = (text("id"), text("status"));
        let is_layer = object.get("progressDetail").is_some();
        match (id.is_empty(), is_layer) {
            (true, _) => return Told::Line(status.to_owned()),
            (false, false) => return Told::Line(format!("{id}: {status}")),
            (false, true) => {}
        }
        let place = *self.places.entry(id.to_owned()).or_insert_with(|| {
            if self.known.is_empty() {
                self.began = now;
            }
            self.known.push(Layer {
                id: id.to_owned(),
                status: String::new(),
                current: 0,
                total: 0,
            });
            self.known.len() - 1
        });
        let Some(layer) = self.known.get_mut(place) else {
            return Told::Further;
        };
        let number = |path: &str| object.pointer(path).and_then(Value::as_u64);
        let moves = matches!(status, "Downloading" | "Pushing");
        let current = number("/progressDetail/current");
        match number("/progressDetail/total") {
            Some(total) => {
                layer.total = total;
                // What is unpacked has been moved.
                layer.current = if moves {
                    current.unwrap_or(0).min(total)
                } else {
                    total
                };
            }
            None if moves => layer.current = current.unwrap_or(layer.current),
            None => layer.current = layer.total,
        }
        if layer.status == status {
            return Told::Further;
        }
        status.clone_into(&mut layer.status);
        Told::Changed(format!("{id}: {status}"))
    }

    fn lines(&self, width: usize, now: Instant, style: Style) -> Vec<String> {
        let id = self.known.iter().map(|layer| layer.id.width()).max();
        let status = self.known.iter().map(|layer| layer.status.width()).max();
        let (id, status) = (id.unwrap_or(0), status.unwrap_or(0));
        let layers = self.known.iter().map(|layer| {
            let numbers = match layer.total {
                0 => String::new(),
                total => format!("{:>7} / {}", size(layer.current), size(total)),
            };
            let head = format!("{:<id$}  {:<status$}", layer.id, layer.status);
            let room = width.saturating_sub(head.width() + 25).min(BAR);
            let bar = match layer.is_moving() && room >= 8 {
                true => format!("{}  ", bar(layer.current, layer.total, room)),
                false => String::new(),
            };
            let line = clip(&format!("{head}  {bar}{numbers}"), width);
            style.paint(layer.colour(), line.trim_end())
        });
        let mut lines: Vec<String> = layers.collect();
        lines.extend(self.whole(now).map(|line| clip(&line, width)));
        lines
    }

    fn whole(&self, now: Instant) -> Option<String> {
        let total: u64 = self.known.iter().map(|layer| layer.total).sum();
        if total == 0 {
            // Nothing has to be moved, or it is not known yet how much.
            return None;
        }
        let current: u64 = self.known.iter().map(|layer| layer.current).sum();
        let seconds = now.duration_since(self.began).as_secs_f64().max(0.001);
        let speed = (current as f64 / seconds) as u64;
        let done = self.known.iter().filter(|layer| layer.is_done()).count();
        Some(format!(
            "{done}/{} layers, {} / {}, {}/s",
            self.known.len(),
            size(current),
            size(total),
            size(speed)
        ))
    }
}

impl Layer {
    fn is_moving(&self) -> bool {
        self.total > 0 && self.current < self.total
    }

    fn is_done(&self) -> bool {
        let status = self.status.as_str();
        matches!(status, "Pull complete" | "Already exists" | "Pushed")
            || status.starts_with("Layer already exists")
            || status.starts_with("Mounted from")
    }

    fn colour(&self) -> Option<Colour> {
        if self.is_done() {
            Some(Colour::Green)
        } else if self.total == 0 {
            Some(Colour::Dim)
        } else {
            None
        }
    }
}

fn bar(current: u64, total: u64, width: usize) -> String {
    let share = current as f64 / total.max(1) as f64;
    let filled = ((share * width as f64) as usize).min(width);
    format!("{}{}", "█".repeat(filled), "░".repeat(width - filled))
}

fn clip(line: &str, width: usize) -> String {
    if line.width() <= width {
        return line.to_owned();
    }
    line.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLAIN: Style = Style {
        is_terminal: true,
        coloured: false,
    };

    fn moving(id: &str, status: &str, current: u64, total: u64) -> Value {
        json!({"id": id, "status": status,
            "progressDetail": {"current": current, "total": total}})
    }

    #[test]
    fn layers_are_drawn_with_bytes_bars_and_the_speed_of_the_whole() {
        let began = Instant::now();
        let mut layers = Layers::new(began);
        layers.take(
            &json!({"id": "aa", "status": "Already exists", "progressDetail": {}}),
            began,
        );
        layers.take(&moving("bb", "Downloading", 5_000_000, 10_000_000), began);
        let lines = layers.lines(80, began + Duration::from_secs(2), PLAIN);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "aa  Already exists");
        assert_eq!(
            lines[1],
            format!(
                "bb  Downloading     {}{}      5MB / 10MB",
                "█".repeat(14),
                "░".repeat(14)
            )
        );
        assert_eq!(lines[2], "1/2 layers, 5MB / 10MB, 2.5MB/s");
        for width in [10, 30, 50] {
            for line in layers.lines(width, began, PLAIN) {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
        layers.take(
            &json!({"id": "bb", "status": "Pull complete", "progressDetail": {}}),
            began,
        );
        let lines = layers.lines(80, began + Duration::from_secs(2), PLAIN);
        assert_eq!(lines[2], "2/2 layers, 10MB / 10MB, 5MB/s");
    }

    #[test]
    fn without_a_terminal_each_change_is_told_once() {
        let now = Instant::now();
        let mut layers = Layers::new(now);
        let changed = |text: &str| Told::Changed(text.to_owned());
        let first = moving("bb", "Downloading", 1, 10);
        assert_eq!(layers.take(&first, now), changed("bb: Downloading"));
        let second = moving("bb", "Downloading", 9, 10);
        assert_eq!(layers.take(&second, now), Told::Further);
        let whole = json!({"status": "Digest: sha256:ab"});
        assert_eq!(
            layers.take(&whole, now),
            Told::Line("Digest: sha256:ab".to_owned())
        );
        let begun = json!({"id": "1", "status": "Pulling from a/b"});
        assert_eq!(
            layers.take(&begun, now),
            Told::Line("1: Pulling from a/b".to_owned())
        );
    }

    #[test]
    fn a_failure_within_the_stream_is_one() {
        let object = json!({"errorDetail": {"message": "gone"}, "error": "gone"});
        assert_eq!(failure(&object).as_deref(), Some("gone"));
        assert_eq!(failure(&json!({"status": "x"})), None);
    }
}
