//! A model for others to read: as JSON, and as YAML that says the same.

use serde_json::Value;

use crate::node::{Kind, Node};

/// Names without a value stay; lists and texts are as they are.
pub fn value(node: &Node) -> Value {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Bool(value) => Value::from(*value),
        Kind::Int(value) => Value::from(*value),
        Kind::Float(float) => Value::from(*float),
        Kind::Text(text) => Value::from(text.clone()),
        Kind::List(items) => Value::Array(items.iter().map(value).collect()),
        Kind::Map(entries) => Value::Object(
            entries
                .iter()
                .map(|entry| (entry.key.clone(), value(&entry.value)))
                .collect(),
        ),
    }
}

/// In blocks, two spaces a level. `$` is doubled, so that what was replaced once is not again.
pub fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                out.push_str(&format!("{indent}{}:", word(key)));
                nested(value, depth + 1, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Object(map) if !map.is_empty() => {
                        let mut inner = String::new();
                        block(item, depth + 1, &mut inner);
                        let inner = inner.trim_start_matches(' ');
                        out.push_str(&format!("{indent}- {inner}"));
                    }
                    item => {
                        out.push_str(&format!("{indent}-"));
                        nested(item, depth + 1, out);
                    }
                }
            }
        }
        scalar => out.push_str(&format!("{indent}{}\n", inline(scalar))),
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if map.is_empty() => out.push_str(" {}\n"),
        Value::Array(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Object(_) | Value::Array(_) => {
            out.push('\n');
            block(value, depth, out);
        }
        scalar => out.push_str(&format!(" {}\n", inline(scalar))),
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => word(&text.replace('$', "$$")),
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

/// Plain where that can be nothing else than the same text.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./$@".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let is_text = crate::yaml::documents("", text)
        .ok()
        .and_then(|mut nodes| nodes.pop())
        .is_some_and(|node| node.as_text() == Some(text));
    let old_truth = ["y", "n", "yes", "no", "on", "off"];
    let is_old = old_truth.contains(&text.to_lowercase().as_str());
    if begins && text.chars().all(plain) && is_text && !is_old {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read_the_same() {
        let model = json!({
            "a": {"list": ["x", {"k": 1, "l": []}, 2, "yes"], "none": null, "empty": {}},
            "b c": "- tricky: # text\n", "n": "12", "t": "true", "é": 1.5, "": "~",
        });
        let text = yaml(&model);
        let read = crate::yaml::documents("c", &text).unwrap().remove(0);
        assert_eq!(value(&read), model, "{text}");
        assert_eq!(yaml(&json!({"a": "x$y"})), "a: x$$y\n");
    }
}
