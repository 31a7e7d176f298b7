//! A real registry, Debian's docker-registry, on a free port of this machine.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_testkit::image::Remote;

use crate::command::{end, retry, stdout, which};

/// Emulated machines take their time.
const START: Duration = Duration::from_secs(40);
/// The port that was free may be somebody's by the time that it is wanted.
const ATTEMPTS: usize = 3;

/// Ends with its value.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    remote: Remote,
}

impl Registry {
    /// Lets everybody in; keeps its data under `directory`, which has to exist.
    pub fn start(directory: &Path) -> Result<Self> {
        Self::launch(directory, None)
    }

    /// Lets in only this user, by HTTP basic authentication.
    pub fn start_with_user(directory: &Path, user: &str, password: &str) -> Result<Self> {
        Self::launch(directory, Some((user, password)))
    }

    /// A client with the credentials, if there are any.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        self.remote.address()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn launch(directory: &Path, user: Option<(&str, &str)>) -> Result<Self> {
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            match Self::attempt(directory, user) {
                Err(error) if left > 0 => println!("  note    docker-registry again: {error:#}"),
                done => return done,
            }
        }
    }

    fn attempt(directory: &Path, user: Option<(&str, &str)>) -> Result<Self> {
        let address = free_address()?;
        let mut remote = Remote::new(&address);
        let mut auth = String::new();
        if let Some((user, password)) = user {
            let file = directory.join("htpasswd");
            let line = stdout(Command::new("htpasswd").args(["-nbB", user, password]))?;
            fs::write(&file, line).with_context(|| format!("writing {}", file.display()))?;
            auth = format!(
                "auth:\n  htpasswd:\n    realm: berth\n    path: {}\n",
                file.display()
            );
            remote = remote.with_credentials(user, password);
        }
        let config = directory.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n{auth}",
            directory.join("data").display()
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;

        let program = which("docker-registry").context("docker-registry is not installed")?;
        let journal = directory.join("registry.log");
        let log =
            File::create(&journal).with_context(|| format!("creating {}", journal.display()))?;
        let child = Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing the log of the registry")?)
            .stderr(log)
            .spawn()
            .context("starting docker-registry")?;
        let mut registry = Self { child, remote };
        let answered = retry(START, || {
            let ended = registry.child.try_wait().context("looking at it")?;
            match ended {
                Some(status) => Ok(Err(status)),
                None => Ok(Ok(registry.remote.ping()?)),
            }
        });
        match answered.context("waiting for docker-registry")? {
            Ok(()) => Ok(registry),
            Err(status) => {
                let said = fs::read_to_string(&journal).unwrap_or_default();
                bail!("docker-registry ended ({status}): {}", said.trim_end())
            }
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Err(error) = end(&mut self.child, Duration::from_secs(5)) {
            eprintln!("ending docker-registry: {error:#}");
        }
    }
}

/// A port that was free a moment ago.
fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    let address = listener.local_addr().context("reading a free port")?;
    Ok(address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_testkit::image::{Compression, Format, Layer, Recipe};
    use std::sync::Arc;

    fn missing() -> Option<&'static str> {
        ["docker-registry", "htpasswd"]
            .into_iter()
            .find(|program| which(program).is_none())
    }

    #[test]
    fn what_is_pushed_comes_back_unchanged() {
        if let Some(program) = missing() {
            eprintln!("skipped: needs {program} (cargo xtask tools)");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::start(directory.path()).unwrap();
        for format in [Format::Oci, Format::DockerSchema2] {
            let layer = Layer::new().file("/marker", 0o644, format!("{format:?}"));
            let layer = Arc::new(layer.pack(Compression::Gzip).unwrap());
            let image = Recipe::new()
                .format(format)
                .layer(layer.clone())
                .build()
                .unwrap();
            let remote = registry.remote();
            remote.push(&image, "team/thing", &["one", "two"]).unwrap();
            remote.push(&image, "team/thing", &["one"]).unwrap();

            assert_eq!(
                remote.manifest("team/thing", "two").unwrap(),
                image.manifest
            );
            let by_digest = remote.manifest("team/thing", image.manifest_digest.as_str());
            assert_eq!(by_digest.unwrap(), image.manifest);
            assert_eq!(
                remote.blob("team/thing", &layer.digest).unwrap(),
                layer.bytes
            );
        }
    }

    #[test]
    fn registry_with_a_user_refuses_others() {
        if let Some(program) = missing() {
            eprintln!("skipped: needs {program} (cargo xtask tools)");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::start_with_user(directory.path(), "crew", "secret").unwrap();
        assert!(registry.remote().ping().is_ok());
        let stranger = Remote::new(registry.address());
        assert!(stranger.ping().unwrap_err().to_string().contains("401"));
        let guesser = stranger.with_credentials("crew", "wrong");
        assert!(guesser.ping().unwrap_err().to_string().contains("401"));
    }
}
