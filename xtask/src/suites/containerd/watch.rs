//! Events as any client of containerd receives them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::session::{SOON, Session};
use crate::command::{end, retry};

/// A client that listens; ends with its value.
pub struct Watch {
    client: Child,
    path: PathBuf,
}

impl Watch {
    /// Everything that happens from now on is heard.
    pub fn begin(session: &Session) -> Result<Self> {
        let path = session.place.scratch().join("events");
        let file = File::create(&path).context("creating a list of events")?;
        let client = session
            .ctr(&["events"])
            .stdin(Stdio::null())
            .stdout(file)
            .spawn()
            .context("starting ctr")?;
        let watch = Self { client, path };
        let mut attempt = 0;
        retry(SOON, || {
            attempt += 1;
            let label = format!("asked={attempt}");
            session.text(&["namespace", "label", &session.namespace(), &label])?;
            ensure!(!watch.seen()?.is_empty(), "nothing is heard");
            Ok(())
        })?;
        Ok(watch)
    }

    /// Topics and events so far.
    fn seen(&self) -> Result<Vec<(String, Value)>> {
        let text = fs::read_to_string(&self.path).context("reading events")?;
        // Date, time, zone, its name, namespace, topic, event.
        let split = |line: &str| {
            let mut words = line.splitn(7, ' ').skip(5);
            let topic = words.next()?.to_owned();
            let event = serde_json::from_str(words.next()?).ok()?;
            Some((topic, event))
        };
        Ok(text.lines().filter_map(split).collect())
    }

    /// Waits for an event of which this holds.
    pub fn until(&mut self, topic: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        self.within(SOON, topic, holds)
    }

    pub fn within(
        &mut self,
        limit: Duration,
        topic: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        retry(limit, || {
            let seen = self.seen()?;
            let found = seen.iter().any(|(it, event)| it == topic && holds(event));
            ensure!(found, "no {topic} among {seen:?}");
            Ok(())
        })
    }

    /// What was told of a task.
    pub fn of_task(&self, id: &str) -> Result<Vec<(String, Value)>> {
        let mut seen = self.seen()?;
        seen.retain(|(topic, event)| {
            topic.starts_with("/tasks/") && event["container_id"].as_str() == Some(id)
        });
        Ok(seen)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // `timeout` hands it on.
        let ended = end(&mut self.client, Duration::from_secs(2));
        if let Err(error) = ended {
            eprintln!("ending ctr: {error:#}");
        }
    }
}
