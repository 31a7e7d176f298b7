//! What a container writes, sent on to a plugin.
//!
//! ```text
//!  the shim ─▶ container.log ─▶ this task ─▶ FIFO ─▶ plugin
//! ```
//!
//! The container never waits for its plugin, and `docker logs` reads the files. How far the plugin
//! has been told is written down beside them: after a daemon or a plugin was killed it is told the
//! rest, and the last two seconds again.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_plugins::{Error as PluginError, LogDriver, LogEntry, LogInfo, Patience, Plugins};
use parking_lot::Mutex;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::driver::Driver;
use super::{LogLine, LogQuery, Logs};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::files::{Files, blocking};
use crate::record::{Nanos, Record};

/// How long a plugin may take to open what it was told to read.
const OPENS: Duration = Duration::from_secs(5);
/// Between attempts to reach a plugin, and how long that grows.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);
/// How often it is written down how far the plugin was told.
const NOTED: Duration = Duration::from_secs(1);
/// How long the end of a run waits for its plugin to know of everything.
const DRAINS: Duration = Duration::from_secs(5);

/// Where a container's output goes besides its files.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    plugins: Plugins,
    driver: String,
    info: Arc<LogInfo>,
    log: PathBuf,
    fifo: PathBuf,
    told: PathBuf,
}

/// A plugin that listens.
pub(crate) struct Link {
    outlet: Outlet,
    driver: LogDriver,
    pipe: pipe::Sender,
}

/// The task that tells a plugin of one run.
pub(crate) struct Forward(JoinHandle<()>);

/// What the plugin was told last: everything before that moment, and so many lines of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Told {
    at: Nanos,
    lines: usize,
}

impl Outlet {
    /// `None` for a container whose log stays in files, or is not kept.
    pub fn of(record: &Record, files: &Files, plugins: &Plugins) -> Option<Self> {
        let Driver::Plugin(driver) = Driver::of(&record.host.log_config) else {
            return None;
        };
        let created = OffsetDateTime::from_unix_timestamp_nanos(record.created_at.into()).ok();
        let mut command = record.command.iter().cloned();
        let info = LogInfo {
            config: record.host.log_config.config.clone(),
            container_id: record.id.to_string(),
            container_name: format!("/{}", record.name),
            container_entrypoint: command.next().unwrap_or_default(),
            container_args: command.collect(),
            container_image_id: record.image_id.to_string(),
            container_image_name: record.config.image.clone(),
            container_created: created
                .and_then(|at| at.format(&Rfc3339).ok())
                .unwrap_or_default(),
            container_env: record.config.env.clone(),
            container_labels: record.config.labels.clone(),
            log_path: files.log().display().to_string(),
            daemon_name: "berth".to_owned(),
        };
        Some(Self {
            plugins: plugins.clone(),
            driver,
            info: Arc::new(info),
            log: files.log(),
            fifo: files.dir().join("log.fifo"),
            told: files.dir().join("log.told"),
        })
    }

    /// Has the plugin listen. Nothing stays where it does not.
    pub async fn open(&self) -> Result<Link> {
        let failed = |cause| Error::LogPlugin { cause };
        let driver = LogDriver::open(&self.plugins, &self.driver, Patience::Change).await;
        let driver = driver.map_err(failed)?;
        let fifo = self.fifo.clone();
        blocking(move || make_fifo(&fifo)).await?;
        if let Err(error) = driver.start(&self.fifo, &self.info).await {
            self.remove_fifo();
            return Err(failed(error));
        }
        match self.writer().await {
            Ok(pipe) => Ok(Link {
                outlet: self.clone(),
                driver,
                pipe,
            }),
            Err(_) => {
                let _it_failed_already = driver.stop(&self.fifo).await;
                self.remove_fifo();
                Err(failed(PluginError::Garbled {
                    name: self.driver.clone(),
                    method: "LogDriver.StartLogging".to_owned(),
                    what: "success, and does not read".to_owned(),
                }))
            }
        }
    }

    /// The end to write to, once somebody reads.
    async fn writer(&self) -> std::io::Result<pipe::Sender> {
        let until = Instant::now() + OPENS;
        loop {
            match pipe::OpenOptions::new().open_sender(&self.fifo) {
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                opened => return opened,
            }
        }
    }

    fn remove_fifo(&self) {
        let _gone = fs::remove_file(&self.fifo);
    }

    fn told(&self) -> Told {
        let text = fs::read(&self.told).ok();
        let told = text.and_then(|text| serde_json::from_slice(&text).ok());
        told.unwrap_or_default()
    }

