//! Changes to an image's config, written as instructions of a Dockerfile: for imports and commits.

use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// In their order.
#[derive(Debug, Default)]
pub struct Changes(Vec<(Instruction, String)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instruction {
    Cmd,
    Entrypoint,
    Env,
    Expose,
    Label,
    OnBuild,
    StopSignal,
    User,
    Volume,
    WorkDir,
}

impl Changes {
    pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut changes = Vec::new();
        for line in lines.flat_map(str::lines).map(str::trim) {
            if line.is_empty() {
                continue;
            }
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let rest = rest.trim();
            let instruction = match word.to_ascii_uppercase().as_str() {
                "CMD" => Instruction::Cmd,
                "ENTRYPOINT" => Instruction::Entrypoint,
                "ENV" => Instruction::Env,
                "EXPOSE" => Instruction::Expose,
                "LABEL" => Instruction::Label,
                "ONBUILD" => Instruction::OnBuild,
                "STOPSIGNAL" => Instruction::StopSignal,
                "USER" => Instruction::User,
                "VOLUME" => Instruction::Volume,
                "WORKDIR" => Instruction::WorkDir,
                other => {
                    return Err(Error::bad(format!("{other} is not a valid change command")));
                }
            };
            if rest.is_empty() {
                return Err(Error::bad(format!("{word} requires at least one argument")));
            }
            changes.push((instruction, rest.to_owned()));
        }
        Ok(Self(changes))
    }

    /// Makes them to a config's `config` object.
    pub fn apply(&self, config: &mut Value) {
        if !config.is_object() {
            *config = json!({});
        }
        let Some(fields) = config.as_object_mut() else {
            return;
        };
        for (instruction, rest) in &self.0 {
            one(fields, *instruction, rest);
        }
    }
}

fn one(fields: &mut Map<String, Value>, instruction: Instruction, rest: &str) {
    match instruction {
        Instruction::Cmd => drop(fields.insert("Cmd".into(), command(rest))),
        Instruction::Entrypoint => {
            fields.insert("Entrypoint".into(), command(rest));
            // A new program does not want the old one's arguments.
            fields.remove("Cmd");
        }
        Instruction::Env => {
            for (name, value) in pairs(rest) {
                set_variable(fields, &name, &value);
            }
        }
        Instruction::Label => {
            for (name, value) in pairs(rest) {
                set_in(fields, "Labels", name, value.into());
            }
        }
        Instruction::Expose => {
            for port in words(rest) {
                let port = if port.contains('/') {
                    port
                } else {
                    format!("{port}/tcp")
                };
                set_in(fields, "ExposedPorts", port, json!({}));
            }
        }
        Instruction::Volume => {
            for path in list(rest).unwrap_or_else(|| words(rest)) {
                set_in(fields, "Volumes", path, json!({}));
            }
        }
        Instruction::OnBuild => {
            let triggers = fields.entry("OnBuild").or_insert_with(|| json!([]));
            if let Some(triggers) = triggers.as_array_mut() {
                triggers.push(rest.into());
            }
        }
        Instruction::StopSignal => drop(fields.insert("StopSignal".into(), rest.into())),
        Instruction::User => drop(fields.insert("User".into(), rest.into())),
        Instruction::WorkDir => {
            let present = fields.get("WorkingDir").and_then(Value::as_str);
            let path = match rest.starts_with('/') {
                true => rest.to_owned(),
                false => format!(
                    "{}/{rest}",
                    present.unwrap_or_default().trim_end_matches('/')
                ),
            };
            fields.insert("WorkingDir".into(), path.into());
        }
    }
}

/// Sets a key of an object that is a field, and may be missing or null.
fn set_in(fields: &mut Map<String, Value>, field: &str, key: String, value: Value) {
    let object = fields.entry(field).or_insert_with(|| json!({}));
    if !object.is_object() {
        *object = json!({});
    }
    if let Some(object) = object.as_object_mut() {
        object.insert(key, value);
    }
}

fn set_variable(fields: &mut Map<String, Value>, name: &str, value: &str) {
    let list = fields.entry("Env").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else {
        return;
    };
    let is_same = |known: &Value| {
        let known = known.as_str().unwrap_or_default();
        known.split('=').next() == Some(name)
    };
    let line = Value::from(format!("{name}={value}"));
    match list.iter_mut().find(|known| is_same(known)) {
        Some(known) => *known = line,
        None => list.push(line),
    }
}

/// A JSON array as it is, anything else for the shell.
fn command(rest: &str) -> Value {
    match list(rest) {
        Some(words) => words.into(),
        None => json!(["/bin/sh", "-c", rest]),
    }
}

fn list(rest: &str) -> Option<Vec<String>> {
    serde_json::from_str(rest).ok()
}

/// `a=1 b="two words"`, or the old `a the rest`.
fn pairs(rest: &str) -> Vec<(String, String)> {
    let words = words(rest);
    let old = words.first().is_some_and(|first| !first.contains('='));
    if old {
        let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        return vec![(name.to_owned(), value.trim().to_owned())];
    }
    let pair = |word: String| {
        let (name, value) = word.split_once('=').unwrap_or((&word, ""));
        (name.to_owned(), value.to_owned())
    };
    words.into_iter().map(pair).collect()
}

/// Split at spaces that are neither quoted nor escaped; quotes go.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut any) = (Vec::new(), String::new(), false);
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => {
                word.extend(letters.next());
                any = true;
            }
            (mark, Some(open)) if mark == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                any = true;
            }
            (space, None) if space.is_whitespace() => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            _ => {
                word.push(letter);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_config() {
        let lines = [
            "ENV A=1 B=\"two words\"",
            "env PATH /bin:/usr/bin",
            "LABEL tier=front",
            "CMD [\"/bin/app\", \"-x\"]",
            "EXPOSE 80 53/udp",
            "VOLUME /data",
            "WORKDIR /srv",
            "WORKDIR app",
            "USER 1000:1000",
            "STOPSIGNAL SIGINT",
        ];
        let changes = Changes::parse(lines.into_iter()).unwrap();
        let mut config = json!({ "Env": ["A=0", "C=3"], "Labels": null });
        changes.apply(&mut config);
        assert_eq!(
            config,
            json!({
                "Env": ["A=1", "C=3", "B=two words", "PATH=/bin:/usr/bin"],
                "Labels": { "tier": "front" },
                "Cmd": ["/bin/app", "-x"],
                "ExposedPorts": { "80/tcp": {}, "53/udp": {} },
                "Volumes": { "/data": {} },
                "WorkingDir": "/srv/app",
                "User": "1000:1000",
                "StopSignal": "SIGINT",
            })
        );
    }

    #[test]
    fn an_entrypoint_drops_the_command_and_a_plain_one_gets_a_shell() {
        let changes = Changes::parse(["ENTRYPOINT exec app"].into_iter()).unwrap();
        let mut config = json!({ "Cmd": ["x"] });
        changes.apply(&mut config);
        assert_eq!(
            config,
            json!({ "Entrypoint": ["/bin/sh", "-c", "exec app"] })
        );
    }

    #[test]
    fn what_makes_no_config_is_refused() {
        for line in ["RUN ls", "COPY a b", "ENV", "nonsense"] {
            assert!(Changes::parse([line].into_iter()).is_err(), "{line}");
        }
    }
}
