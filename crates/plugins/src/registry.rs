//! The plugins of this machine. One is activated when it is first asked for, and again when its
//! address changed or it was not reached.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;

use crate::client::{Line, Patience, Plugin};
use crate::discovery;
use crate::error::{Error, Result};

/// How long a plugin that did not answer in time is left out of what asks all plugins.
const ABSENT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
pub struct Config {
    pub sockets: PathBuf,
    /// Directories of files that say where a plugin is.
    pub specs: Vec<PathBuf>,
    /// How long an answer may take with which nothing changes.
    pub look: Duration,
    /// How long any other may take.
    pub change: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sockets: "/run/docker/plugins".into(),
            specs: vec![
                "/etc/docker/plugins".into(),
                "/usr/lib/docker/plugins".into(),
            ],
            look: Duration::from_secs(3),
            change: Duration::from_secs(120),
        }
    }
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Plugins {
    config: Arc<Config>,
    active: Arc<Mutex<HashMap<String, Arc<Plugin>>>>,
    absent: Arc<Absent>,
}

/// Who did not answer in time, and when.
#[derive(Debug, Default)]
pub(crate) struct Absent(Mutex<HashMap<String, Instant>>);

impl Absent {
    pub fn note(&self, name: &str) {
        self.0.lock().insert(name.to_owned(), Instant::now());
    }

    pub fn forget(&self, name: &str) {
        self.0.lock().remove(name);
    }

    fn has(&self, name: &str) -> bool {
        let since = self.0.lock().get(name).copied();
        since.is_some_and(|since| since.elapsed() < ABSENT)
    }
}

/// Those that offer something, and why others could not be asked.
#[derive(Debug, Default)]
pub struct Found {
    pub plugins: Vec<Arc<Plugin>>,
    pub failed: Vec<(String, Error)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    #[serde(default)]
    implements: Vec<String>,
}

impl Plugins {
    pub fn new(config: Config) -> Self {
        Self {
            config: Arc::new(config),
            active: Arc::default(),
            absent: Arc::default(),
        }
    }

    /// The plugin of that name, which offers `interface`.
    pub async fn get(
        &self,
        name: &str,
        interface: &'static str,
        patience: Patience,
    ) -> Result<Arc<Plugin>> {
        let mut plugin = self.activated(name, patience).await?;
        if !plugin.implements(interface) {
            // It may be another program by now.
            self.active.lock().remove(name);
            plugin = self.activated(name, patience).await?;
        }
        match plugin.implements(interface) {
            true => Ok(plugin),
            false => Err(Error::Lacks {
                name: name.to_owned(),
                interface,
                implements: plugin.offers().to_vec(),
            }),
        }
    }

    /// All that offer `interface`, asked at once. Who hung a moment ago is not asked.
    pub async fn all(&self, interface: &str) -> Found {
        let mut asked = JoinSet::new();
        let mut found = Found::default();
        for name in self.names().await {
            if self.absent.has(&name) {
                found.failed.push((name.clone(), Error::Away(name)));
                continue;
            }
            let this = self.clone();
            asked.spawn(async move {
                let plugin = this.activated(&name, Patience::Look).await;
                (name, plugin)
            });
        }
        while let Some(done) = asked.join_next().await {
            match done {
                Ok((_, Ok(plugin))) if plugin.implements(interface) => found.plugins.push(plugin),
                Ok((_, Ok(_))) => {}
                Ok((name, Err(error))) => found.failed.push((name, error)),
                Err(error) => tracing::error!(%error, "a plugin was not asked"),
            }
        }
        found.plugins.sort_by(|a, b| a.name().cmp(b.name()));
        found.failed.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    async fn names(&self) -> Vec<String> {
        let config = Arc::clone(&self.config);
        let look = move || discovery::names(&config.sockets, &config.specs);
        let names = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        names.into_iter().collect()
    }

    async fn activated(&self, name: &str, patience: Patience) -> Result<Arc<Plugin>> {
        let (config, wanted) = (Arc::clone(&self.config), name.to_owned());
        let look = move || discovery::find(&config.sockets, &config.specs, &wanted);
        let address = tokio::task::spawn_blocking(look)
            .await
            .map_err(|_| Error::NotFound(name.to_owned()))??;
        let known = self.active.lock().get(name).cloned();
        if let Some(known) = known.filter(|known| known.line().address == address) {
            return Ok(known);
        }
        let line = Line::open(name, address, &self.config, Arc::clone(&self.absent))?;
        let manifest: Manifest = line.call("Plugin.Activate", &json!({}), patience).await?;
        let plugin = Arc::new(Plugin::new(line, manifest.implements));
        let mut active = self.active.lock();
        active.insert(name.to_owned(), Arc::clone(&plugin));
        Ok(plugin)
    }
}
