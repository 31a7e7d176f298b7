//! From text to nodes.

use serde_json::{Value, json};

use super::{Node, Operand, Pipeline};

type Parsed<T> = Result<T, String>;

pub fn parse(text: &str) -> Parsed<Vec<Node>> {
    let mut pieces = pieces(text)?.into_iter();
    let (nodes, end) = block(&mut pieces, true)?;
    match end {
        Close::Text => Ok(nodes),
        _ => Err("an end or else without its beginning".to_owned()),
    }
}

enum Piece {
    Text(String),
    Action(String),
}

/// Parts text from actions, and takes the white space away that `{{-` and `-}}` ask for.
fn pieces(text: &str) -> Parsed<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trims = false;
    while let Some((before, tail)) = rest.split_once("{{") {
        let end = end_of_action(tail).ok_or("an action is not closed by }}")?;
        let (inner, after) = tail.split_at(end);
        let mut before = if trims { before.trim_start() } else { before };
        let mut inner = inner;
        if let Some(stripped) = inner.strip_prefix("- ") {
            before = before.trim_end();
            inner = stripped;
        }
        trims = inner.ends_with(" -");
        if trims {
            inner = inner.trim_end_matches('-');
        }
        pieces.push(Piece::Text(before.to_owned()));
        pieces.push(Piece::Action(inner.trim().to_owned()));
        rest = after.strip_prefix("}}").unwrap_or(after);
    }
    let rest = if trims { rest.trim_start() } else { rest };
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

/// Braces within quotes do not count.
fn end_of_action(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match quote {
            Some(b'"') if byte == b'\\' => at += 1,
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if byte == b'"' || byte == b'`' => quote = Some(byte),
            None if byte == b'}' && bytes.get(at + 1) == Some(&b'}') => return Some(at),
            None => {}
        }
        at += 1;
    }
    None
}

/// What came after a block.
enum Close {
    Text,
    End,
    Else,
    ElseIf(Pipeline),
}

type Pieces = std::vec::IntoIter<Piece>;

fn block(pieces: &mut Pieces, outermost: bool) -> Parsed<(Vec<Node>, Close)> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = match action.split_once(char::is_whitespace) {
            Some((word, rest)) => (word, rest.trim()),
            None => (action.as_str(), ""),
        };
        match word {
            "" => return Err("an action is empty".to_owned()),
            _ if action.starts_with("/*") => {}
            "end" => return Ok((nodes, Close::End)),
            "else" => match rest.strip_prefix("if ") {
                Some(condition) => return Ok((nodes, Close::ElseIf(pipeline(condition)?))),
                None => return Ok((nodes, Close::Else)),
            },
            "if" => {
                let (body, other) = branches(pieces)?;
                nodes.push(Node::If(pipeline(rest)?, body, other));
            }
            "with" => {
                let (body, other) = branches(pieces)?;
                nodes.push(Node::With(pipeline(rest)?, body, other));
            }
            "range" => {
                let (names, walked) = match rest.split_once(":=") {
                    Some((names, walked)) => (variables(names)?, walked),
                    None => (Vec::new(), rest),
                };
                let (body, other) = branches(pieces)?;
                nodes.push(Node::Range(names, pipeline(walked)?, body, other));
            }
            _ => nodes.push(printed(&action)?),
        }
    }
    match outermost {
        true => Ok((nodes, Close::Text)),
        false => Err("an end is missing".to_owned()),
    }
}

/// What stands between an `if`, `with` or `range` and its end.
fn branches(pieces: &mut Pieces) -> Parsed<(Vec<Node>, Vec<Node>)> {
    let (body, end) = block(pieces, false)?;
    Ok((body, other(pieces, end)?))
}

fn other(pieces: &mut Pieces, end: Close) -> Parsed<Vec<Node>> {
    match end {
        Close::End | Close::Text => Ok(Vec::new()),
        Close::Else => match block(pieces, false)? {
            (nodes, Close::End) => Ok(nodes),
            _ => Err("an else after an else".to_owned()),
        },
        Close::ElseIf(condition) => {
            let (body, end) = block(pieces, false)?;
            Ok(vec![Node::If(condition, body, other(pieces, end)?)])
        }
    }
}

fn printed(action: &str) -> Parsed<Node> {
    if action.starts_with('$')
        && let Some((name, value)) = action.split_once(":=")
    {
        let name = variables(name)?.pop().unwrap_or_default();
        return Ok(Node::Assign(name, pipeline(value)?));
    }
    Ok(Node::Print(pipeline(action)?))
}

fn variables(text: &str) -> Parsed<Vec<String>> {
    let names = text.split(',').map(|name| {
        let name = name.trim().strip_prefix('$');
        name.map(str::to_owned)
            .ok_or_else(|| format!("{text:?} are no variables"))
    });
    names.collect()
}

