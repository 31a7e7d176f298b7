//! Lists of things: as a table, as JSON, or by a template.

use serde_json::{Map, Value};

use super::print;
use super::style::{Colour, Style, terminal_width};
use super::table::{Cell, Table};
use super::template::Template;
use crate::error::Result;

/// Rows with the same fields.
#[derive(Debug)]
pub struct Listing {
    /// Every field that has a title, in a template's table as well.
    columns: &'static [(&'static str, &'static str)],
    /// Those that are shown where nothing else is asked for.
    shown: Vec<&'static str>,
    /// What `--quiet` prints.
    key: &'static str,
    rows: Vec<Map<String, Value>>,
    colours: Vec<Option<(&'static str, Colour)>>,
}

impl Listing {
    pub fn new(
        columns: &'static [(&'static str, &'static str)],
        shown: &[&'static str],
        key: &'static str,
    ) -> Self {
        Self {
            columns,
            shown: shown.to_vec(),
            key,
            rows: Vec::new(),
            colours: Vec::new(),
        }
    }

    /// An object with the fields of the columns; more are for templates alone.
    pub fn push(&mut self, row: Value) {
        self.push_coloured(row, None);
    }

    /// One field of the row in colour, where there are any.
    pub fn push_coloured(&mut self, row: Value, colour: Option<(&'static str, Colour)>) {
        if let Value::Object(row) = row {
            self.rows.push(row);
            self.colours.push(colour);
        }
    }

    /// Shows a further column by default.
    pub fn show(&mut self, field: &'static str) {
        self.shown.push(field);
    }

    pub fn print(&self, quiet: bool, format: Option<&str>, no_trunc: bool) -> Result<()> {
        let room = terminal_width().filter(|_| !no_trunc);
        print(&self.render(quiet, format, Style::of_stdout(), room)?)
    }

    fn render(
        &self,
        quiet: bool,
        format: Option<&str>,
        style: Style,
        room: Option<usize>,
    ) -> Result<String> {
        match format.unwrap_or("table") {
            "table" if quiet => Ok(self.keys()),
            "table" => Ok(self.table().render(style, room)),
            "json" => Ok(self.json()),
            template => match template.strip_prefix("table ") {
                Some(template) => self.template_table(template, style, room),
                None => self.templated(template),
            },
        }
    }

    fn keys(&self) -> String {
        let keys = self.rows.iter().filter_map(|row| row.get(self.key));
        keys.map(|key| text(key) + "\n").collect()
    }

    fn json(&self) -> String {
        let rows = self.rows.iter();
        rows.map(|row| Value::Object(row.clone()).to_string() + "\n")
            .collect()
    }

    fn title(&self, field: &str) -> String {
        let found = self.columns.iter().find(|(name, _)| *name == field);
        found.map_or_else(|| field.to_uppercase(), |(_, title)| (*title).to_owned())
    }

    fn table(&self) -> Table {
        let mut table = Table::new(self.shown.iter().map(|field| self.title(field)));
        for (row, colour) in self.rows.iter().zip(&self.colours) {
            table.row(self.shown.iter().map(|field| Cell {
                text: row.get(*field).map(text).unwrap_or_default(),
                colour: colour.filter(|(name, _)| name == field).map(|(_, c)| c),
            }));
        }
        table
    }

    fn templated(&self, template: &str) -> Result<String> {
        let template = Template::parse(template)?;
        let mut out = String::new();
        for row in &self.rows {
            out.push_str(&template.render(&Value::Object(row.clone()))?);
            out.push('\n');
        }
        Ok(out)
    }

    /// Tabs of the template part its columns; above them stand the titles of the fields.
    fn template_table(&self, template: &str, style: Style, room: Option<usize>) -> Result<String> {
        let template = Template::parse(template)?;
        let titles: Map<String, Value> = self
            .columns
            .iter()
            .map(|(field, title)| ((*field).to_owned(), (*title).into()))
            .collect();
        let fields = template.fields();
        let known = |field: &String| titles.contains_key(field);
        let mut head = titles.clone();
        for field in fields.iter().filter(|field| !known(field)) {
            if self.rows.first().is_some_and(|row| row.contains_key(field)) {
                head.insert(field.clone(), field.to_uppercase().into());
            }
        }
        let mut table = Table::new(template.titles(&Value::Object(head))?.split('\t'));
        for row in &self.rows {
            let line = template.render(&Value::Object(row.clone()))?;
            table.row(line.split('\t'));
        }
        Ok(table.render(style, room))
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLAIN: Style = Style {
        is_terminal: false,
        coloured: false,
    };

    fn listing() -> Listing {
        let mut listing = Listing::new(
            &[("ID", "THING ID"), ("Name", "NAME")],
            &["ID", "Name"],
            "ID",
        );
        listing.push(json!({"ID": "a1", "Name": "first", "More": 3}));
        listing.push(json!({"ID": "b2", "Name": "second", "More": 4}));
        listing
    }

    fn render(quiet: bool, format: Option<&str>) -> String {
        listing().render(quiet, format, PLAIN, None).unwrap()
    }

    #[test]
    fn one_list_has_many_forms() {
        for (quiet, format, expected) in [
            (
                false,
                None,
                "THING ID   NAME\na1         first\nb2         second\n",
            ),
            (true, None, "a1\nb2\n"),
            (
                false,
                Some("json"),
                "{\"ID\":\"a1\",\"More\":3,\"Name\":\"first\"}\n\
                 {\"ID\":\"b2\",\"More\":4,\"Name\":\"second\"}\n",
            ),
            (false, Some("{{.Name}}={{.More}}"), "first=3\nsecond=4\n"),
            (
                false,
                Some("table {{.Name}}\t{{upper .ID}}\t{{.More}}"),
                "NAME     THING ID   MORE\nfirst    A1         3\nsecond   B2         4\n",
            ),
        ] {
            assert_eq!(render(quiet, format), expected, "{format:?}");
        }
    }

    #[test]
    fn a_field_that_is_not_there_is_named_with_those_that_are() {
        let refused = listing().render(false, Some("{{.Nmae}}"), PLAIN, None);
        let said = refused.unwrap_err().to_string();
        assert!(
            said.contains("Nmae") && said.contains("ID, More, Name"),
            "{said}"
        );
    }
}
