//! What `inspect` prints: whole objects, or what a template takes of each.

use serde_json::Value;

use super::print_line;
use super::template::Template;
use crate::error::{Error, Result};

pub fn print_inspected(objects: &[Value], format: Option<&str>) -> Result<()> {
    match format {
        None | Some("") => print_line(&indented(&Value::Array(objects.to_vec()))?),
        Some("json") => print_line(&Value::Array(objects.to_vec()).to_string()),
        Some(template) => {
            let template = Template::parse(template)?;
            objects
                .iter()
                .try_for_each(|object| print_line(&template.render(object)?))
        }
    }
}

/// By four, as Docker does.
fn indented(value: &Value) -> Result<String> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    serde::Serialize::serialize(value, &mut serializer).map_err(Error::Answer)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}
