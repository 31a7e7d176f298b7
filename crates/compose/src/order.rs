//! Who waits for whom.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};

/// Names, each with those that come before it.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// Every name after those that it waits for.
///
/// # Errors
/// With the circle, where there is one.
pub fn order(graph: &Graph) -> Result<Vec<String>> {
    let mut ordered = Vec::with_capacity(graph.len());
    let mut done = BTreeSet::new();
    for name in graph.keys() {
        visit(name, graph, &mut Vec::new(), &mut done, &mut ordered)?;
    }
    Ok(ordered)
}

fn visit<'a>(
    name: &'a str,
    graph: &'a Graph,
    path: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
    ordered: &mut Vec<String>,
) -> Result<()> {
    if done.contains(name) {
        return Ok(());
    }
    if let Some(place) = path.iter().position(|other| *other == name) {
        let circle: Vec<&str> = path[place..].iter().copied().chain([name]).collect();
        return Err(Error::Circle(circle.join(" → ")));
    }
    path.push(name);
    if let Some(first) = graph.get(name) {
        for other in first.iter().filter(|other| graph.contains_key(*other)) {
            visit(other, graph, path, done, ordered)?;
        }
    }
    path.pop();
    done.insert(name);
    ordered.push(name.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(lines: &[(&str, &[&str])]) -> Graph {
        let line = |(name, after): &(&str, &[&str])| {
            (
                name.to_string(),
                after.iter().map(ToString::to_string).collect(),
            )
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn each_comes_after_what_it_waits_for() {
        let ordered = order(&graph(&[
            ("a", &["c", "b"]),
            ("b", &["c"]),
            ("c", &["gone"]),
        ]));
        assert_eq!(ordered.unwrap(), ["c", "b", "a"]);
    }

    #[test]
    fn circles_are_shown() {
        let error = order(&graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "services wait for each other in a circle: b → c → b; one of these depends_on has to go"
        );
    }
}
