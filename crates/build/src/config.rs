//! An image's config as instructions change it: the document that is its identity.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::dockerfile::{Command, Healthcheck};

/// What shells get where an image says nothing else.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// Where programs are looked for.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The whole document.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Without what a container of it does.
    document: Map<String, Value>,
    execution: Map<String, Value>,
}

impl Config {
    /// That of an image without layers.
    pub fn new(architecture: &str, os: &str, variant: Option<&str>) -> Self {
        let mut document = Map::new();
        document.insert("architecture".into(), architecture.into());
        document.insert("os".into(), os.into());
        if let Some(variant) = variant.filter(|variant| !variant.is_empty()) {
            document.insert("variant".into(), variant.into());
        }
        document.insert("history".into(), json!([]));
        document.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": [] }));
        let mut execution = Map::new();
        execution.insert("Env".into(), json!([PATH]));
        Self {
            document,
            execution,
        }
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let mut document: Map<String, Value> = serde_json::from_slice(bytes)?;
        let execution = match document.remove("config") {
            Some(Value::Object(execution)) => execution,
            _ => Map::new(),
        };
        Ok(Self {
            document,
            execution,
        })
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut whole = self.document.clone();
        whole.insert("config".into(), Value::Object(self.execution.clone()));
        Value::Object(whole).to_string().into_bytes()
    }

    fn text(&self, field: &str) -> &str {
        let found = self.execution.get(field);
        found.and_then(Value::as_str).unwrap_or_default()
    }

    fn list(&self, field: &str) -> Vec<String> {
        let found = self.execution.get(field);
        let values = found.and_then(Value::as_array).into_iter().flatten();
        values
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    }

    pub fn user(&self) -> &str {
        self.text("User")
    }

    /// Absolute.
    pub fn working_dir(&self) -> &str {
        match self.text("WorkingDir") {
            "" => "/",
            path => path,
        }
    }

    /// `NAME=value` each.
    pub fn env(&self) -> Vec<String> {
        self.list("Env")
    }

