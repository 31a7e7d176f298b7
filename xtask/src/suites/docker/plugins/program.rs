//! The plugin that the suite brings along.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::command::retry;
use crate::suites::docker::session::Session;
use crate::workspace;

const START: Duration = Duration::from_secs(20);

/// Ends with its value; what it keeps stays.
pub struct Program {
    child: Child,
    socket: PathBuf,
    directory: PathBuf,
}

impl Program {
    pub fn start(session: &Session, name: &str, interfaces: &[&str]) -> Result<Self> {
        let socket = session.place.plugins().join(format!("{name}.sock"));
        let directory = session.place.scratch().join(format!("plugin-{name}"));
        let _old = fs::remove_file(&socket);
        fs::create_dir_all(&directory).context("creating the plugin's directory")?;
        let _as_it_should = fs::remove_file(directory.join("behave.json"));
        let _none_yet = fs::remove_file(directory.join("calls"));
        let child = Command::new("python3")
            .args(["-B", "-u"])
            .arg(workspace::root().join("integration/plugins/plugin.py"))
            .arg(&socket)
            .arg(&directory)
            .args(interfaces)
            .stdin(Stdio::null())
            .spawn()
            .context("starting the plugin")?;
        let program = Self {
            child,
            socket,
            directory,
        };
        retry(START, || {
            std::os::unix::net::UnixStream::connect(&program.socket)
                .map(drop)
                .context("connecting to the plugin")
        })?;
        Ok(program)
    }

    /// How it answers from now on; nothing means as it should.
    pub fn behave(&self, manners: &[(&str, &str)]) -> Result<()> {
        let manners: Value = manners
            .iter()
            .map(|(method, manner)| ((*method).to_owned(), json!(manner)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let path = self.directory.join("behave.json");
        fs::write(path, manners.to_string()).context("telling the plugin how to behave")
    }

    /// A file of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Ends it as if by accident; its socket stays.
    pub fn kill(&mut self) -> Result<PathBuf> {
        self.child.kill().context("killing the plugin")?;
        self.child.wait().context("reaping the plugin")?;
        // The next one's is at the same place.
        Ok(std::mem::take(&mut self.socket))
    }

    /// What it was asked by this method.
    pub fn asked(&self, method: &str) -> Result<Vec<Value>> {
        let calls = fs::read_to_string(self.directory.join("calls")).unwrap_or_default();
        let mut found = Vec::new();
        for line in calls.lines() {
            let (called, asked): (String, Value) =
                serde_json::from_str(line).context("reading the plugin's calls")?;
            if called == method {
                found.push(asked);
            }
        }
        Ok(found)
    }

    /// Who has a volume mounted, as the plugin counts it.
    pub fn holders(&self, volume: &str) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.directory.join("state.json"))?;
        let state: Value = serde_json::from_str(&text)?;
        let holders = state[volume]["holders"].as_array();
        let holders = holders.context("the plugin does not know the volume")?;
        let text = |id: &Value| id.as_str().unwrap_or_default().to_owned();
        Ok(holders.iter().map(text).collect())
    }

    /// The lines that it was sent of a container: stream, text, whether it goes on, nanoseconds.
    pub fn log(&self, container: &str) -> Result<Vec<(String, String, u8, i64)>> {
        let path = self.directory.join("logs").join(container);
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).context("reading what the plugin was sent"))
            .collect()
    }

    /// What is in a volume.
    pub fn file(&self, volume: &str, name: &str) -> PathBuf {
        self.directory.join("volumes").join(volume).join(name)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _it_may_be_dead = self.child.kill();
        let _reaped = self.child.wait();
        let _away = fs::remove_file(&self.socket);
    }
}