    fn note(&self, told: Told) {
        let text = serde_json::to_vec(&told).unwrap_or_default();
        let unfinished = self.told.with_extension("new");
        let written =
            fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &self.told));
        if let Err(error) = written {
            tracing::warn!(path = ?self.told, %error, "how far a plugin was told is not noted");
        }
    }
}

impl Link {
    /// The plugin reads what is left, and ends.
    pub async fn close(self) {
        drop(self.pipe);
        if let Err(error) = self.driver.stop(&self.outlet.fifo).await {
            tracing::warn!(driver = self.outlet.driver, %error, "a log is not closed");
        }
        self.outlet.remove_fifo();
    }

    async fn tell(&mut self, line: &LogLine) -> std::io::Result<()> {
        let text = line.text.strip_suffix(b"\n");
        let entry = LogEntry {
            stderr: line.stderr,
            nanos: line.at,
            line: text.unwrap_or(&line.text),
            partial: text.is_none(),
        };
        let mut bytes = Vec::with_capacity(line.text.len() + 32);
        entry.encode(&mut bytes);
        self.pipe.write_all(&bytes).await
    }
}

impl Forward {
    /// Tells the plugin of what the container wrote and writes, to the end of its run. Without a link
    /// the plugin is still to be asked, for as long as that takes.
    pub fn begin(container: Arc<Container>, outlet: Outlet, link: Option<Link>) -> Self {
        Self(tokio::spawn(async move {
            if let Err(error) = forward(&container, &outlet, link).await {
                tracing::warn!(driver = outlet.driver, %error, "a log is not sent on");
            }
        }))
    }

    /// After the end of the run: waits, for a while, until the plugin knows of everything.
    pub async fn drained(mut self) {
        if tokio::time::timeout(DRAINS, &mut self.0).await.is_err() {
            // The next run, or the next daemon, tells it the rest.
            self.0.abort();
        }
    }
}

async fn forward(container: &Arc<Container>, outlet: &Outlet, link: Option<Link>) -> Result<()> {
    let mut link = link;
    let mut wait = AGAIN;
    loop {
        let told = outlet.told();
        let query = LogQuery {
            stdout: true,
            stderr: true,
            follow: true,
            since: Some(told.at),
            ..LogQuery::default()
        };
        let mut logs = Logs::open(&outlet.log, query, container.runs()).await?;
        let mut open = match link.take() {
            Some(link) => link,
            None => match outlet.open().await {
                Ok(link) => link,
                Err(error) => {
                    tracing::warn!(driver = outlet.driver, %error, "asked again later");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(AGAIN_AT_MOST);
                    continue;
                }
            },
        };
        match tell_and_note(&mut logs, &mut open, told).await? {
            Ended::Run => {
                open.close().await;
                return Ok(());
            }
            Ended::Plugin => {
                outlet.remove_fifo();
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

enum Ended {
    Run,
    /// It reads no more.
    Plugin,
}

async fn tell_and_note(logs: &mut Logs, link: &mut Link, from: Told) -> Result<Ended> {
    let (outlet, told) = (link.outlet.clone(), Mutex::new(from));
    // What is in the FIFO goes with a plugin that is killed: what was told just now may be lost.
    let (mut noted, mut before) = (from, from);
    let telling = tell_all(logs, link, from, &told);
    tokio::pin!(telling);
    loop {
        tokio::select! {
            ended = &mut telling => {
                if matches!(ended, Ok(Ended::Run)) {
                    outlet.note(*told.lock());
                }
                return ended;
            }
            () = tokio::time::sleep(NOTED) => {
                if noted != before {
                    outlet.note(before);
                    noted = before;
                }
                before = *told.lock();
            }
        }
    }
}

async fn tell_all(
    logs: &mut Logs,
    link: &mut Link,
    from: Told,
    told: &Mutex<Told>,
) -> Result<Ended> {
    let mut skip = from.lines;
    while let Some(line) = logs.next().await? {
        if line.at == from.at && skip > 0 {
            skip -= 1;
            continue;
        }
        if link.tell(&line).await.is_err() {
            return Ok(Ended::Plugin);
        }
        let mut told = told.lock();
        told.lines = match line.at == told.at {
            true => told.lines + 1,
            false => 1,
        };
        told.at = line.at;
    }
    Ok(Ended::Run)
}

fn make_fifo(path: &std::path::Path) -> Result<()> {
    let failed = |error| Error::file("create", path)(error);
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, path, FileType::Fifo, mode, 0).map_err(|errno| failed(errno.into()))
}
