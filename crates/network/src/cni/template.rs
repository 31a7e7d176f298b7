//! A network list made from a template once the node's pod ranges are known.
//!
//! The language is what such templates use of Go's text/template with containerd: the values
//! `.PodCIDR`, `.PodCIDRRanges` and `.Routes`, `range` over a list with or without variables, and
//! `if` on a variable, so that the first of a list has no comma. Anything else is refused.
//!
//! ```text
//! "ranges": [{{range $i, $r := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$r}}"}]{{end}}]
//! ```

use std::collections::HashMap;

use crate::subnet::Subnet;

#[derive(Debug, PartialEq)]
enum Node<'a> {
    Text(&'a str),
    /// A field, a variable, or the dot.
    Value(&'a str),
    Range {
        index: Option<&'a str>,
        item: Option<&'a str>,
        list: &'a str,
        body: Vec<Node<'a>>,
    },
    If {
        condition: &'a str,
        body: Vec<Node<'a>>,
    },
}

/// The values that names stand for at one place of the template.
#[derive(Debug, Clone, Default)]
struct Scope<'a> {
    variables: HashMap<&'a str, String>,
    dot: Option<String>,
}

/// The template's text with the ranges in it; the error says what it does not understand.
pub(super) fn fill(template: &str, ranges: &[Subnet]) -> Result<String, String> {
    let mut rest = template;
    let nodes = parse(&mut rest, 0)?;
    let mut text = String::new();
    render(&nodes, &Scope::default(), ranges, &mut text)?;
    Ok(text)
}

/// Reads up to the `{{end}}` that belongs to `depth`, or to the template's own end.
fn parse<'a>(rest: &mut &'a str, depth: usize) -> Result<Vec<Node<'a>>, String> {
    let mut nodes = Vec::new();
    loop {
        let Some((text, after)) = rest.split_once("{{") else {
            if depth > 0 {
                return Err("a range or an if without its {{end}}".into());
            }
            nodes.push(Node::Text(std::mem::take(rest)));
            return Ok(nodes);
        };
        let (action, after) = after.split_once("}}").ok_or("{{ without }}")?;
        // A dash beside the braces eats the blanks on its side.
        let text = if action.starts_with("- ") {
            text.trim_end()
        } else {
            text
        };
        *rest = if action.ends_with(" -") {
            after.trim_start()
        } else {
            after
        };
        nodes.push(Node::Text(text));
        let action = action.trim_start_matches('-').trim_end_matches('-').trim();
        match action.split_once(char::is_whitespace) {
            None if action == "end" && depth > 0 => return Ok(nodes),
            None if is_value(action) => nodes.push(Node::Value(action)),
            Some(("range", clause)) => {
                let (index, item, list) = range_clause(clause)?;
                let body = parse(rest, depth + 1)?;
                nodes.push(Node::Range {
                    index,
                    item,
                    list,
                    body,
                });
            }
            Some(("if", condition)) if condition.trim().starts_with('$') => {
                let body = parse(rest, depth + 1)?;
                nodes.push(Node::If {
                    condition: condition.trim(),
                    body,
                });
            }
            _ => return Err(format!("{{{{{action}}}}} is not understood")),
        }
    }
}

fn is_value(action: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    action
        .strip_prefix(['.', '$'])
        .is_some_and(|name| name.chars().all(good))
}

type Clause<'a> = (Option<&'a str>, Option<&'a str>, &'a str);

/// `.List`, `$item := .List` or `$index, $item := .List`.
fn range_clause(clause: &str) -> Result<Clause<'_>, String> {
    let (variables, list) = match clause.split_once(":=") {
        Some((variables, list)) => (variables.trim(), list.trim()),
        None => ("", clause.trim()),
    };
    let (index, item) = match variables.split_once(',') {
        Some((index, item)) => (index.trim(), item.trim()),
        None => ("", variables),
    };
    let named = |name: &str| name.is_empty() || (name.starts_with('$') && is_value(name));
    if !list.starts_with('.') || !named(index) || !named(item) {
        return Err(format!("range {clause} is not understood"));
    }
    Ok((
        Some(index).filter(|name| !name.is_empty()),
        Some(item).filter(|name| !name.is_empty()),
        list,
    ))
}

