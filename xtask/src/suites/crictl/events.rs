//! What `crictl events` prints while something happens, and what `update-runtime-config` hands over.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::life::{container_request, create_container};
use super::session::Session;
use crate::command::retry;

const SOON: Duration = Duration::from_secs(20);
const LINE: &str = "{{.containerEventType}} {{.containerId}} {{.podSandboxStatus.state}}";

/// Ended with the value.
struct Listener(Child);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn told(session: &mut Session) -> Result<()> {
    let path = session.place.scratch().join("events");
    let file = File::create(&path).context("making a file for events")?;
    let listener = Command::new(&session.crictl.program)
        .arg("--config")
        .arg(&session.crictl.config)
        .args(["--runtime-endpoint", &session.crictl.endpoint])
        .args(["events", "--output", "go-template", "--template", LINE])
        .stdout(Stdio::from(file))
        .stderr(Stdio::null())
        .spawn()
        .context("running crictl events")?;
    let _listener = Listener(listener);
    // Events are told from when the daemon has heard of the listener; what happens before is lost.
    let mut rounds = 0;
    retry(SOON, || {
        rounds += 1;
        let name = format!("told{rounds}");
        let request = container_request(session, &name, &["true"]);
        let container = create_container(session, &request)?;
        session.crictl.text(&["start", &container])?;
        session.crictl.text(&["stop", &container])?;
        session.crictl.text(&["rm", &container])?;
        let text = fs::read_to_string(&path).context("reading events")?;
        let kinds: Vec<&str> = text
            .lines()
            .filter(|line| line.contains(&container) && line.ends_with("SANDBOX_READY"))
            .filter_map(|line| line.split(' ').next())
            .collect();
        let expected = ["CREATED", "STARTED", "STOPPED", "DELETED"];
        let expected = expected.map(|kind| format!("CONTAINER_{kind}_EVENT"));
        ensure!(kinds == expected, "{kinds:?} is told: {text:?}");
        Ok(())
    })
}

pub fn runtime_config(session: &mut Session) -> Result<()> {
    let arguments = ["update-runtime-config", "--pod-cidr", "10.244.7.0/24"];
    session.crictl.text(&arguments).map(drop)
}
