//! What can be called in a template.

use serde_json::{Value, json};

type Called = Result<Value, String>;

pub fn call(name: &str, given: &[Value]) -> Called {
    match (name, given) {
        ("json", [value]) => Ok(value.to_string().into()),
        ("upper", [value]) => Ok(show(value).to_uppercase().into()),
        ("lower", [value]) => Ok(show(value).to_lowercase().into()),
        ("title", [value]) => Ok(title(&show(value)).into()),
        ("len", [value]) => length(value),
        ("join", [Value::Array(items), by]) => {
            let items: Vec<String> = items.iter().map(show).collect();
            Ok(items.join(&show(by)).into())
        }
        ("join", [Value::Null, _]) => Ok("".into()),
        ("split", [text, by]) => {
            let (text, by) = (show(text), show(by));
            Ok(text.split(&by).map(Value::from).collect())
        }
        ("truncate", [text, Value::Number(count)]) => {
            let count = usize::try_from(count.as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
            Ok(show(text).chars().take(count).collect::<String>().into())
        }
        ("pad", [text, before, after]) => {
            let spaces = |count: &Value| " ".repeat(usize_of(count).min(4096));
            let text = show(text);
            Ok(match text.is_empty() {
                true => text,
                false => spaces(before) + &text + &spaces(after),
            }
            .into())
        }
        ("print", given) => Ok(given.iter().map(show).collect::<String>().into()),
        ("println", given) => {
            let words: Vec<String> = given.iter().map(show).collect();
            Ok((words.join(" ") + "\n").into())
        }
        ("printf", [format, rest @ ..]) => printf(&show(format), rest),
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |at, key| {
            index(&at, key).ok_or_else(|| format!("index: no {} in {}", show(key), show(&at)))
        }),
        ("slice", [value, bounds @ ..]) => slice(value, bounds),
        ("not", [value]) => Ok((!is_true(value)).into()),
        ("and", given) => Ok(pick(given, false)),
        ("or", given) => Ok(pick(given, true)),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => {
            Ok(rest.iter().any(|other| same(first, other)).into())
        }
        ("ne", [first, second]) => Ok((!same(first, second)).into()),
        ("lt" | "le" | "gt" | "ge", [first, second]) => {
            let order = order(first, second).ok_or("only numbers and texts have an order")?;
            Ok(match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into())
        }
        (known, _) if KNOWN.contains(&known) => {
            Err(format!("{known} does not take these arguments"))
        }
        _ => Err(format!(
            "no function {name:?}: there are {}",
            KNOWN.join(", ")
        )),
    }
}

const KNOWN: [&str; 22] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate",
];

/// As Go prints it.
pub fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(show).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(fields) => {
            let fields = fields.iter();
            let pairs: Vec<String> = fields.map(|(k, v)| format!("{k}:{}", show(v))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

pub fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// The first that decides, or the last.
fn pick(given: &[Value], decides: bool) -> Value {
    let found = given.iter().find(|value| is_true(value) == decides);
    found.or(given.last()).cloned().unwrap_or_default()
}

fn same(first: &Value, second: &Value) -> bool {
    match (first.as_f64(), second.as_f64()) {
        (Some(first), Some(second)) => first == second,
        _ => first == second,
    }
}

fn order(first: &Value, second: &Value) -> Option<std::cmp::Ordering> {
    match (first, second) {
        (Value::String(first), Value::String(second)) => Some(first.cmp(second)),
        _ => first.as_f64()?.partial_cmp(&second.as_f64()?),
    }
}

fn length(value: &Value) -> Called {
    match value {
        Value::String(text) => Ok(text.len().into()),
        Value::Array(items) => Ok(items.len().into()),
        Value::Object(fields) => Ok(fields.len().into()),
        Value::Null => Ok(0.into()),
        other => Err(format!("len of {}", show(other))),
    }
}

/// What is not in a map is nothing, as in Go; what is beyond a list is wrong.
fn index(value: &Value, key: &Value) -> Option<Value> {
    match value {
        Value::Object(fields) => {
            Some(fields.get(key.as_str()?).cloned().unwrap_or_else(
                || match fields.values().next() {
                    Some(Value::String(_)) => json!(""),
                    _ => Value::Null,
                },
            ))
        }
        Value::Array(items) => items.get(usize::try_from(key.as_u64()?).ok()?).cloned(),
        _ => None,
    }
}

fn usize_of(value: &Value) -> usize {
    let number = value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok());
    number.unwrap_or(0)
}

fn slice(value: &Value, bounds: &[Value]) -> Called {
    let from = bounds.first().map_or(0, usize_of);
    let to = bounds.get(1).map(usize_of);
    let beyond = || format!("slice: {} is not so long", show(value));
    match value {
        Value::String(text) => {
            let part = text.get(from..to.unwrap_or(text.len()));
            part.map(Value::from).ok_or_else(beyond)
        }
        Value::Array(items) => {
            let part = items.get(from..to.unwrap_or(items.len()));
            part.map(|part| part.to_vec().into()).ok_or_else(beyond)
        }
        other => Err(format!("slice of {}", show(other))),
    }
}

fn title(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters
        .next()
        .map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + characters.as_str()
}

/// `%s`, `%v`, `%d`, `%q` and `%%`, with a width.
fn printf(format: &str, given: &[Value]) -> Called {
    let mut given = given.iter();
    let mut out = String::new();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let left = characters.next_if_eq(&'-').is_some();
        let mut width = 0_usize;
        while let Some(digit) = characters.peek().and_then(|c| c.to_digit(10)) {
            width = (width * 10 + digit as usize).min(4096);
            characters.next();
        }
        let text = match characters.next() {
            Some('%') => "%".to_owned(),
            Some('q') => format!("{:?}", show(given.next().ok_or("printf: too few values")?)),
            Some('s' | 'v' | 'd') => show(given.next().ok_or("printf: too few values")?),
            other => return Err(format!("printf: no verb {other:?}: there are s, v, d, q")),
        };
        out.push_str(&match left {
            true => format!("{text:<width$}"),
            false => format!("{text:>width$}"),
        });
    }
    Ok(out.into())
}
