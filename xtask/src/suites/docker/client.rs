//! Runs the docker CLI against one daemon, and speaks to its socket without it.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::output;

/// Seconds for one command.
const LIMIT: &str = "90";

#[derive(Debug)]
pub struct Docker {
    pub program: PathBuf,
    pub socket: PathBuf,
    /// Where logins are kept: no configuration of the machine counts.
    pub config: PathBuf,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

impl Answer {
    /// A header's value, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("reading {:?}", self.body))
    }
}

impl Docker {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", LIMIT])
            .arg(&self.program)
            .arg("--host")
            .arg(format!("unix://{}", self.socket.display()))
            .args(arguments)
            .env("DOCKER_CONFIG", &self.config)
            // The builder behind the daemon's own door.
            .env("DOCKER_BUILDKIT", "0")
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_API_VERSION");
        command
    }

    /// However it ends.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        output(&mut self.command(arguments))
    }

    /// Standard output of a command that has to succeed, trimmed.
    pub fn text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!(
                "docker {} ended with {}: {}",
                arguments.join(" "),
                output.status,
                said.trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// What was told between two moments of what `filters` let through.
    pub fn told(
        &self,
        (from, until): (&str, &str),
        filters: &[&str],
        format: &str,
    ) -> Result<Vec<String>> {
        let mut arguments = vec!["events", "--since", from, "--until", until];
        arguments.extend(filters.iter().flat_map(|filter| ["--filter", *filter]));
        arguments.extend(["--format", format]);
        self.lines(&arguments)
    }

    pub fn lines(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let text = self.text(arguments)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        serde_json::from_str(&self.text(arguments)?)
            .with_context(|| format!("reading what docker {} printed", arguments.join(" ")))
    }

    /// Everything that a command says which has to fail.
    pub fn refusal(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let said =
            [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
        if output.status.success() {
            bail!(
                "docker {} succeeded: {}",
                arguments.join(" "),
                said.concat().trim()
            );
        }
        Ok(said.concat())
    }

    /// One request without the CLI.
    pub fn request(&self, method: &str, path: &str, more: &[&str]) -> Result<Answer> {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--max-time", LIMIT])
            .args(["--dump-header", "/dev/stderr", "--unix-socket"])
            .arg(&self.socket);
        match method {
            "HEAD" => command.arg("--head"),
            method => command.args(["--request", method]),
        };
        let output = output(command.args(more).arg(format!("http://docker{path}")))?;
        let headers = String::from_utf8_lossy(&output.stderr).into_owned();
        let status = headers
            .split_whitespace()
            .nth(1)
            .and_then(|status| status.parse().ok());
        Ok(Answer {
            status: status.with_context(|| format!("{method} {path}: {headers:?}"))?,
            body: String::from_utf8_lossy(&output.stdout).into_owned(),
            headers,
        })
    }
}
