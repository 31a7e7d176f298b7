//! Runs crictl against one endpoint.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::output;

/// Seconds for one command; crictl itself gives up earlier.
const LIMIT: &str = "90";

#[derive(Debug)]
pub struct Crictl {
    pub program: PathBuf,
    pub endpoint: String,
    /// Empty, so that no configuration of the machine counts.
    pub config: PathBuf,
}

impl Crictl {
    /// However it ends.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        output(
            Command::new("timeout")
                .args(["--kill-after=5", LIMIT])
                .arg(&self.program)
                .args(self.options())
                .args(arguments),
        )
    }

    /// To be run beside the suite, which ends it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.options()).args(arguments);
        command
    }

    fn options(&self) -> [&OsStr; 8] {
        let endpoint = self.endpoint.as_ref();
        [
            "--config".as_ref(),
            self.config.as_os_str(),
            "--timeout".as_ref(),
            "60s".as_ref(),
            "--runtime-endpoint".as_ref(),
            endpoint,
            "--image-endpoint".as_ref(),
            endpoint,
        ]
    }

    /// Both outputs of a command that has to succeed.
    pub fn streams(&self, arguments: &[&str]) -> Result<(String, String)> {
        let output = self.output(arguments)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (out, err) = (text(output.stdout), text(output.stderr));
        if !output.status.success() {
            bail!(
                "crictl {} ended with {}: {}",
                arguments.join(" "),
                output.status,
                err.trim()
            );
        }
        Ok((out, err))
    }

    /// Standard output of a command that has to succeed, trimmed.
    pub fn text(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.streams(arguments)?.0.trim().to_owned())
    }

    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        serde_json::from_str(&self.text(arguments)?)
            .with_context(|| format!("reading what crictl {} printed", arguments.join(" ")))
    }

    /// Everything that a command says which has to fail.
    pub fn refusal(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let said =
            [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
        if output.status.success() {
            bail!(
                "crictl {} succeeded: {}",
                arguments.join(" "),
                said.concat().trim()
            );
        }
        Ok(said.concat())
    }
}
