//! Columns below their titles. On a terminal a table is as wide as it at most: the widest columns
//! are cut first.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::style::{Colour, Style};

const GAP: usize = 3;
/// Where there is no room for more.
const NARROW_GAP: usize = 1;
/// To which columns are cut at most, if their title is not wider.
const FLOOR: usize = 5;

/// One place of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub colour: Option<Colour>,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, colour: None }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

#[derive(Debug, Default)]
pub struct Table {
    pub titles: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new<T: Into<String>>(titles: impl IntoIterator<Item = T>) -> Self {
        Self {
            titles: titles.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    pub fn row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Each line with its end. `room` is the terminal's width.
    pub fn render(&self, style: Style, room: Option<usize>) -> String {
        let (widths, gap) = self.fitted(room);
        let titles: Vec<Cell> = self
            .titles
            .iter()
            .map(|title| Cell {
                text: title.clone(),
                colour: Some(Colour::Bold),
            })
            .collect();
        let has_titles = self.titles.iter().any(|title| !title.is_empty());
        let head = has_titles.then_some(&titles);
        head.into_iter()
            .chain(&self.rows)
            .map(|row| line(row, &widths, gap, style))
            .collect()
    }

    fn natural(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let columns = columns.max(self.titles.len());
        let mut widths = vec![0; columns];
        for (width, title) in widths.iter_mut().zip(&self.titles) {
            *width = title.width();
        }
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        widths
    }

    /// Widths of the columns, and of what is between them.
    fn fitted(&self, room: Option<usize>) -> (Vec<usize>, usize) {
        let natural = self.natural();
        let Some(room) = room else {
            return (natural, GAP);
        };
        let gaps = natural.len().saturating_sub(1);
        let fits = |widths: &[usize], gap: usize| widths.iter().sum::<usize>() + gap * gaps <= room;
        let cut = self.cut(natural.clone(), room.saturating_sub(GAP * gaps));
        match fits(&cut, GAP) {
            true => (cut, GAP),
            false => {
                let room = room.saturating_sub(NARROW_GAP * gaps);
                (self.cut(natural, room), NARROW_GAP)
            }
        }
    }

    /// The widest first, down to their titles.
    fn cut(&self, mut widths: Vec<usize>, room: usize) -> Vec<usize> {
        let floor = |column: usize| {
            let title = self.titles.get(column).map_or(0, |title| title.width());
            title.max(FLOOR)
        };
        while widths.iter().sum::<usize>() > room {
            let cuttable = widths.iter_mut().enumerate();
            let cuttable = cuttable.filter(|(column, width)| **width > floor(*column));
            match cuttable.max_by_key(|(_, width)| **width) {
                Some((_, width)) => *width -= 1,
                None => break,
            }
        }
        widths
    }
}

fn line(row: &[Cell], widths: &[usize], gap: usize, style: Style) -> String {
    let mut line = String::new();
    let last = row.len().saturating_sub(1);
    for (column, (cell, &width)) in row.iter().zip(widths).enumerate() {
        let text = cut(&cell.text, width);
        let padding = match column == last {
            true => 0,
            false => width.saturating_sub(text.width()) + gap,
        };
        line.push_str(&style.paint(cell.colour, &text));
        line.extend(std::iter::repeat_n(' ', padding));
    }
    let mut line = line.trim_end_matches(' ').to_owned();
    line.push('\n');
    line
}

/// At most so wide, with a sign that something is missing.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut taken = 1;
    for character in text.chars() {
        taken += character.width().unwrap_or(0);
        if taken > width {
            break;
        }
        kept.push(character);
    }
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style {
        is_terminal: true,
        coloured: false,
    };

    fn table() -> Table {
        let mut table = Table::new(["ID", "COMMAND", "NAME"]);
        table.row(["0123456789ab", "\"sleep 1000000000\"", "first"]);
        table.row(["ab", "\"sh\"", "日本"]);
        table
    }

    #[test]
    fn columns_stand_below_their_titles() {
        assert_eq!(
            table().render(PLAIN, None),
            "ID             COMMAND              NAME\n\
             0123456789ab   \"sleep 1000000000\"   first\n\
             ab             \"sh\"                 日本\n"
        );
    }

    #[test]
    fn a_table_is_as_wide_as_the_terminal_and_the_widest_column_pays() {
        for room in 25..50 {
            let text = table().render(PLAIN, Some(room));
            for line in text.lines() {
                assert!(line.width() <= room, "{room}: {line}");
            }
            let has_id = text.contains("0123456789ab");
            assert!(has_id || room < 36, "{room}: {text}");
        }
        assert!(table().render(PLAIN, Some(38)).contains('…'));
        // Nothing is cut to nothing.
        assert!(table().render(PLAIN, Some(5)).contains("COMMAND"));
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new(["A", "B"]);
        let green = Cell {
            text: "up".into(),
            colour: Some(Colour::Green),
        };
        table.row([green, "x".into()]);
        let style = Style {
            coloured: true,
            ..PLAIN
        };
        assert_eq!(
            table.render(style, None),
            "\x1b[1mA\x1b[0m    \x1b[1mB\x1b[0m\n\x1b[32mup\x1b[0m   x\n"
        );
    }
}