fn render<'a>(
    nodes: &[Node<'a>],
    scope: &Scope<'a>,
    ranges: &[Subnet],
    text: &mut String,
) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(part) => text.push_str(part),
            Node::Value(name) => text.push_str(&value(name, scope, ranges)?),
            Node::If { condition, body } => {
                let value = value(condition, scope, ranges)?;
                // As in Go, where a count of zero and an empty text are false.
                if !value.is_empty() && value != "0" {
                    render(body, scope, ranges, text)?;
                }
            }
            Node::Range {
                index,
                item,
                list,
                body,
            } => {
                for (number, element) in elements(list, ranges)?.into_iter().enumerate() {
                    let mut inner = scope.clone();
                    inner
                        .variables
                        .extend(index.map(|name| (name, number.to_string())));
                    inner
                        .variables
                        .extend(item.map(|name| (name, element.clone())));
                    inner.dot = Some(element);
                    render(body, &inner, ranges, text)?;
                }
            }
        }
    }
    Ok(())
}

fn value(name: &str, scope: &Scope<'_>, ranges: &[Subnet]) -> Result<String, String> {
    let known = match name {
        ".PodCIDR" => ranges.first().map(ToString::to_string),
        "." => scope.dot.clone(),
        variable => scope.variables.get(variable).cloned(),
    };
    known.ok_or_else(|| format!("{name} has no value here"))
}

fn elements(list: &str, ranges: &[Subnet]) -> Result<Vec<String>, String> {
    match list {
        ".PodCIDRRanges" => Ok(ranges.iter().map(ToString::to_string).collect()),
        // Everything, by each family that pods have.
        ".Routes" => {
            let has = |ipv4| ranges.iter().any(|range| range.is_ipv4() == ipv4);
            let defaults = [(has(true), "0.0.0.0/0"), (has(false), "::/0")];
            let present = defaults.into_iter().filter(|(present, _)| *present);
            Ok(present.map(|(_, route)| route.to_owned()).collect())
        }
        other => Err(format!("there is no list {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, ranges: &[&str]) -> Result<String, String> {
        let ranges: Vec<Subnet> = ranges.iter().map(|text| text.parse().unwrap()).collect();
        fill(template, &ranges)
    }

    #[test]
    fn ranges_and_routes_are_filled_in() {
        let both = ["10.1.0.0/24", "fd00:1::/64"];
        for (template, ranges, wanted) in [
            ("no action", &both[..], "no action"),
            ("\"{{.PodCIDR}}\"", &both, "\"10.1.0.0/24\""),
            (
                "[{{range $i, $r := .PodCIDRRanges}}{{if $i}}, {{end}}[{\"subnet\": \"{{$r}}\"}]{{end}}]",
                &both,
                "[[{\"subnet\": \"10.1.0.0/24\"}], [{\"subnet\": \"fd00:1::/64\"}]]",
            ),
            (
                "{{range .Routes}}<{{.}}>{{end}}",
                &both,
                "<0.0.0.0/0><::/0>",
            ),
            (
                "{{range $r := .Routes}}<{{$r}}>{{end}}",
                &both[1..],
                "<::/0>",
            ),
            ("a {{- range .Routes}} b {{- end }} c", &both[..1], "a b c"),
        ] {
            assert_eq!(filled(template, ranges).unwrap(), wanted, "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (template, why) in [
            ("{{.Other}}", ".Other"),
            ("{{range .PodCIDRRanges}}", "{{end}}"),
            ("{{end}}", "{{end}}"),
            ("{{.PodCIDR", "without }}"),
            ("{{printf \"x\"}}", "printf"),
            ("{{range .Others}}{{end}}", ".Others"),
            ("{{if .PodCIDR}}x{{end}}", "if .PodCIDR"),
            ("{{range i := .Routes}}{{end}}", "i := .Routes"),
            ("{{$unset}}", "$unset"),
        ] {
            let error = filled(template, &["10.1.0.0/24"]).unwrap_err();
            assert!(error.contains(why), "{template}: {error}");
        }
        assert!(filled("{{.PodCIDR}}", &[]).is_err());
    }
}