    pub fn variable(&self, name: &str) -> Option<String> {
        let env = self.env();
        let mut pairs = env.iter().filter_map(|entry| entry.split_once('='));
        pairs
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.to_owned())
    }

    pub fn shell(&self) -> Vec<String> {
        match self.list("Shell") {
            own if !own.is_empty() => own,
            _ => SHELL.map(str::to_owned).to_vec(),
        }
    }

    /// A command with the shell that it needs.
    pub fn command(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let mut words = self.shell();
                words.push(text.clone());
                words
            }
        }
    }

    /// A path from where the image's programs start.
    pub fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') {
            return path.to_owned();
        }
        let directory = self.working_dir().trim_end_matches('/');
        match path {
            "." | "./" => format!("{directory}/"),
            path => format!("{directory}/{path}"),
        }
    }

    /// The triggers that an image carries, which a build on it takes away.
    pub fn take_triggers(&mut self) -> Vec<String> {
        let triggers = self.list("OnBuild");
        self.execution.remove("OnBuild");
        triggers
    }

    /// Takes out the records that a cache had in the config of an image: they are not those of what is
    /// built on it. Says whether there were any.
    pub fn take_cache(&mut self) -> bool {
        self.document.remove(crate::exchange::FIELD).is_some()
    }

    /// Records for later builds, in base64.
    pub fn set_cache(&mut self, records: &str) {
        self.document
            .insert(crate::exchange::FIELD.to_owned(), records.into());
    }

    pub fn add_trigger(&mut self, trigger: &str) {
        let mut triggers = self.list("OnBuild");
        triggers.push(trigger.to_owned());
        self.execution.insert("OnBuild".into(), triggers.into());
    }

    pub fn set_variable(&mut self, name: &str, value: &str) {
        let mut env = self.env();
        let line = format!("{name}={value}");
        let same = |known: &&mut String| known.split('=').next() == Some(name);
        match env.iter_mut().find(same) {
            Some(known) => *known = line,
            None => env.push(line),
        }
        self.execution.insert("Env".into(), env.into());
    }

    pub fn set_label(&mut self, name: &str, value: &str) {
        self.set_in("Labels", name, value.into());
    }

    pub fn expose(&mut self, port: &str) {
        self.set_in("ExposedPorts", port, json!({}));
    }

    pub fn add_volume(&mut self, path: &str) {
        self.set_in("Volumes", path, json!({}));
    }

    fn set_in(&mut self, field: &str, key: &str, value: Value) {
        let mut all = match self.execution.remove(field) {
            Some(Value::Object(all)) => all,
            _ => Map::new(),
        };
        all.insert(key.to_owned(), value);
        self.execution.insert(field.to_owned(), Value::Object(all));
    }

    pub fn set_user(&mut self, user: &str) {
        self.execution.insert("User".into(), user.into());
    }

    pub fn set_working_dir(&mut self, path: &str) {
        self.execution.insert("WorkingDir".into(), path.into());
    }

    pub fn set_stop_signal(&mut self, signal: &str) {
        self.execution.insert("StopSignal".into(), signal.into());
    }

    pub fn set_shell(&mut self, words: &[String]) {
        self.execution.insert("Shell".into(), words.into());
    }

    pub fn set_cmd(&mut self, command: &Command) {
        let words = self.command(command);
        self.execution.insert("Cmd".into(), words.into());
    }

    /// A new program does not want the arguments that another image gave to the old one.
    pub fn set_entrypoint(&mut self, command: &Command, keep_cmd: bool) {
        let words = self.command(command);
        self.execution.insert("Entrypoint".into(), words.into());
        if !keep_cmd {
            self.execution.remove("Cmd");
        }
    }

    pub fn set_healthcheck(&mut self, check: &Healthcheck) {
        let value = match check {
            Healthcheck::None => json!({ "Test": ["NONE"] }),
            Healthcheck::Check {
                command,
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
            } => {
                let mut test = match command {
                    Command::Exec(_) => vec!["CMD".to_owned()],
                    Command::Shell(_) => vec!["CMD-SHELL".to_owned()],
                };
                match command {
                    Command::Exec(words) => test.extend(words.iter().cloned()),
                    Command::Shell(text) => test.push(text.clone()),
                }
                let mut value = Map::new();
                value.insert("Test".into(), test.into());
                for (name, duration) in [
                    ("Interval", interval),
                    ("Timeout", timeout),
                    ("StartPeriod", start_period),
                    ("StartInterval", start_interval),
                ] {
                    if let Some(duration) = duration {
                        value.insert(name.into(), nanoseconds(*duration).into());
                    }
                }
                if let Some(retries) = retries {
                    value.insert("Retries".into(), (*retries).into());
                }
                Value::Object(value)
            }
        };
        self.execution.insert("Healthcheck".into(), value);
    }

    pub fn set_author(&mut self, author: &str) {
        self.document.insert("author".into(), author.into());
    }

    pub fn set_layers(&mut self, diff_ids: &[berth_names::Digest]) {
        let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
        self.document.insert("rootfs".into(), rootfs);
    }

    /// One more step, made at this moment (RFC 3339).
    pub fn remember(&mut self, created: &str, by: &str, has_layer: bool) {
        self.document.insert("created".into(), created.into());
        let mut entry = Map::new();
        entry.insert("created".into(), created.into());
        entry.insert("created_by".into(), by.into());
        if !has_layer {
            entry.insert("empty_layer".into(), true.into());
        }
        let mut history = match self.document.remove("history") {
            Some(Value::Array(history)) => history,
            _ => Vec::new(),
        };
        history.push(Value::Object(entry));
        self.document.insert("history".into(), history.into());
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_document() {
        let mut config = Config::new("amd64", "linux", None);
        config.set_variable("A", "1");
        config.set_variable("A", "2 3");
        config.set_label("x", "y");
        config.expose("80/tcp");
        config.add_volume("/data");
        config.set_cmd(&Command::Shell("run it".into()));
        assert_eq!(config.list("Cmd"), ["/bin/sh", "-c", "run it"]);
        config.set_shell(&["/bin/bash".into(), "-c".into()]);
        config.set_entrypoint(&Command::Shell("exec x".into()), false);
        assert_eq!(config.list("Entrypoint"), ["/bin/bash", "-c", "exec x"]);
        assert!(config.list("Cmd").is_empty());
        assert_eq!(config.env(), [PATH, "A=2 3"]);
        assert_eq!(config.variable("A").as_deref(), Some("2 3"));
        config.set_working_dir("/srv");
        assert_eq!(config.absolute("a/b"), "/srv/a/b");
        assert_eq!(config.absolute("."), "/srv/");
        assert_eq!(config.absolute("/x"), "/x");
        config.add_trigger("RUN a");
        assert_eq!(config.take_triggers(), ["RUN a"]);
        assert!(config.take_triggers().is_empty());
        config.set_cache("W10=");
        assert!(config.take_cache() && !config.take_cache());
        config.remember("2026-01-01T00:00:00Z", "LABEL x=y", false);
        let again = Config::parse(&config.bytes()).unwrap();
        assert_eq!(again, config);
    }
}
