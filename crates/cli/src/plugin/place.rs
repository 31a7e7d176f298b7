//! Which daemon Docker's client speaks to: its flags, its variables, its contexts.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use crate::daemon::{Endpoint, TlsFiles};
use crate::error::{Error, Result};
use crate::logins;

const SOCKET: &str = "unix:///var/run/docker.sock";
const DEFAULT: &str = "default";

/// Docker's flags before a command, as it hands them on.
#[derive(Debug, Args)]
pub struct Place {
    #[arg(long, value_name = "DIRECTORY")]
    config: Option<PathBuf>,
    #[arg(short = 'c', long, value_name = "NAME")]
    context: Option<String>,
    #[arg(short = 'H', long, value_name = "ADDRESS")]
    host: Vec<String>,
    #[arg(short = 'D', long)]
    debug: bool,
    #[arg(short = 'l', long, value_name = "LEVEL")]
    log_level: Option<String>,
    #[arg(long)]
    tls: bool,
    #[arg(long)]
    tlsverify: bool,
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
}

impl Place {
    /// Takes the configuration's directory for all that follows.
    pub fn settle(&self) {
        if let Some(directory) = &self.config {
            logins::live_in(directory);
        }
    }

    /// The context's name, and its daemon.
    pub fn endpoint(&self) -> Result<(String, Endpoint)> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let default = |host: &str| Ok((DEFAULT.to_owned(), Endpoint::parse(host, self.tls())?));
        if let Some(host) = self.host.first() {
            return default(host);
        }
        let directory = logins::directory();
        let named = match (&self.context, variable("DOCKER_HOST")) {
            (Some(name), _) => Some(name.clone()),
            (None, Some(host)) => return default(&host),
            (None, None) => variable("DOCKER_CONTEXT").or_else(|| current(&directory)),
        };
        match named.filter(|name| name != DEFAULT) {
            None => default(&variable("DOCKER_HOST").unwrap_or_else(|| SOCKET.to_owned())),
            Some(name) => {
                let endpoint = context(&directory, &name)?;
                Ok((name, endpoint))
            }
        }
    }

    fn tls(&self) -> Option<TlsFiles> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let asked = self.tls || self.tlsverify || variable("DOCKER_TLS_VERIFY").is_some();
        let directory = variable("DOCKER_CERT_PATH").map_or_else(logins::directory, PathBuf::from);
        asked.then(|| files(&directory, [&self.tlscacert, &self.tlscert, &self.tlskey]))
    }
}

/// Those that are given, else those of a directory.
fn files(directory: &Path, given: [&Option<PathBuf>; 3]) -> TlsFiles {
    let own = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
    let [ca, certificate, key] = given.map(Option::clone);
    TlsFiles {
        ca: ca.unwrap_or_else(|| directory.join("ca.pem")),
        certificate: certificate.or_else(|| own("cert.pem")),
        key: key.or_else(|| own("key.pem")),
    }
}

/// Of `docker context use`.
fn current(directory: &Path) -> Option<String> {
    let text = fs::read(directory.join("config.json")).ok()?;
    let config: Value = serde_json::from_slice(&text).ok()?;
    config["currentContext"].as_str().map(str::to_owned)
}

/// Contexts are directories whose names say nothing: `contexts/meta/ID/meta.json`, and their keys
/// in `contexts/tls/ID/docker`.
fn context(directory: &Path, name: &str) -> Result<Endpoint> {
    let all = fs::read_dir(directory.join("contexts/meta"));
    for entry in all.into_iter().flatten().flatten() {
        let Ok(text) = fs::read(entry.path().join("meta.json")) else {
            continue;
        };
        let Ok(meta) = serde_json::from_slice::<Value>(&text) else {
            continue;
        };
        if meta["Name"] != name {
            continue;
        }
        let host = meta["Endpoints"]["docker"]["Host"]
            .as_str()
            .unwrap_or(SOCKET);
        let tls = directory
            .join("contexts/tls")
            .join(entry.file_name())
            .join("docker");
        let tls = tls.exists().then(|| files(&tls, [&None, &None, &None]));
        return Endpoint::parse(host, tls);
    }
    Err(Error::usage(format!(
        "docker has no context {name:?}: `docker context ls` lists them"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_docker_s() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path();
        assert_eq!(current(directory), None);
        fs::write(directory.join("config.json"), r#"{"currentContext":"lab"}"#).unwrap();
        assert_eq!(current(directory).as_deref(), Some("lab"));
        let meta = directory.join("contexts/meta/0a1b");
        fs::create_dir_all(&meta).unwrap();
        let text = r#"{"Name":"lab","Endpoints":{"docker":{"Host":"tcp://lab:2376"}}}"#;
        fs::write(meta.join("meta.json"), text).unwrap();
        let told = |tls| Endpoint::parse("tcp://lab:2376", tls).unwrap();
        assert_eq!(context(directory, "lab").unwrap(), told(None));
        let tls = directory.join("contexts/tls/0a1b/docker");
        fs::create_dir_all(&tls).unwrap();
        fs::write(tls.join("ca.pem"), "").unwrap();
        let files = TlsFiles {
            ca: tls.join("ca.pem"),
            ..TlsFiles::default()
        };
        assert_eq!(context(directory, "lab").unwrap(), told(Some(files)));
        let missing = context(directory, "other").unwrap_err().to_string();
        assert!(missing.contains("docker context ls"), "{missing}");
    }
}
