//! Colours: on a terminal only, and never where people do not want them.

use std::io::IsTerminal;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "31",
            Self::Green => "32",
            Self::Yellow => "33",
        }
    }
}

/// How one stream is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub is_terminal: bool,
    pub coloured: bool,
}

impl Style {
    pub fn of_stdout() -> Self {
        Self::of(std::io::stdout().is_terminal())
    }

    pub fn of_stderr() -> Self {
        Self::of(std::io::stderr().is_terminal())
    }

    /// <https://no-color.org>: any text but an empty one.
    fn of(is_terminal: bool) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            is_terminal,
            coloured: is_terminal && !unwanted && !is_dumb,
        }
    }

    pub fn paint(self, colour: Option<Colour>, text: &str) -> String {
        match colour {
            Some(colour) if self.coloured && !text.is_empty() => {
                format!("\x1b[{}m{text}\x1b[0m", colour.code())
            }
            _ => text.to_owned(),
        }
    }
}

/// Columns and rows of the terminal that standard error is; `None` where it is none.
pub fn terminal_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// Columns of the terminal that standard output is; `None` where it is none.
pub fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        let plain = Style {
            is_terminal: true,
            coloured: false,
        };
        assert_eq!(plain.paint(Some(Colour::Red), "a"), "a");
        let coloured = Style {
            coloured: true,
            ..plain
        };
        assert_eq!(coloured.paint(Some(Colour::Red), "a"), "\x1b[31ma\x1b[0m");
        assert_eq!(coloured.paint(None, "a"), "a");
    }
}
