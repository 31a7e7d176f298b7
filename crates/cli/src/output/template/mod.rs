//! The part of Go's templates that people use in `--format`: fields, pipes, `if`, `range`, `with`,
//! variables, and the functions of Docker's clients.

mod eval;
mod functions;
mod parse;

use serde_json::Value;

use crate::error::{Error, Result};

/// What a template is made of.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Print(Pipeline),
    /// `{{$x := …}}`
    Assign(String, Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    /// Names of the key and of the value, what is walked through, what is done with each, and
    /// what where there is none.
    Range(Vec<String>, Pipeline, Vec<Node>, Vec<Node>),
}

/// Calls, each with the result of the one before as its last argument.
type Pipeline = Vec<Vec<Operand>>;

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Literal(Value),
    Function(String),
    /// `.A.B`, from the dot.
    Field(Vec<String>),
    /// `$x.A`; the empty name is the whole.
    Variable(String, Vec<String>),
    /// `(…).A`
    Nested(Pipeline, Vec<String>),
}

#[derive(Debug, Clone)]
pub struct Template {
    text: String,
    nodes: Vec<Node>,
}

impl Template {
    /// Backslashes of a shell's word are read: `\t` and `\n`.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let nodes = parse::parse(&text).map_err(|reason| Error::Template {
            text: text.clone(),
            reason,
        })?;
        Ok(Self { text, nodes })
    }

    pub fn render(&self, value: &Value) -> Result<String> {
        eval::render(&self.nodes, value).map_err(|reason| Error::Template {
            text: self.text.clone(),
            reason,
        })
    }

    /// What stands above the columns that this makes: the same with titles for values, unchanged
    /// by functions.
    pub fn titles(&self, titles: &Value) -> Result<String> {
        let plain: Vec<Node> = self.nodes.iter().map(without_functions).collect();
        eval::render(&plain, titles).map_err(|reason| Error::Template {
            text: self.text.clone(),
            reason,
        })
    }

    /// First parts of all fields of the dot.
    pub fn fields(&self) -> Vec<String> {
        let operands = self.nodes.iter().filter_map(|node| match node {
            Node::Print(pipeline) => Some(pipeline.iter().flatten()),
            _ => None,
        });
        let names = operands.flatten().filter_map(|operand| match operand {
            Operand::Field(path) => path.first().cloned(),
            _ => None,
        });
        names.collect()
    }
}

fn without_functions(node: &Node) -> Node {
    let Node::Print(pipeline) = node else {
        return node.clone();
    };
    let mut operands = pipeline.iter().flatten();
    let label = operands.clone().any(|operand| {
        matches!(operand, Operand::Field(path) if path.first().is_some_and(|name| name == "Label"))
    });
    if label
        && let Some(Operand::Literal(Value::String(name))) =
            operands.clone().find(|o| matches!(o, Operand::Literal(_)))
    {
        return Node::Text(name.clone());
    }
    match operands.find(|operand| matches!(operand, Operand::Field(_))) {
        Some(field) => Node::Print(vec![vec![field.clone()]]),
        None => node.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str, value: &Value) -> Result<String> {
        Template::parse(template)?.render(value)
    }

    #[test]
    fn templates_that_people_use_are_read() {
        let value = json!({
            "Name": "/web",
            "State": {"Status": "running", "ExitCode": 0},
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"com.x/y": "z"}, "Cmd": null},
            "NetworkSettings": {"Networks": {
                "a": {"IPAddress": "10.0.0.2"}, "b": {"IPAddress": "10.0.1.2"}}},
            "Ports": {"80/tcp": [{"HostPort": "8800"}]},
            "On": true, "Off": false, "Size": 1234567890u64,
        });
        for (template, expected) in [
            ("{{.State.Status}}", "running"),
            ("{{ .Name }}: {{.State.ExitCode}}", "/web: 0"),
            ("{{json .State}}", "{\"ExitCode\":0,\"Status\":\"running\"}"),
            ("{{.State.Status | upper}}", "RUNNING"),
            ("{{.State.Status | printf \"%s!\"}}", "running!"),
            ("{{printf \"%-4d|%q\" 7 .Name}}", "7   |\"/web\""),
            (
                "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}",
                "10.0.0.2 10.0.1.2 ",
            ),
            (
                "{{range $name, $n := .NetworkSettings.Networks}}{{$name}}={{$n.IPAddress}};{{end}}",
                "a=10.0.0.2;b=10.0.1.2;",
            ),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            ("{{join .Config.Env \",\"}}", "A=1,B=2"),
            ("{{index .Config.Labels \"com.x/y\"}}", "z"),
            ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8800"),
            ("{{if .On}}yes{{else}}no{{end}}", "yes"),
            (
                "{{if .Off}}yes{{else if .On}}maybe{{else}}no{{end}}",
                "maybe",
            ),
            ("{{if .State.Health}}h{{else}}none{{end}}", "none"),
            ("{{with .Config}}{{len .Env}}{{end}}", "2"),
            ("{{with .Config}}{{$.Name}}{{end}}", "/web"),
            ("{{if eq .State.Status \"running\"}}up{{end}}", "up"),
            ("{{if and .On (not .Off)}}both{{end}}", "both"),
            ("{{if gt (len .Config.Env) 1}}many{{end}}", "many"),
            ("{{slice .Name 1}}", "web"),
            ("{{truncate .Name 2}}", "/w"),
            ("{{(split \"a:b\" \":\")}}", "[a b]"),
            ("{{.Config.Env}}", "[A=1 B=2]"),
            ("{{.Config.Labels}}", "map[com.x/y:z]"),
            ("{{.Config.Cmd}}", "<no value>"),
            ("a {{- .On -}} b", "atrueb"),
            ("{{/* nothing */}}x", "x"),
            ("{{$s := .State}}{{$s.Status}}", "running"),
            ("{{.Size}}", "1234567890"),
            ("\\t{{`raw`}}", "\traw"),
            ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ] {
            assert_eq!(render(template, &value).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_template_is_said() {
        let value = json!({"A": {"B": 1}, "S": "text"});
        for (template, part) in [
            ("{{.A", "not closed"),
            ("{{if .A}}x", "end"),
            ("{{end}}", "end"),
            ("{{.X}}", "no field \"X\": there are A, S"),
            ("{{.A.X}}", "no field \"X\": there are B"),
            ("{{.S.X}}", "no fields"),
            ("{{frobnicate .A}}", "frobnicate"),
            ("{{\"open}}", "not closed"),
            ("{{index .A \"x\" 1 2}}", "index"),
            ("{{$y}}", "$y"),
            ("{{}}", "empty"),
        ] {
            let said = render(template, &value).unwrap_err().to_string();
            assert!(said.contains(part), "{template}: {said}");
        }
    }
}
