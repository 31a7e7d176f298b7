//! From nodes and a value to text.

use serde_json::Value;

use super::functions::{self, is_true, show};
use super::{Node, Operand, Pipeline};

type Evaluated<T> = Result<T, String>;

pub fn render(nodes: &[Node], value: &Value) -> Evaluated<String> {
    let mut run = Run {
        variables: vec![(String::new(), value.clone())],
        out: String::new(),
    };
    run.all(nodes, value)?;
    Ok(run.out)
}

struct Run {
    /// The innermost last; the first, without a name, is the whole.
    variables: Vec<(String, Value)>,
    out: String,
}

impl Run {
    fn all(&mut self, nodes: &[Node], dot: &Value) -> Evaluated<()> {
        let depth = self.variables.len();
        nodes.iter().try_for_each(|node| self.one(node, dot))?;
        self.variables.truncate(depth);
        Ok(())
    }

    fn one(&mut self, node: &Node, dot: &Value) -> Evaluated<()> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.value(pipeline, dot)?;
                self.out.push_str(&show(&value));
            }
            Node::Assign(name, pipeline) => {
                let value = self.value(pipeline, dot)?;
                self.variables.push((name.clone(), value));
            }
            Node::If(condition, body, other) => {
                let holds = is_true(&self.if_there(condition, dot)?);
                self.all(if holds { body } else { other }, dot)?;
            }
            Node::With(pipeline, body, other) => {
                let value = self.if_there(pipeline, dot)?;
                match is_true(&value) {
                    true => self.all(body, &value)?,
                    false => self.all(other, dot)?,
                }
            }
            Node::Range(names, pipeline, body, other) => {
                let walked = self.if_there(pipeline, dot)?;
                self.range(names, &walked, body, other, dot)?;
            }
        }
        Ok(())
    }

    fn range(
        &mut self,
        names: &[String],
        walked: &Value,
        body: &[Node],
        other: &[Node],
        dot: &Value,
    ) -> Evaluated<()> {
        let items: Vec<(Value, Value)> = match walked {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| (index.into(), item.clone()))
                .collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, field)| (name.clone().into(), field.clone()))
                .collect(),
            Value::Null => Vec::new(),
            single => return Err(format!("range cannot walk through {}", show(single))),
        };
        if items.is_empty() {
            return self.all(other, dot);
        }
        for (key, item) in items {
            let depth = self.variables.len();
            match names {
                [value] => self.variables.push((value.clone(), item.clone())),
                [name, value] => {
                    self.variables.push((name.clone(), key));
                    self.variables.push((value.clone(), item.clone()));
                }
                _ => {}
            }
            self.all(body, &item)?;
            self.variables.truncate(depth);
        }
        Ok(())
    }

    /// A field that is not there is nothing: whoever asks whether it is wants to know.
    fn if_there(&self, pipeline: &Pipeline, dot: &Value) -> Evaluated<Value> {
        match self.value(pipeline, dot) {
            Err(reason) if reason.starts_with(NO_FIELD) => Ok(Value::Null),
            other => other,
        }
    }

    fn value(&self, pipeline: &Pipeline, dot: &Value) -> Evaluated<Value> {
        let mut result: Option<Value> = None;
        for call in pipeline {
            result = Some(self.call(call, result, dot)?);
        }
        Ok(result.unwrap_or_default())
    }

    fn call(&self, call: &[Operand], piped: Option<Value>, dot: &Value) -> Evaluated<Value> {
        let Some((first, rest)) = call.split_first() else {
            return Err("a part of it is empty".to_owned());
        };
        if let Operand::Function(name) = first {
            let given = rest.iter().map(|operand| match name.as_str() {
                "and" | "or" | "not" => self.lenient(operand, dot),
                _ => self.operand(operand, dot),
            });
            let mut given = given.collect::<Evaluated<Vec<Value>>>()?;
            given.extend(piped);
            return functions::call(name, &given);
        }
        // `.Label "name"`: the only method of Docker's rows that takes an argument.
        if let (Operand::Field(path), [argument]) = (first, rest)
            && path.last().is_some_and(|name| name == "Label")
        {
            let name = self.operand(argument, dot)?;
            return Ok(label(dot, &show(&name)));
        }
        match rest.is_empty() && piped.is_none() {
            true => self.operand(first, dot),
            false => Err("only functions take arguments".to_owned()),
        }
    }

    fn lenient(&self, operand: &Operand, dot: &Value) -> Evaluated<Value> {
        match self.operand(operand, dot) {
            Err(reason) if reason.starts_with(NO_FIELD) => Ok(Value::Null),
            other => other,
        }
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Evaluated<Value> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Field(path) => field(dot, path),
            Operand::Variable(name, path) => {
                let mut known = self.variables.iter().rev();
                let found = known.find(|(known, _)| known == name);
                let (_, value) = found.ok_or_else(|| format!("no variable ${name}"))?;
                field(value, path)
            }
            Operand::Nested(pipeline, path) => field(&self.value(pipeline, dot)?, path),
            Operand::Function(name) => functions::call(name, &[]),
        }
    }
}

/// How it is said that a field is missing.
const NO_FIELD: &str = "no field";

fn field(value: &Value, path: &[String]) -> Evaluated<Value> {
    let mut at = value;
    for name in path {
        at = match at {
            Value::Object(fields) => match fields.get(name) {
                Some(value) => value,
                None => {
                    let known: Vec<&str> = fields.keys().map(String::as_str).collect();
                    let known = known.join(", ");
                    return Err(format!("{NO_FIELD} {name:?}: there are {known}"));
                }
            },
            Value::Null => return Err(format!("{NO_FIELD} {name:?} of nothing")),
            other => return Err(format!("{} has no fields", show(other))),
        };
    }
    Ok(at.clone())
}

/// Rows have their labels as `a=b,c=d`.
fn label(dot: &Value, name: &str) -> Value {
    let labels = match dot.get("Labels") {
        Some(Value::String(labels)) => labels.as_str(),
        Some(Value::Object(labels)) => {
            return labels.get(name).cloned().unwrap_or_else(|| "".into());
        }
        _ => "",
    };
    let mut pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(key, _)| *key == name);
    found.map_or("", |(_, value)| value).into()
}
