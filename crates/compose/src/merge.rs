//! One model over another, by the specification's rules: mappings meet field by field, lists follow
//! each other with the later of two same entries, and what is a command stands or falls as a whole.

use crate::node::{Entry, Kind, Mark, Node};
use crate::shape::{Field, Key, Shape};

/// `over` on `base`. Both were read by the same shape.
pub fn merge(base: Node, over: Node, shape: &Shape) -> Node {
    if over.merge == Mark::Override {
        return over;
    }
    if over.is_null() {
        return base;
    }
    match shape {
        Shape::Short(_, inner) => merge(base, over, inner),
        Shape::Object(fields) => mapped(base, over, |key| of(fields, key)),
        Shape::Driver(fields) => {
            let differs = match (base.get("driver"), over.get("driver")) {
                (Some(one), Some(other)) => one != other,
                _ => false,
            };
            if differs {
                over
            } else {
                mapped(base, over, |key| of(fields, key))
            }
        }
        Shape::Map(inner) => mapped(base, over, |_| inner),
        Shape::Mapping | Shape::Environment => mapped(base, over, |_| &Shape::Text),
        Shape::Hosts => follow(base, over, Key::Target),
        Shape::List(_, key) => follow(base, over, *key),
        _ => over,
    }
}

/// A list with each entry once, the later one in the earlier's place; and below it.
pub fn once(node: Node, shape: &Shape) -> Node {
    let Node { at, kind, merge } = node;
    let kind = match (kind, shape) {
        (kind, Shape::Short(_, inner)) => {
            return once(Node { at, kind, merge }, inner);
        }
        (Kind::Map(entries), Shape::Object(fields) | Shape::Driver(fields)) => {
            let once = |entry: Entry| Entry {
                value: once(entry.value, of(fields, &entry.key)),
                ..entry
            };
            Kind::Map(entries.into_iter().map(once).collect())
        }
        (Kind::Map(entries), Shape::Map(inner)) => {
            let once = |entry: Entry| Entry {
                value: once(entry.value, inner),
                ..entry
            };
            Kind::Map(entries.into_iter().map(once).collect())
        }
        (Kind::List(items), Shape::List(_, key)) if *key != Key::None => {
            Kind::List(distinct(items, *key))
        }
        (kind, _) => kind,
    };
    Node { at, kind, merge }
}

/// What `!reset` has left is taken away.
pub fn without_resets(mut node: Node) -> Node {
    match &mut node.kind {
        Kind::Map(entries) => {
            entries.retain(|entry| entry.value.merge != Mark::Reset);
            for entry in entries {
                let value = std::mem::replace(&mut entry.value, Node::new(&entry.at, Kind::Null));
                entry.value = without_resets(value);
            }
        }
        Kind::List(items) => {
            items.retain(|item| item.merge != Mark::Reset);
            let all = std::mem::take(items);
            items.extend(all.into_iter().map(without_resets));
        }
        _ => {}
    }
    node
}

fn of<'a>(fields: &'a [Field], key: &str) -> &'a Shape {
    fields
        .iter()
        .find(|field| field.name == key)
        .map_or(&Shape::Any, |field| &field.shape)
}

fn mapped<'a>(base: Node, over: Node, shape: impl Fn(&str) -> &'a Shape) -> Node {
    let Node {
        at,
        kind,
        merge: mark,
    } = base;
    let (Kind::Map(mut entries), Kind::Map(others)) = (kind, &over.kind) else {
        return over;
    };
    for other in others.clone() {
        let place = entries.iter().position(|entry| entry.key == other.key);
        match place {
            Some(place) if other.value.merge == Mark::Reset => {
                entries.remove(place);
            }
            Some(place) => {
                let entry = &mut entries[place];
                let old = std::mem::replace(&mut entry.value, Node::new(&at, Kind::Null));
                entry.value = merge(old, other.value, shape(&other.key));
            }
            None => entries.push(other),
        }
    }
    Node {
        at,
        kind: Kind::Map(entries),
        merge: mark,
    }
}

fn follow(base: Node, over: Node, key: Key) -> Node {
    let Node { at, kind, merge } = base;
    match (kind, &over.kind) {
        (Kind::List(mut items), Kind::List(others)) => {
            items.extend(others.iter().cloned());
            Node {
                at,
                kind: Kind::List(match key {
                    Key::None => items,
                    key => distinct(items, key),
                }),
                merge,
            }
        }
        _ => over,
    }
}

fn distinct(items: Vec<Node>, key: Key) -> Vec<Node> {
    let mut kept: Vec<(String, Node)> = Vec::with_capacity(items.len());
    for item in items {
        let name = name(&item, key);
        match kept.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = item,
            None => kept.push((name, item)),
        }
    }
    kept.into_iter().map(|(_, item)| item).collect()
}

/// What makes an entry the same as another.
fn name(item: &Node, key: Key) -> String {
    let field = |name: &str| item.get(name).and_then(Node::scalar);
    let whole = || item.scalar().unwrap_or_default();
    match key {
        Key::None => String::new(),
        Key::Word => whole().split('=').next().unwrap_or_default().to_owned(),
        Key::Target => field("target").unwrap_or_else(whole),
        Key::Path => field("path").unwrap_or_else(whole),
        Key::Subnet => field("subnet").unwrap_or_default(),
        Key::Grant => field("target").or(field("source")).unwrap_or_else(whole),
        Key::Port => format!(
            "{}:{}:{}/{}",
            field("host_ip").unwrap_or_else(|| "0.0.0.0".to_owned()),
            field("published").unwrap_or_default(),
            field("target").unwrap_or_default(),
            field("protocol").unwrap_or_default()
        ),
    }
}