fn pipeline(text: &str) -> Parsed<Pipeline> {
    let tokens = tokens(text)?;
    let mut tokens = tokens.into_iter().peekable();
    let pipeline = calls(&mut tokens, false)?;
    match tokens.next() {
        None => Ok(pipeline),
        Some(_) => Err("a parenthesis is closed that was not opened".to_owned()),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Open,
    Close,
    Pipe,
    Literal(Value),
    Word(String),
    /// `.A.B` after a parenthesis.
    Chain(Vec<String>),
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

fn calls(tokens: &mut Tokens, nested: bool) -> Parsed<Pipeline> {
    let mut calls = vec![Vec::new()];
    loop {
        let operand = match tokens.peek() {
            None => break,
            Some(Token::Close) if nested => break,
            Some(Token::Close) => return Err("a parenthesis too many".to_owned()),
            Some(_) => tokens.next(),
        };
        match operand {
            Some(Token::Pipe) => calls.push(Vec::new()),
            Some(Token::Open) => {
                let inner = self::calls(tokens, true)?;
                if tokens.next() != Some(Token::Close) {
                    return Err("a parenthesis is not closed".to_owned());
                }
                let chain = match tokens.peek() {
                    Some(Token::Chain(path)) => path.clone(),
                    _ => Vec::new(),
                };
                if !chain.is_empty() {
                    tokens.next();
                }
                push(&mut calls, Operand::Nested(inner, chain));
            }
            Some(Token::Literal(value)) => push(&mut calls, Operand::Literal(value)),
            Some(Token::Word(word)) => push(&mut calls, operand_of(&word)?),
            Some(Token::Chain(_)) | Some(Token::Close) | None => {
                return Err("a field of nothing".to_owned());
            }
        }
    }
    match calls.iter().any(Vec::is_empty) {
        true => Err("a part of it is empty".to_owned()),
        false => Ok(calls),
    }
}

fn push(calls: &mut Pipeline, operand: Operand) {
    if let Some(call) = calls.last_mut() {
        call.push(operand);
    }
}

fn operand_of(word: &str) -> Parsed<Operand> {
    let path = |text: &str| -> Vec<String> {
        let parts = text.split('.').filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect()
    };
    if let Some(variable) = word.strip_prefix('$') {
        let (name, fields) = variable.split_once('.').unwrap_or((variable, ""));
        return Ok(Operand::Variable(name.to_owned(), path(fields)));
    }
    if word.starts_with('.') {
        return Ok(Operand::Field(path(word)));
    }
    match word {
        "true" => Ok(Operand::Literal(json!(true))),
        "false" => Ok(Operand::Literal(json!(false))),
        "nil" => Ok(Operand::Literal(Value::Null)),
        _ => {
            if let Ok(number) = word.parse::<i64>() {
                return Ok(Operand::Literal(json!(number)));
            }
            if let Ok(number) = word.parse::<f64>() {
                return Ok(Operand::Literal(json!(number)));
            }
            let is_name = word.chars().all(|c| c.is_alphanumeric() || c == '_');
            match is_name {
                true => Ok(Operand::Function(word.to_owned())),
                false => Err(format!("{word:?} is not understood")),
            }
        }
    }
}

fn tokens(text: &str) -> Parsed<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let after = rest.get(first.len_utf8()..).unwrap_or_default();
        rest = match first {
            c if c.is_whitespace() => after,
            '|' => {
                tokens.push(Token::Pipe);
                after
            }
            '(' => {
                tokens.push(Token::Open);
                after
            }
            ')' => {
                tokens.push(Token::Close);
                match after.starts_with('.') {
                    false => after,
                    true => {
                        let (word, tail) = word(after);
                        let path = word.split('.').filter(|part| !part.is_empty());
                        tokens.push(Token::Chain(path.map(str::to_owned).collect()));
                        tail
                    }
                }
            }
            '`' => {
                let (inner, tail) = after.split_once('`').ok_or("a quote is not closed")?;
                tokens.push(Token::Literal(json!(inner)));
                tail
            }
            '"' => {
                let (inner, tail) = quoted(after).ok_or("a quote is not closed")?;
                tokens.push(Token::Literal(json!(inner)));
                tail
            }
            _ => {
                let (word, tail) = word(rest);
                tokens.push(Token::Word(word.to_owned()));
                tail
            }
        };
    }
    Ok(tokens)
}

fn word(text: &str) -> (&str, &str) {
    let ends = |c: char| c.is_whitespace() || matches!(c, '|' | '(' | ')' | '"' | '`');
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// After the opening quote; backslashes are read.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((out, text.get(at + 1..)?)),
            '\\' => out.push(match characters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            other => out.push(other),
        }
    }
    None
}
