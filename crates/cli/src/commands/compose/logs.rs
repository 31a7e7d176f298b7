//! `compose logs`: what many containers write, each line with who wrote it.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::found::Found;
use super::{Files, chosen};
use crate::commands::Outcome;
use crate::daemon::{Call, Client};
use crate::error::Result;
use crate::output::{Style, print};
use crate::terminal::{Frames, Side};

const POLL: Duration = Duration::from_millis(100);

/// Cyan, yellow, green, magenta, blue, and their bright kin.
const COLOURS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

#[derive(Debug, Args, Clone, Default)]
pub struct Lines {
    /// No colours
    #[arg(long)]
    no_color: bool,
    /// Only what was written
    #[arg(long)]
    no_log_prefix: bool,
    /// With the moment of each line
    #[arg(long)]
    timestamps: bool,
}

#[derive(Debug, Args)]
pub struct Logs {
    /// Go on with what they write from now
    #[arg(short, long)]
    follow: bool,
    /// So many lines of each one's end
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all")]
    tail: String,
    /// From this moment on: 10m, or 2026-01-02T15:04:05Z
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Up to this moment
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// With the moment of each line
    #[arg(short)]
    timestamp: bool,
    /// Only this one of a service's containers
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        hide_default_value = true
    )]
    index: usize,
    #[command(flatten)]
    lines: Lines,
    services: Vec<String>,
}

impl Logs {
    pub async fn run(mut self, client: &Client, files: &Files) -> Outcome {
        let (_, _, mut containers) = chosen(client, files, &self.services).await?;
        if self.index > 0 {
            containers.retain(|one| one.number == self.index);
        }
        self.lines.timestamps |= self.timestamp;
        let follower = Follower::new(client, &self.lines, &containers);
        let moment = |text: &Option<String>| match text {
            Some(text) => crate::options::moment(text),
            None => Ok(String::new()),
        };
        let (since, until) = (moment(&self.since)?, moment(&self.until)?);
        let mut showing: FuturesUnordered<_> = containers
            .iter()
            .map(|one| {
                let call = follower
                    .call(&one.id)
                    .query("tail", &self.tail)
                    .flag("follow", self.follow)
                    .given("since", &since)
                    .given("until", &until);
                follower.show(one, call)
            })
            .collect();
        let all = async {
            while let Some(shown) = showing.next().await {
                shown?;
            }
            Ok(0)
        };
        tokio::select! {
            outcome = all => outcome,
            () = interrupted() => Ok(130),
        }
    }
}

/// An interrupt, or a wish to end.
pub async fn interrupted() {
    let listen = |kind| signal(kind).ok();
    let (mut first, mut second) = (
        listen(SignalKind::interrupt()),
        listen(SignalKind::terminate()),
    );
    let next = async |signal: &mut Option<tokio::signal::unix::Signal>| match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    };
    tokio::select! {
        () = next(&mut first) => {}
        () = next(&mut second) => {}
    }
}

/// Shows the lines of many containers.
#[derive(Debug)]
pub struct Follower<'a> {
    client: &'a Client,
    lines: Lines,
    containers: Vec<Found>,
    coloured: bool,
    width: usize,
}

impl<'a> Follower<'a> {
    pub fn new(client: &'a Client, lines: &Lines, containers: &[Found]) -> Self {
        let width = containers
            .iter()
            .map(|one| short(one).len())
            .max()
            .unwrap_or(0);
        Self {
            client,
            lines: lines.clone(),
            containers: containers.to_vec(),
            coloured: Style::of_stdout().coloured && !lines.no_color,
            width,
        }
    }

    fn call(&self, id: &str) -> Call {
        Call::get(format!("/containers/{id}/logs"))
            .flag("stdout", true)
            .flag("stderr", true)
            .flag("timestamps", self.lines.timestamps)
    }

    fn prefix(&self, one: &Found) -> String {
        if self.lines.no_log_prefix {
            return String::new();
        }
        let width = self.width;
        let text = format!("{:<width$} | ", short(one));
        let place = self.containers.iter().position(|other| other.id == one.id);
        let colour = COLOURS[place.unwrap_or(0) % COLOURS.len()];
        match self.coloured {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text,
        }
    }

