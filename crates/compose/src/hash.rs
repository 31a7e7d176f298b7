//! The hash by which it is known that a container, a network or a volume is as the files say: that
//! of the stock client, so that neither recreates what the other has made.
//!
//! It is SHA-256 of the JSON that Go writes for compose-go's types. What that JSON has, in which
//! order, and when a field is left out is told by [`crate::schema`].

use sha2::{Digest, Sha256};

use crate::node::{Kind, Node};
use crate::schema;
use crate::shape::{Field, Keep, Shape};

/// Fields that may change without a new container.
const NOT_HASHED: &[&str] = &[
    "build",
    "pull_policy",
    "scale",
    "depends_on",
    "profiles",
    "env_file",
    "label_file",
    "extends",
];

pub fn of_service(service: &Node) -> String {
    let mut service = service.clone();
    for field in NOT_HASHED {
        service.take(field);
    }
    if let Some(deploy) = service.get_mut("deploy") {
        deploy.take("replicas");
    }
    digest(&service, &schema::SERVICE)
}

pub fn of_network(network: &Node) -> String {
    digest(network, &schema::NETWORK)
}

pub fn of_volume(volume: &Node) -> String {
    let mut volume = volume.clone();
    let driver = volume.get("driver").and_then(Node::scalar);
    if driver.is_none_or(|driver| driver.is_empty()) {
        let local = Node::text(&volume.at, "local");
        volume.set("driver", local);
    }
    digest(&volume, &schema::VOLUME)
}

fn digest(node: &Node, shape: &Shape) -> String {
    let mut json = String::new();
    write(node, shape, &mut json);
    hex::encode(Sha256::digest(json))
}

fn write(node: &Node, shape: &Shape, out: &mut String) {
    if node.is_null() {
        out.push_str("null");
        return;
    }
    let text = |out: &mut String| quote(&node.scalar().unwrap_or_default(), out);
    match shape {
        Shape::Short(_, inner) => write(node, inner, out),
        Shape::Text | Shape::File | Shape::Context | Shape::Duration | Shape::Size => text(out),
        Shape::Int | Shape::Bool => out.push_str(&node.scalar().unwrap_or_default()),
        Shape::Number => out.push_str(&single(node)),
        Shape::Mode => {
            if let Kind::Int(mode) = node.kind {
                quote(&format!("0{mode:o}"), out);
            }
        }
        Shape::Command | Shape::Test => array(node.items(), &Shape::Text, out),
        Shape::Hosts => {
            let mut items = node.items().to_vec();
            items.sort_by_key(Node::scalar);
            array(&items, &Shape::Text, out);
        }
        Shape::List(inner, _) => array(node.items(), inner, out),
        Shape::Mapping | Shape::Environment => map(node, &Shape::Text, out),
        Shape::Map(inner) => map(node, inner, out),
        Shape::Ulimit => match &node.kind {
            Kind::Map(_) => object(node, LIMITS, out),
            Kind::Int(0) => out.push_str("{}"),
            _ => out.push_str(&node.scalar().unwrap_or_default()),
        },
        Shape::Object(fields) | Shape::Driver(fields) => object(node, fields, out),
        Shape::Any => match &node.kind {
            Kind::Map(_) => map(node, &Shape::Any, out),
            Kind::List(items) => array(items, &Shape::Any, out),
            Kind::Text(_) => text(out),
            _ => out.push_str(&node.scalar().unwrap_or_default()),
        },
    }
}

const LIMITS: &[Field] = &[
    crate::shape::field("soft", Shape::Int),
    crate::shape::field("hard", Shape::Int),
];

fn object(node: &Node, fields: &[Field], out: &mut String) {
    out.push('{');
    let start = out.len();
    for field in fields {
        let value = node.get(field.name).filter(|value| !value.is_null());
        let shown = match (field.keep, value) {
            (Keep::Full, Some(value)) => !is_empty(value, &field.shape),
            (Keep::Full | Keep::Given, None) => false,
            _ => true,
        };
        if !shown {
            continue;
        }
        if out.len() > start {
            out.push(',');
        }
        quote(field.json, out);
        out.push(':');
        match (value, field.keep, &field.shape) {
            (Some(value), _, shape) => write(value, shape, out),
            // Go writes structures that are not pointers, with nothing in them.
            (None, Keep::AsObject, Shape::Object(fields)) => {
                object(&Node::new(&node.at, Kind::Map(Vec::new())), fields, out);
            }
            (None, ..) => out.push_str("null"),
        }
    }
    out.push('}');
}

fn is_empty(node: &Node, shape: &Shape) -> bool {
    match (&node.kind, shape) {
        (_, Shape::Short(_, inner)) => is_empty(node, inner),
        (Kind::Text(text), Shape::Duration) => text == "0s",
        (Kind::Text(text), _) => text.is_empty(),
        (Kind::List(items), _) => items.is_empty(),
        (Kind::Map(entries), _) => entries.is_empty(),
        (Kind::Int(value), _) => *value == 0,
        (Kind::Float(value), _) => *value == 0.0,
        (Kind::Bool(value), _) => !value,
        (Kind::Null, _) => true,
    }
}

fn array(items: &[Node], shape: &Shape, out: &mut String) {
    out.push('[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(item, shape, out);
    }
    out.push(']');
}

fn map(node: &Node, shape: &Shape, out: &mut String) {
    let mut entries: Vec<_> = node.entries().iter().collect();
    entries.sort_by(|one, other| one.key.cmp(&other.key));
    out.push('{');
    for (index, entry) in entries.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        quote(&entry.key, out);
        out.push(':');
        write(&entry.value, shape, out);
    }
    out.push('}');
}

/// Of single precision, by its shortest digits.
fn single(node: &Node) -> String {
    match node.kind {
        Kind::Float(value) => (value as f32).to_string(),
        _ => node.scalar().unwrap_or_default(),
    }
}

/// A JSON string as Go writes it: safe to stand in HTML.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_go_does() {
        let mut out = String::new();
        quote("a\"\\\n<&>\u{1}é\u{2028}", &mut out);
        assert_eq!(out, "\"a\\\"\\\\\\n\\u003c\\u0026\\u003e\\u0001é\\u2028\"");
    }
}