    /// One answer, line by line.
    async fn show(&self, one: &Found, call: Call) -> Result<()> {
        let mut answer = self.client.send(call).await?;
        let prefix = self.prefix(one);
        let mut frames = answer.is_framed().then(Frames::default);
        let mut held: [Vec<u8>; 2] = Default::default();
        while let Some(chunk) = answer.chunk().await? {
            let mut parts = Vec::new();
            match &mut frames {
                None => parts.push((Side::Stdout, chunk)),
                Some(frames) => {
                    frames.feed(&chunk);
                    while let Some(part) = frames.next() {
                        parts.push(part);
                    }
                }
            }
            for (side, bytes) in parts {
                let held = &mut held[usize::from(side == Side::Stderr)];
                held.extend_from_slice(&bytes);
                while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = held.drain(..=end).collect();
                    self.line(&prefix, &line)?;
                }
            }
        }
        for rest in held.iter().filter(|rest| !rest.is_empty()) {
            self.line(&prefix, rest)?;
        }
        Ok(())
    }

    fn line(&self, prefix: &str, line: &[u8]) -> Result<()> {
        let text = String::from_utf8_lossy(line);
        print(&format!(
            "{prefix}{}\n",
            text.trim_end_matches(['\n', '\r'])
        ))
    }

    /// All that one writes from a moment on, until it ends.
    pub async fn since(&self, one: &Found, since: &str) -> Result<()> {
        let call = self.call(&one.id).flag("follow", true);
        self.show(one, call.given("since", since)).await
    }

    /// How each is before anything is started.
    pub async fn look(&self) -> Result<Vec<Value>> {
        let looks = self.containers.iter().map(|one| {
            let path = format!("/containers/{}/json", one.id);
            self.client.get(path)
        });
        futures::future::try_join_all(looks).await
    }

    /// Each container from its next start to its end. Answers once all have ended, or the first
    /// with `until_first`: its service and exit code.
    pub async fn follow_started(
        &self,
        before: Vec<Value>,
        until_first: bool,
    ) -> Result<Option<(String, i64)>> {
        let all = self.containers.iter().zip(before);
        let mut following: FuturesUnordered<_> =
            all.map(|(one, before)| self.follow(one, before)).collect();
        let mut last = None;
        while let Some(ended) = following.next().await {
            let ended = ended?;
            if until_first {
                return Ok(Some(ended));
            }
            last = Some(ended);
        }
        Ok(last.filter(|_| until_first))
    }

    async fn follow(&self, one: &Found, before: Value) -> Result<(String, i64)> {
        let path = format!("/containers/{}/json", one.id);
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let waits = before["State"]["Running"] != true;
        if waits {
            seen.insert(text(&before["State"]["StartedAt"]));
        }
        // The end of the last run: its first words may be older than what is noted as its start.
        let mut since = moment_of(&before["State"]["FinishedAt"])?;
        loop {
            let found = self.client.get(path.clone()).await?;
            let state = &found["State"];
            let started = text(&state["StartedAt"]);
            if seen.insert(started) {
                let call = self.call(&one.id).flag("follow", true);
                self.show(one, call.given("since", &since)).await?;
                let found = self.client.get(path.clone()).await?;
                since = moment_of(&found["State"]["FinishedAt"])?;
                continue;
            }
            let is_over = matches!(text(&state["Status"]).as_str(), "exited" | "dead");
            if is_over && (seen.len() > 1 || !waits) {
                let code = state["ExitCode"].as_i64().unwrap_or(0);
                let name = short(one);
                print(&format!("{name} ended with code {code}\n"))?;
                return Ok((one.service.clone(), code));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Nothing, where there has been no such moment.
pub fn moment_of(value: &Value) -> Result<String> {
    match value.as_str() {
        Some(text) if !text.starts_with("0001-") => crate::options::moment(text),
        _ => Ok(String::new()),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Without the project, which all have.
fn short(one: &Found) -> String {
    let named = format!("-{}-{}", one.service, one.number);
    match one.name.ends_with(&named) {
        true => named.trim_start_matches('-').to_owned(),
        false => one.name.clone(),
    }
}
